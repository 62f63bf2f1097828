"""The run record, which every producer fills, and the metrics computed from it, each defined once."""

from triptych.record.folder import read_run, read_summary, write_run
from triptych.record.logs import InstanceInfo, LaneLog, Spans, Transfers
from triptych.record.metrics import summarise
from triptych.record.run import STATUSES, Run
from triptych.record.summary import Summary

__all__ = [
    "STATUSES",
    "InstanceInfo",
    "LaneLog",
    "Run",
    "Spans",
    "Summary",
    "Transfers",
    "read_run",
    "read_summary",
    "summarise",
    "write_run",
]
