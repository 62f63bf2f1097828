"""Measures operators on the device at hand, as the engine runs them: `triptych profile`."""

from triptych.profiler.api import Outcome, run_profile

__all__ = ["Outcome", "run_profile"]
