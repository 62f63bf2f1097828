"""The processes that a benchmark sets against each other.

One that fails, or does not answer in a time that follows from its work, is told of, and the others go on.
They stay while there is memory for the next; else those that ran longest ago are ended, and started again
when it is their turn.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from threading import Timer
from types import FrameType, TracebackType
from typing import Any, Self

import psutil

from triptych.engine.threads import MEMORY

CONTESTANTS = Path(__file__).resolve().parent / "contestants"
OURS = "ours.py"
"""Gets a worker's settings of memory. Its threads wait as torch's do: there is no server beside it."""
_LAST_LINES = 8
"""Of what a contestant said before it died."""
_START_SECONDS = 900.0
"""To load a model; some convert and compile it first."""
_GRACE = 60.0
_SLOWEST = 20.0
"""Tokens/s, those of prompts counted too. Whoever is slower, beyond a grace in seconds, hangs: Hugging Face's
`generate` does several hundred with OPT-125M on two cores."""
_PAUSE = 0.3
"""Seconds after a run: threads that wait for more work spin for a while, and would disturb the next."""


_ENGINE_BYTES = 3e9
"""That an engine takes beside the model: its libraries and KV."""
_COPIES = 4
"""Copies of a checkpoint that it may hold while it loads: converted, and packed."""
_WARM_UP = 4
"""Prompts of the job that one does unmeasured after it was started."""


def end_on_signals() -> None:
    """Lets SIGTERM and SIGHUP end this process as Ctrl-C does: by way of all `finally`."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, end)


class ContestantError(Exception):
    """A contestant has died, hangs, or did not do what it was asked for. Its first line says it in short."""


class Contestant:
    """A process that answers jobs.

    Args:
        script: in `contestants/`.
        python: interpreter that runs it.
        arguments: of the script.
        threads: that it may compute with.

    Raises:
        ContestantError: it does not start, or is not ready in time.
    """

    def __init__(self, script: str, python: str, arguments: list[str], threads: int) -> None:
        self._limit: float | None = None
        """Seconds that it has not kept."""
        self._said = TemporaryFile("w+", errors="replace")  # noqa: SIM115 - `close` does
        try:
            self._process = subprocess.Popen(
                [python, str(CONTESTANTS / script), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                text=True,
                env={**(MEMORY if script == OURS else {}), **os.environ, "OMP_NUM_THREADS": str(threads)},
                start_new_session=True,  # so that it can be ended with all that it has started
            )
        except OSError as error:
            self._said.close()
            raise ContestantError(f"{python} cannot be started: {error.strerror}") from None
        try:
            with self._bounded(_START_SECONDS):
                if self._read() != "ready":
                    raise ContestantError("said something else than that it is ready")
        except BaseException:
            self.close()
            raise

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        """One run; the answer of `contestants/common.py`.

        Raises:
            ContestantError: there is none in time, or it is incomplete.
        """
        assert self._process.stdin is not None
        with self._bounded(limit(job)):
            try:
                print(json.dumps(job), file=self._process.stdin, flush=True)
            except OSError:
                raise ContestantError(self._last_words()) from None
            answer: dict[str, Any] = json.loads(self._read())
        if answer["tokens"] != [job["output"]] * len(job["prompts"]):
            raise ContestantError(f"gave other than {job['output']} tokens for a prompt")
        time.sleep(_PAUSE)
        return answer

    def close(self) -> None:
        """Ends the process, and all that it has started."""
        self._kill()
        self._process.communicate()
        self._said.close()

    @contextmanager
    def _bounded(self, seconds: float) -> Iterator[None]:
        """Ends the process if what is done meanwhile takes longer."""

        def end() -> None:
            self._limit = seconds
            self._kill()

        timer = Timer(seconds, end)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _kill(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise ContestantError(self._last_words())
        return line

    def _last_words(self) -> str:
        code = self._process.wait()
        how = f"ended with exit code {code}" if self._limit is None else f"no answer in {self._limit:.0f} s"
        self._said.seek(0)
        lines = [line.rstrip() for line in self._said if line.strip()]
        return "\n    ".join([how, *(["it said last:"] if lines else []), *lines[-_LAST_LINES:]])


def limit(job: dict[str, Any]) -> float:
    """Seconds that a job may take, which only who hangs needs."""
    tokens = sum(map(len, job["prompts"])) + job["output"] * len(job["prompts"])
    return float(_GRACE + max(job["arrivals"]) + tokens / _SLOWEST)


class Contest:
    """Those who are at it. Who fails once is out of it, which is told on standard error.

    They start when it is their turn.

    Args:
        model: checkpoint folder.
        dtype: bf16 or fp32.
        options: of the benchmark.
        entrants: name -> script and the interpreter that runs it.
        threads: that each may compute with.
        tokens: of KV that a job needs.
    """

    def __init__(
        self,
        model: Path,
        dtype: str,
        options: argparse.Namespace,
        entrants: dict[str, tuple[str, str]],
        threads: int,
        tokens: int,
    ) -> None:
        self.names = tuple(entrants)
        self._entrants, self._threads = entrants, threads
        self._seconds = dict.fromkeys(entrants, 0.0)
        self._needs = _ENGINE_BYTES + _COPIES * sum(file.stat().st_size for file in model.rglob("*"))
        self.failed: dict[str, str] = {}
        """Who is out of it, and why in short."""
        self._contestants: dict[str, Contestant] = {}
        """Who is started; who ran last stands last."""
        self._arguments = ["--model", str(model), "--dtype", dtype, "--tokens", str(tokens)]
        self._arguments += ["--chunk", str(options.chunk), "--device", options.device]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def seconds(self, name: str) -> float:
        """Of all runs of a contestant."""
        return self._seconds[name]

    def run(self, name: str, job: dict[str, Any]) -> dict[str, Any] | None:
        """A contestant's answer; None: it is out."""
        if name in self.failed:
            return None
        try:
            answer = self._started(name, job).run(job)
        except ContestantError as error:
            self._end(name)
            self._tell(name, error)
            return None
        self._contestants[name] = self._contestants.pop(name)
        self._seconds[name] += max(answer["last"])
        return answer

    def _started(self, name: str, job: dict[str, Any]) -> Contestant:
        """The contestant, for which those who ran longest ago are ended as long as memory is short."""
        if name not in self._contestants:
            while self._contestants and psutil.virtual_memory().available < self._needs:
                self._end(next(iter(self._contestants)))
            script, python = self._entrants[name]
            self._contestants[name] = Contestant(script, python, self._arguments, self._threads)
            prompts = job["prompts"][:_WARM_UP]
            self._contestants[name].run({**job, "prompts": prompts, "arrivals": [0.0] * len(prompts)})
        return self._contestants[name]

    def _end(self, name: str) -> None:
        contestant = self._contestants.pop(name, None)
        if contestant is not None:
            contestant.close()

    def _close(self) -> None:
        for name in list(self._contestants):
            self._end(name)

    def _tell(self, name: str, error: ContestantError) -> None:
        self.failed[name] = str(error).split("\n", 1)[0]
        print(f"engine: {name} is out of it, its figures are null: {error}", file=sys.stderr, flush=True)
