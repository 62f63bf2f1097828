"""How hypothesis draws: the same examples in every run, so that what has passed passes again.

`pytest --hypothesis-profile random` draws new ones; what it finds is kept in `.hypothesis`, is tried first
the next time, and belongs in the test as an `@example`.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

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
