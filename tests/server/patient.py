"""`triptych serve` that puts up with any number of dead workers, and with nobody for long."""

from __future__ import annotations

import sys
from pathlib import Path

from triptych.engine.server.main import Settings, serve
from triptych.engine.server.supervisor import Patience

TIMEOUT = 6.0
"""Seconds that a request may take."""
MAX_BODY_MB = 4.0

if __name__ == "__main__":
    patience = Patience(deaths=1000, within=1.0, first_pause=0.05)
    settings = Settings(port=0, max_body_mb=MAX_BODY_MB, request_timeout=TIMEOUT, patience=patience)
    sys.exit(serve(Path(sys.argv[1]), settings=settings))
