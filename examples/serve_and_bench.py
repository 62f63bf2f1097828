"""Predicts, serves and benches one deployment on this machine, and stops the server again.

python examples/serve_and_bench.py [DEPLOYMENT [WORKLOAD]]
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent
TRIPTYCH = str(Path(sys.executable).with_name("triptych"))
START_SECONDS = 120


def main() -> int:
    """Returns the exit code of the first command that fails, or 0."""
    deployment = sys.argv[1] if len(sys.argv) > 1 else str(EXAMPLES / "deployments/small-vl-cpu.yaml")
    workload = sys.argv[2] if len(sys.argv) > 2 else str(EXAMPLES / "workloads/small-vision.yaml")
    print("Predicted", flush=True)
    code = subprocess.call([TRIPTYCH, "simulate", deployment, workload])
    if code:
        return code
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen([TRIPTYCH, "serve", deployment, "--port", str(port), "--model-name", "demo"])
    try:
        if not wait_until_ready(server, port):
            return server.wait()
        print("\nMeasured", flush=True)
        url = f"http://127.0.0.1:{port}/v1"
        return subprocess.call(
            [TRIPTYCH, "bench", workload, "--url", url, "--warmup", "4", "--out", "runs/demo-measured"]
        )
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


def wait_until_ready(server: subprocess.Popen[bytes], port: int) -> bool:
    """Whether the server can be asked; False if it has given up."""
    deadline = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=1).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
        else:
            return True
    server.terminate()
    return False


if __name__ == "__main__":
    sys.exit(main())
