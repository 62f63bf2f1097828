"""What all tests share: how hypothesis draws, and a machine that is the same everywhere.

Hypothesis draws the same examples in every run, so that what has passed passes again.

`pytest --hypothesis-profile random` draws new ones; what it finds is kept in `.hypothesis`, is tried first
the next time, and belongs in the test as an `@example`.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

from triptych import catalog
from triptych.catalog import here
from triptych.profiles import library

# A busy machine is slow: neither profile fails for that.
settings.register_profile(
    "ci",
    derandomize=True,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "random",
    derandomize=False,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ci")


def pytest_configure(config: pytest.Config) -> None:
    """Gives all tests, and what they start, a cache of their own, in which the CPU at hand is a known one.

    So nothing is measured, no result depends on the machine or on what its user has measured, and tables that
    one run has filled are there in the next.
    """
    cache = config.rootpath / ".pytest_cache" / "triptych"
    os.environ["XDG_CACHE_HOME"] = str(cache)
    os.environ[library.FOLDER] = str(cache / "profiles")
    known = catalog.device("CPU-XEON-4").model_copy(update={"name": here.CPU})
    here.keep(known, here.stored_path())
