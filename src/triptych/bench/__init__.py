"""The client side: drives any server with the OpenAI API. Needs the extra [bench]."""

from triptych.bench.api import bench
from triptych.bench.server import Server
from triptych.bench.sweep import Point, Sweep, sweep

__all__ = ["Point", "Server", "Sweep", "bench", "sweep"]
