"""The policies under a virtual clock, with predicted batch times."""

from triptych.simulation.api import simulate

__all__ = ["simulate"]
