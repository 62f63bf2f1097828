"""The tables of the catalogue: every name and number is there, whole, on an ordinary terminal."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from triptych import catalog
from triptych.report.catalogue import print_devices, print_models

TABLES = [print_models, print_devices]


def printed(table: Callable[[Console], None], width: int) -> list[str]:
    file = io.StringIO()
    table(Console(file=file, width=width))
    return file.getvalue().splitlines()


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("width", [80, 120])
def test_nothing_is_cut_off(table: Callable[[Console], None], width: int) -> None:
    lines = printed(table, width)
    assert not any("…" in line for line in lines)
    assert [line.rstrip() for line in lines] == [line.rstrip() for line in printed(table, 200)]


def test_every_model_has_one_line() -> None:
    lines = printed(print_models, 80)
    assert [line.split()[0] for line in lines[1 : 1 + len(catalog.model_names())]] == list(
        catalog.model_names()
    )


def test_a_model_is_shown_in_full() -> None:
    line = next(line for line in printed(print_models, 80) if line.startswith("Qwen3-VL-30B-A3B"))
    assert " ".join(line.split()) == "Qwen3-VL-30B-A3B 31.1 G 3.35 G 48 96 KiB 8 of 128 539 M"


def test_every_device_and_node_has_one_line() -> None:
    first = [line.split()[0] for line in printed(print_devices, 80) if line.strip()]
    for name in (*catalog.device_names(), *catalog.node_names()):
        assert first.count(name) == 1


def test_a_device_is_shown_in_the_units_of_its_column() -> None:
    line = next(line for line in printed(print_devices, 80) if line.startswith("H100"))
    assert " ".join(line.split()) == "H100 989 1,979 79.6 3.35 NVLink 4 450 70-700 2.99"
