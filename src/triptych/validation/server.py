"""The server under validation: a child process that is ended whatever happens."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from triptych.spec.base import SpecError

COMMAND = ("-m", "triptych", "serve")
"""What Python is asked to run."""
_HOST = "127.0.0.1"
_BETWEEN_LOOKS = 0.1
_LOOK_SECONDS = 5.0
_STOP_SECONDS = 90.0
"""To end what is under way and to write the record."""
_MAX_QUEUE = 1_000_000
"""No request is refused for the queue's length: what is compared is how long it takes."""


class Interrupted(Exception):  # noqa: N818 - no error: someone wanted it
    """The caller's `progress` said to stop."""


@dataclass(frozen=True)
class Served:
    """A server that is ready."""

    url: str
    """Up to and with `/v1`."""
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def check(self) -> None:
        """Sees to it that it still runs.

        Raises:
            SpecError: it has ended.
        """
        if not self.alive:
            raise _ended(self.process, self.log)


@contextmanager
def served(
    deployment: Path,
    overrides: Sequence[str],
    *,
    record: Path,
    log: Path,
    go_on: Callable[[float], bool],
) -> Iterator[Served]:
    """`triptych serve` on a free port of this machine alone; ready when the block begins.

    Args:
        deployment: YAML file.
        overrides: of its fields.
        record: folder for the server's own run record, complete after the block.
        log: file for what the server says.
        go_on: called with the seconds since the start while it loads; False ends it.

    Raises:
        SpecError: it ends by itself before it is ready; what is said is the server's own last line.
        Interrupted: `go_on` said so.
    """
    with socket.create_server((_HOST, 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, *COMMAND, str(deployment), "--host", _HOST, "--port", str(port)]
    command += ["--record", str(record), "--max-queue", str(_MAX_QUEUE)]
    for override in overrides:
        command += ["--set", override]
    # Its clients are ours, and have no key.
    environment = {name: value for name, value in os.environ.items() if name != "TRIPTYCH_API_KEY"}
    with log.open("wb") as said:
        # In a session of its own: the Ctrl-C of a terminal must not reach it before its clients have gone.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
            env=environment,
        )
    try:
        server = Served(f"http://{_HOST}:{port}/v1", log, process)
        _wait_until_ready(server, f"http://{_HOST}:{port}/ready", go_on)
        yield server
    except KeyboardInterrupt:
        _kill(process)
        raise
    finally:
        _stop(process)


def _wait_until_ready(server: Served, url: str, go_on: Callable[[float], bool]) -> None:
    began = time.monotonic()
    while True:
        server.check()
        try:
            urllib.request.urlopen(url, timeout=_LOOK_SECONDS).close()
            return
        except (urllib.error.URLError, OSError):
            pass
        if not go_on(time.monotonic() - began):
            raise Interrupted
        time.sleep(_BETWEEN_LOOKS)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ends the server in order, and with force if that takes too long or is interrupted in turn."""
    try:
        process.terminate()
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    finally:
        _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The server and its worker, if any of them is left."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _ended(process: subprocess.Popen[bytes], log: Path) -> SpecError:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    last = next((line.removeprefix("triptych: ") for line in reversed(lines) if line), "it said nothing")
    if process.returncode == 2:  # wrong as declared, and the line is for people
        return SpecError("", last)
    return SpecError(
        "", f"the server ended with exit code {process.returncode}: {last}; all it said is in {log}"
    )
