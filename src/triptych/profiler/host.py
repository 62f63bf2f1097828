"""The host's time of an iteration, and the sampler's: the real engine, driven as its worker drives it.

`iteration` is the time from one turn of the engine to the next without the model and the sampler, and has two
parts: `scheduling` (messages read and decoded, the batch before ended, the next formed, tokens sent to the
front end) and `input building` for the forward pass. What the front end does (text, HTTP) is in another
process and not in it: of that, `text.py` measures making text of tokens.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
import zmq
from torch import Tensor

from triptych.engine.core import Engine
from triptych.engine.messages import Round, Sampling, Submit, encode, to_worker
from triptych.engine.runner import Work
from triptych.policy import SCHEDULERS, KVCache
from triptych.policy.request import DECODE, PREFILL
from triptych.profiler.marks import INPUT, CPUClock
from triptych.profiler.others import Lately
from triptych.profiler.sizes import HostCase, Limits
from triptych.profiler.subject import BLOCK, Subject
from triptych.profiler.waiting import held_up, waits

_PROMPT = 32
"""Tokens of the prompts whose decodes are measured."""
_COUNTED, _SETTLE, _SPARE = 4, 2, 3
"""Iterations of a turn that count, those before them, and those in which prompts come and requests end."""


@dataclass
class Iteration:
    """One turn of the loop."""

    prompt_tokens: int
    sampled: int
    scheduling: float
    building: float
    """Of the input."""
    sampler: float
    waited: float
    """For a processor, as a share of the iteration."""

    @property
    def host(self) -> float:
        """Seconds beside forward pass and sampler."""
        return self.scheduling + self.building


class TimedRunner:
    """The engine's runner, with the time of its forward passes noted.

    Args:
        subject: whose runner it is.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self.forward = self.building = 0.0
        """Seconds of the last pass, and of the input that was built for it."""
        self.prompt_tokens = self.sampled = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._subject.runner, name)

    def logits(self, work: list[Work]) -> Tensor:
        """As the runner's, noted."""
        marks = self._subject.marks
        begin = perf_counter()
        marks.begin()
        logits = self._subject.runner.logits(work)
        if logits.device.type == "cuda":
            torch.cuda.synchronize()
        pieces = marks.end("head")
        self.forward = perf_counter() - begin
        self.building = sum(piece.seconds for piece in pieces if piece.operator == INPUT)
        self.prompt_tokens = sum(item.tokens for item in work if item.tokens > 1)
        self.sampled = sum(item.sampled for item in work)
        return logits


class Loop:
    """The worker's loop around an engine, over sockets.

    Args:
        subject: what runs.
        limits: of batches.
        folder: for the sockets.
    """

    def __init__(self, subject: Subject, limits: Limits, folder: str) -> None:
        self._subject = subject
        self._runner = TimedRunner(subject)
        kv = KVCache(subject.runner.blocks, BLOCK, prefix_cache=True)
        scheduler = SCHEDULERS["unified"](
            kv, None, phases=[PREFILL, DECODE], max_batch=limits.batch, max_tokens=limits.tokens
        )
        runner: Any = self._runner
        self._engine = Engine(runner, scheduler)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._to, self._inbox = self._pair(f"ipc://{folder}/in")
        self._outbox, self._from = self._pair(f"ipc://{folder}/out")
        self._chance = random.Random(0)
        self._others = Lately()
        self._count = 0

    def _pair(self, address: str) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
        push, pull = self._context.socket(zmq.PUSH), self._context.socket(zmq.PULL)
        for socket in (push, pull):
            socket.set_hwm(0)
        pull.bind(address)
        push.connect(address)
        return push, pull

    def iterations(self, case: HostCase) -> list[Iteration]:
        """Those of a turn of the batch that count."""
        clock, self._subject.marks.clock = self._subject.marks.clock, CPUClock()
        self._subject.routing.limit = 0
        try:
            return self._counted(case)
        finally:
            self._subject.marks.clock = clock

    def _counted(self, case: HostCase) -> list[Iteration]:
        with self._subject.runner.range(case.name):
            if case.decodes:
                for _ in range(case.decodes):
                    self._submit(_PROMPT, _COUNTED + _SETTLE + _SPARE)
                steady = [
                    each for each in self._run() if each.sampled == case.decodes and not each.prompt_tokens
                ]
                return steady[_SETTLE : _SETTLE + _COUNTED]
            found: list[Iteration] = []
            for _ in range(_COUNTED):
                self._submit(case.prompt, 1)
                found += [each for each in self._run() if each.prompt_tokens == case.prompt]
            return found[1:]

    def _submit(self, prompt: int, output: int) -> None:
        tokens = [self._chance.randrange(self._subject.vocabulary) for _ in range(prompt)]
        sampling = Sampling(max_tokens=output, temperature=0.0, ignore_eos=True)
        self._count += 1
        self._to.send(encode(Submit(str(self._count), tokens, sampling)))

    def _run(self) -> Iterator[Iteration]:
        """Iterations until there is nothing to do."""
        arrived = self._inbox.poll(1000)
        while arrived or self._engine.busy:
            arrived = 0
            yield from self._turn()

    def _turn(self) -> Iterator[Iteration]:
        before, begin = waits(), perf_counter()
        messages = list(self._read())
        was_busy = self._engine.busy
        outputs = self._engine.turn(messages)
        if outputs or was_busy:
            self._outbox.send(encode(Round(outputs, self._engine.load())))
        turned = perf_counter()
        if self._engine.busy:
            self._engine.compute()
            end, runner = perf_counter(), self._runner
            yield Iteration(
                runner.prompt_tokens,
                runner.sampled,
                scheduling=turned - begin,
                building=runner.building,
                sampler=end - turned - runner.forward,
                waited=held_up(before, waits(), end - begin, self._others.cores()),
            )
        while self._from.poll(0):
            self._from.recv()

    def _read(self) -> Iterator[Any]:
        while self._inbox.poll(0):
            yield to_worker(self._inbox.recv())

    def close(self) -> None:
        """Closes the sockets."""
        self._context.destroy(linger=0)
