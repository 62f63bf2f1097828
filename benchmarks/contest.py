"""The processes that a benchmark sets against each other.

One that fails, or does not answer in a time that follows from its work, is told of, and the others go on.
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
from types import TracebackType
from typing import Any, Self

CONTESTANTS = Path(__file__).resolve().parent / "contestants"
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
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
                start_new_session=True,  # so that it can be ended with all that it has started
            )
        except OSError as error:
            self._said.close()
            raise ContestantError(f"{python} cannot be started: {error.strerror}") from None
        self.seconds = 0.0
        """Of all its runs."""
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
        self.seconds += max(answer["last"])
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

    Args:
        model: checkpoint folder.
        dtype: bf16 or fp32.
        options: of the benchmark.
        entrants: name -> script and the interpreter that runs it.
        threads: that each may compute with.
    """

    def __init__(
        self,
        model: Path,
        dtype: str,
        options: argparse.Namespace,
        entrants: dict[str, tuple[str, str]],
        threads: int,
    ) -> None:
        self.names = tuple(entrants)
        self.failed: dict[str, str] = {}
        """Who is out of it, and why in short."""
        self._contestants: dict[str, Contestant] = {}
        arguments = ["--model", str(model), "--dtype", dtype]
        arguments += ["--chunk", str(options.chunk), "--device", options.device]
        for name, (script, python) in entrants.items():
            try:
                self._contestants[name] = Contestant(script, python, arguments, threads)
            except ContestantError as error:
                self._tell(name, error)
            except BaseException:
                self._close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def seconds(self, name: str) -> float:
        """Of all runs of a contestant."""
        return self._contestants[name].seconds if name in self._contestants else 0.0

    def run(self, name: str, job: dict[str, Any]) -> dict[str, Any] | None:
        """A contestant's answer; None: it is out."""
        contestant = self._contestants.get(name)
        if contestant is None:
            return None
        try:
            return contestant.run(job)
        except ContestantError as error:
            contestant.close()
            del self._contestants[name]
            self._tell(name, error)
            return None

    def _close(self) -> None:
        for contestant in self._contestants.values():
            contestant.close()

    def _tell(self, name: str, error: ContestantError) -> None:
        self.failed[name] = str(error).split("\n", 1)[0]
        print(f"engine: {name} is out of it, its figures are null: {error}", file=sys.stderr, flush=True)
