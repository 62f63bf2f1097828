"""What a run looks like to people: terminal tables and a Perfetto trace."""

from triptych.report.perfetto import write_trace
from triptych.report.table import print_summary

__all__ = ["print_summary", "write_trace"]
