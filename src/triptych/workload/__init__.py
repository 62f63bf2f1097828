"""Requests and when they come: arrival processes, lengths, images, prefixes and trace readers."""

from triptych.workload.generate import generate
from triptych.workload.parquet import read_parquet, write_parquet
from triptych.workload.requests import Requests

__all__ = ["Requests", "generate", "read_parquet", "write_parquet"]
