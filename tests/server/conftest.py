"""One server for all tests that do it no harm, and one each for the others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("transformers")

from .serving import ByteImages, Served, running


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with running(
        tmp_path_factory.mktemp("shared"), worker=("--context", "32768"), images=ByteImages()
    ) as served:
        yield served


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with running(tmp_path) as served:
        yield served
