"""Validates in a process of its own, against the fake server: DEPLOYMENT WORKLOAD OUT."""

from __future__ import annotations

import sys
from pathlib import Path

from triptych.validation import server
from triptych.validation.console import validate_and_report

server.COMMAND = (str(Path(__file__).with_name("fake_serve.py")),)
deployment, workload, out = map(Path, sys.argv[1:])
sys.exit(validate_and_report(deployment, workload, [], out=out))
