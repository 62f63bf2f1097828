"""The engine: asks the scheduler for a batch, runs it on torch, and moves the requests on.

Its driver goes round and round:

    outputs = engine.turn(messages)     # ends the batch that was computed, begins the next
    ...send the outputs...
    engine.compute()                    # runs the model; nothing to do while `busy` is false

What comes while a batch is computed is seen when it ends. Early ends, by a stop token or an abort, come after
the batch has been completed, in the order in which the requests arrived: as cached blocks are released, so
will they be evicted. A batch lasts from one turn to the next, so that all of the time is some batch's. These
are the simulator's rules: given the same arrivals and the times measured here, it forms the same batches.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import process_time

from triptych.engine.admission import Admission
from triptych.engine.clock import TICK, Clock
from triptych.engine.log import Log, Unrecorded
from triptych.engine.messages import Abort, Failed, Finish, ImageInput, Load, Submit, TokenLogprob, Tokens
from triptych.engine.pages import Pages
from triptych.engine.runner import Runner, Work
from triptych.engine.sampler import Row, sample
from triptych.engine.sequence import Sequence
from triptych.policy import Batch, Request, Scheduler, Status

_STATUS = {"aborted": Status.ABORTED, "timed_out": Status.TIMED_OUT, "finished": Status.FINISHED}


class Engine:
    """One instance: a scheduler, a model with its KV pool, and the requests in them.

    Args:
        runner: the model; its KV pool has the scheduler's blocks.
        scheduler: forms the batches.
        log: keeps the run record; None: nothing is kept of what has ended.
        clock: times begin with it.
    """

    def __init__(
        self, runner: Runner, scheduler: Scheduler, *, log: Log | None = None, clock: Clock | None = None
    ) -> None:
        self.runner = runner
        self.scheduler = scheduler
        self.clock = clock or Clock()
        self.log: Log | Unrecorded = log or Unrecorded(scheduler)
        self.admission = Admission(runner.model, scheduler)
        self._pages = Pages(scheduler.kv)
        if scheduler.embeddings is not None:
            scheduler.embeddings.evicted = []
        self._sequences: dict[Request, Sequence] = {}
        self._requests: dict[str, Request] = {}
        self._batch: Batch | None = None
        self._work: list[Work] = []
        self._begun = 0.0
        """When the present batch was begun; of the last one, if there is none."""
        self._begun_cpu = 0.0
        self._sampled: list[tuple[Sequence, int, TokenLogprob | None]] = []
        """What the present batch gave."""
        self._preemptions = self._iterations = self._prompt_tokens = self._generated_tokens = 0
        self._seconds = [0.0, 0.0, 0.0]
        """Of iterations that encode, that prefill and do not encode, and that only decode."""

    @property
    def busy(self) -> bool:
        """Whether there is a batch to compute, or one that was computed and is to be ended."""
        return self._batch is not None

    @property
    def batch(self) -> Batch | None:
        """The batch to compute, or that was computed and is to be ended."""
        return self._batch

    def turn(self, messages: Iterable[Submit | Abort] = ()) -> list[Tokens | Failed]:
        """Takes in what has come, ends the computed batch and begins the next.

        Returns:
            New tokens, and requests that cannot be served.
        """
        now = self.clock.now()
        if self._batch is not None:
            now = max(now, self._begun + 2 * TICK)  # room for what came in the meantime
        outputs: list[Tokens | Failed] = []
        submits, aborts = _sort(messages)
        for submit in submits:
            failed = self._add(submit, now)
            if failed is not None:
                outputs.append(failed)
        for abort in aborts:
            self._give_up(abort, now)
        early: dict[Request, Status] = {}
        if self._batch is not None:
            ended, stopped = self._end(self._batch, now)
            outputs += ended
            early = dict.fromkeys(stopped, Status.FINISHED)
        for abort in aborts:
            request = self._requests.get(abort.id)
            if request is not None:
                early.setdefault(request, _STATUS[abort.status])
        for request in sorted(early, key=lambda request: request.id):
            self._abort(request, early[request], now)
        self._begin(now)
        return outputs

    def compute(self) -> None:
        """Runs the model on the batch that `turn` has begun."""
        batch = self._batch
        if batch is None:
            return
        if batch.images:
            images = [self._image(request, image.content) for request, image in batch.images]
            self.runner.encode(images)
        if not self._work:
            return
        logits = self.runner.logits(self._work)
        sampled = [work.sequence for work in self._work if work.sampled]
        if not sampled:
            return
        tokens, logprobs = sample(logits, [_row(sequence) for sequence in sampled])
        self._sampled = list(zip(sampled, tokens, logprobs, strict=True))
        for sequence, token, _ in self._sampled:
            sequence.tokens.append(token)

    def load(self) -> Load:
        """How busy the engine is."""
        scheduler = self.scheduler
        return Load(
            waiting=scheduler.queued,
            running=scheduler.seats,
            kv_used=scheduler.kv.used,
            kv_blocks=scheduler.kv.blocks,
            preemptions=self._preemptions,
            iterations=self._iterations,
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated_tokens,
            encode_seconds=self._seconds[0],
            prefill_seconds=self._seconds[1],
            decode_seconds=self._seconds[2],
            unencoded=len(scheduler.unencoded),
            encoding=0 if self._batch is None else len(self._batch.encoded),
            decoding=len(scheduler.decodes.members),
        )

    # A request's way ---------------------------------------------------------------------------------

    def _add(self, submit: Submit, now: float) -> Failed | None:
        """Queues a request, or says why it cannot be served."""
        arrival = self._moment(submit.sent, now)
        try:
            sequence = self.admission.sequence(submit)
        except ValueError as error:
            return Failed(submit.id, str(error), invalid=True)
        request = sequence.request
        request.id = self.log.arrived(request, arrival)
        refusal = self.admission.refusal(request)
        if submit.id in self._requests:
            refusal = f"a request with id {submit.id} is under way"
        if refusal is not None:
            request.status = Status.REJECTED
            self.log.refused(request, arrival)
            return Failed(submit.id, refusal, invalid=True)
        if submit.images:
            sequence.positions, sequence.shift = self.runner.positions(sequence)
        self._requests[submit.id] = request
        self._sequences[request] = sequence
        self.scheduler.add(request)
        return None

    def _give_up(self, abort: Abort, now: float) -> None:
        """Notes when a client gave up: the batch that runs may give its request tokens all the same."""
        request = self._requests.get(abort.id)
        if request is not None and abort.status != "finished":
            self.log.gave_up(request, _STATUS[abort.status], self._moment(abort.sent, now))

    def _moment(self, sent: int, now: float) -> float:
        """When a message was sent: within the batch at whose end it is seen, or now if there is none."""
        if self._batch is None:
            return now
        at = self.clock.at(sent) if sent else now
        return min(max(at, self._begun + TICK), now - TICK)

    def _begin(self, now: float) -> None:
        """Forms the next batch, and gives its requests their places."""
        scheduler = self.scheduler
        self._batch = batch = scheduler.schedule()
        self.log.formed(batch, now)
        self._begun, self._begun_cpu = now, process_time()
        self._work = []
        self._sampled = []
        for request in scheduler.preempted:
            self._pages.release(self._sequences[request])
        self._preemptions += len(scheduler.preempted)
        self._pages.settle()
        self._forget_embeddings()
        if batch is None:
            return
        for request, tokens, history, last in batch.chunks:
            self._work.append(Work(self._sequences[request], history, tokens, last))
        if batch.decodes:
            decodes = scheduler.decodes
            for request in decodes.members:
                self._work.append(Work(self._sequences[request], decodes.context(request), 1, True))
        for sequence, history, tokens, _ in self._work:
            self._pages.bind(sequence, history, tokens)
        self.runner.move(self._pages.moves())

    def _end(self, batch: Batch, now: float) -> tuple[list[Tokens], list[Request]]:
        """Completes the batch; returns what came of it, and the requests that a stop token ends."""
        prefilled, finished = self.scheduler.complete(batch)
        seconds = now - self._begun
        self.log.ran(
            batch,
            seconds=seconds,
            cpu_seconds=process_time() - self._begun_cpu,
            start=self._begun,
            now=now,
            prefilled=prefilled,
            finished=finished,
        )
        self._batch = None
        self._iterations += 1
        self._prompt_tokens += batch.prefill_tokens
        self._generated_tokens += len(self._sampled)
        self._seconds[0 if batch.images else 1 if batch.chunks else 2] += seconds
        outputs: list[Tokens] = []
        stopped: list[Request] = []
        for sequence, token, logprob in self._sampled:
            finish: Finish | None = "stop" if self._stops(sequence, token) else None
            if sequence.request.status.ended:
                finish = finish or "length"
                self._drop(sequence)
            elif finish is not None:
                stopped.append(sequence.request)
            outputs.append(
                Tokens(
                    sequence.id,
                    [token],
                    finish,
                    None if logprob is None else [logprob],
                    sequence.request.cached_tokens,
                )
            )
        return outputs, stopped

    def _abort(self, request: Request, status: Status, now: float) -> None:
        self.log.abort(request, status, now)
        self._drop(self._sequences[request])

    def _drop(self, sequence: Sequence) -> None:
        """Forgets a request that has ended."""
        self._pages.release(sequence)
        del self._sequences[sequence.request]
        del self._requests[sequence.id]

    def _stops(self, sequence: Sequence, token: int) -> bool:
        sampling = sequence.sampling
        if token in sampling.stop_token_ids:
            return True
        return not sampling.ignore_eos and token in self.runner.model.eos_token_ids

    def _image(self, request: Request, content: int) -> ImageInput:
        return next(image for image in self._sequences[request].images if image.content == content)

    def _forget_embeddings(self) -> None:
        embeddings = self.scheduler.embeddings
        if embeddings is not None and embeddings.evicted:
            for content in embeddings.evicted:
                self.runner.embeddings.pop(content, None)
            embeddings.evicted.clear()


def _sort(messages: Iterable[Submit | Abort]) -> tuple[Iterable[Submit], list[Abort]]:
    """New requests, and aborts of older ones; a request that is aborted before it was seen never was."""
    submits: dict[str, Submit] = {}
    aborts: list[Abort] = []
    for message in messages:
        if isinstance(message, Submit):
            submits[message.id] = message
        elif submits.pop(message.id, None) is None:
            aborts.append(message)
    return submits.values(), aborts


def _row(sequence: Sequence) -> Row:
    return Row(sequence.sampling, sequence.generator, sequence.tokens, sequence.request.prompt_tokens)
