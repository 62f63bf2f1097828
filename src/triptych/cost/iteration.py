"""How long one iteration of an instance takes, and what it works: the simulator's hot path.

Whatever depends on a count alone (tokens, sampled sequences, patches) is looked up in a list that is filled
once; attention, which depends on KV, is a maximum of two lines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triptych.cost.collectives import Wires, exchanges
from triptych.cost.loads import NO_LOAD, Floats, Over, loads, prefill_sizes, window_patches
from triptych.cost.operators import Formats, Part
from triptych.cost.placement import operators, runs, stage_parts
from triptych.cost.roofline import NO_ATTENTION, AttentionTime, OperatorTimes, Roofline
from triptych.cost.work import Work
from triptych.policy.batch import Batch
from triptych.spec.deployment import Pool
from triptych.spec.device import Device, Node
from triptych.spec.model import Model

UNBOUNDED = 1 << 60
"""Iterations for which a progression holds that never breaks."""

_TABLE_LIMIT = 1 << 17
"""Counts beyond this are rare and worked out one by one."""


class IterationCost:
    """Seconds, FLOP and bytes of the iterations of one pool's instances.

    Args:
        model: what runs.
        device: on what.
        node: how its devices are connected; None: any two by `Device.link`.
        pool: parallelism and precision; must have passed `check_parallelism`.
        times: where operator times come from; the roofline of the device if not given.
        field: name of the pool, for errors.
        file: of the deployment, for errors.

    Raises:
        SpecError: the device has no FLOP/s for the pool's compute precision.
    """

    def __init__(
        self,
        model: Model,
        device: Device,
        node: Node | None,
        pool: Pool,
        *,
        times: OperatorTimes | None = None,
        field: str = "",
        file: str | Path | None = None,
    ) -> None:
        self._model = model
        self._parallel = parallel = pool.parallel
        self._overhead = device.iteration_overhead
        self._formats = formats = Formats.of(pool.precision)
        self._times = times or Roofline(device, field=field, file=file)
        self._operators = operators(model, device, node, parallel, formats)
        self._work = Work(model, device, parallel, formats, self._operators)
        self._sends = exchanges(Wires(device, node), parallel).stage_sends
        self._launch = device.launch_overhead
        self._window = model.text.sliding_window
        self._window_patches = window_patches(model)
        self._parts = stage_parts(model, parallel.pipeline)
        layers = model.text.layers
        self._layer_shares = [parts["layer"] / layers for parts in self._parts]

        self._prefill = self._attention("prefill") * layers
        self._decode = self._attention("decode") * layers
        self._straight = self._window is None and self._decode.per_pair <= self._decode.per_kv
        """Whether memory bounds decode attention whatever the load, so that its line never breaks."""
        self._full = self._attention("full")
        self._windowed = self._attention("window")

        self._stage_tokens = [_Table(self._stage_seconds(stage)) for stage in range(parallel.pipeline)]
        self._tokens = _Table(self._all_stages)
        self._sampled = _Table(lambda n: self._seconds("sampled", n, self._parts))
        self._patches = _Table(lambda n: self._seconds("patches", n, self._parts))
        self._own = _Table(lambda n: self._seconds("tokens", n, self._parts))
        self._largest = _Table(lambda n: self._seconds("largest", n, self._parts))
        self._pooled = _Table(lambda n: self._seconds("pooled", n, self._parts))
        # What `run` looks up at every call; the tables extend these lists in place.
        self._by_tokens, self._by_sampled = self._tokens.values, self._sampled.values
        # A precision that the device lacks must show now, not in the middle of a run.
        for table in (self._tokens, self._sampled, self._patches):
            table.at(0)

    # Seconds -----------------------------------------------------------------------------------------

    def run(self, batch: Batch) -> tuple[float, float, int]:
        """Seconds of a batch on an instance that does nothing else.

        Under data parallelism the other ranks are idle; under a pipeline it is the time through all stages.

        Returns:
            Seconds of the first iteration; seconds by which each further iteration is longer; number of
            iterations for which that holds exactly.
        """
        tokens = batch.prefill_tokens + batch.decodes + batch.padding
        try:
            seconds = self._by_tokens[tokens] + self._by_sampled[batch.sampled]
        except IndexError:
            seconds = self._tokens.at(tokens) + self._sampled.at(batch.sampled)
        decodes, growth, valid = batch.decodes, 0.0, UNBOUNDED
        if decodes:
            if self._straight:
                line = self._decode
                growth = line.per_kv * decodes
                seconds += line.fixed + batch.decode_kv * line.per_kv + decodes * line.per_unit
            else:
                attention, growth, valid = self._decode_line(batch)
                seconds += attention
        if batch.chunks:
            seconds += self._prefill_seconds(batch)
            if batch.repeat == 1 or self._window is not None:
                return seconds + (self._vision_seconds(batch) if batch.images else 0.0), 0.0, 1
            rise, holds = self._prefill_line(batch)
            growth += rise
            valid = min(valid, holds)
        if batch.images:
            return seconds + self._vision_seconds(batch), 0.0, 1
        return seconds, growth, valid

    def stages(self, batch: Batch) -> list[float]:
        """Seconds of a batch's first iteration in each pipeline stage; they add up to that of `run`."""
        tokens = batch.tokens
        attention = self._prefill_seconds(batch) + self._decode_line(batch)[0]
        seconds = [
            table.at(tokens) + share * attention
            for table, share in zip(self._stage_tokens, self._layer_shares, strict=True)
        ]
        seconds[0] += self._vision_seconds(batch)
        seconds[-1] += self._sampled.at(batch.sampled)
        return seconds

    def lockstep(self, batches: Sequence[Batch | None]) -> tuple[float, float, int]:
        """Seconds of an iteration in which data ranks of a mixture-of-experts model go step by step.

        The slowest rank sets the time of attention and dense parts, the experts work on all ranks' tokens
        together, and the rank with most tokens sets the time to exchange them.

        Args:
            batches: one for each data rank; None for a rank that has none and only lends its experts.

        Returns:
            As `run`.

        Raises:
            ValueError: all ranks are idle.
        """
        own, counts = [], []
        for batch in batches:
            if batch is not None:
                tokens, seconds, growth, valid = self._besides_tokens(batch)
                own.append((seconds + self._own.at(tokens), growth, valid))
                counts.append(tokens)
        slowest, growth, valid = _slowest(own)
        together = self._largest.at(max(counts)) + self._pooled.at(sum(counts))
        return self._overhead + slowest + together, growth, valid

    def _besides_tokens(self, batch: Batch) -> tuple[int, float, float, int]:
        """Tokens of a batch, and the time, growth and validity of all that does not depend on them alone."""
        seconds, growth, valid = self._decode_line(batch)
        tokens = batch.decodes + batch.padding
        if batch.chunks:
            tokens += batch.prefill_tokens
            seconds += self._prefill_seconds(batch)
            growth, valid = 0.0, 1
        if batch.images:
            seconds += self._vision_seconds(batch)
            growth, valid = 0.0, 1
        return tokens, seconds + self._sampled.at(batch.sampled), growth, valid

    def _decode_line(self, batch: Batch) -> tuple[float, float, int]:
        """Decode attention of all layers: seconds, growth an iteration, iterations until the line breaks."""
        decodes, kv, line = batch.decodes, batch.decode_kv, self._decode
        if not decodes:
            return 0.0, 0.0, UNBOUNDED
        valid = UNBOUNDED
        if self._window is not None:
            room = decodes * self._window - kv
            if room <= 0:
                kv += room
                return self._decode.seconds(decodes, kv, kv), 0.0, UNBOUNDED
            valid = room // decodes + 1
        memory = kv * line.per_kv + decodes * line.per_unit
        compute = kv * line.per_pair
        if memory < compute:
            return line.fixed + compute, line.per_pair * decodes, valid
        if line.per_pair > line.per_kv:
            gain = (line.per_pair - line.per_kv) * decodes
            valid = min(valid, int((memory - compute) / gain) + 1)
        return line.fixed + memory, line.per_kv * decodes, valid

    def _prefill_seconds(self, batch: Batch) -> float:
        if self._window is None:
            return self._prefill.seconds(batch.prefill_tokens, batch.prefill_pairs, batch.prefill_kv)
        return self._prefill.seconds(*prefill_sizes(batch, self._window))

    def _prefill_line(self, batch: Batch) -> tuple[float, int]:
        """Growth of prefill attention where each iteration computes the next chunk of one prompt.

        The history grows by the q tokens of a chunk, pairs therefore by q squared.

        Returns:
            Seconds by which each further iteration is longer, and the iterations until the line breaks.
        """
        attention, queries = self._prefill, batch.prefill_tokens
        compute = batch.prefill_pairs * attention.per_pair
        memory = batch.prefill_kv * attention.per_kv + queries * attention.per_unit
        by_compute, by_memory = queries * queries * attention.per_pair, queries * attention.per_kv
        ahead, rise, other = compute - memory, by_compute, by_memory
        if ahead < 0:
            ahead, rise, other = -ahead, by_memory, by_compute
        return rise, UNBOUNDED if rise >= other else int(ahead / (other - rise)) + 1

    def _vision_seconds(self, batch: Batch) -> float:
        """The whole vision tower over the images of a batch."""
        patches = pairs = 0
        for _, image in batch.images:
            patches += image.patches
            pairs += image.patches * image.patches
        seconds = self._patches.at(patches) + self._full.seconds(patches, pairs, 0)
        if self._window_patches is not None:
            near = min(patches * self._window_patches, pairs)
            seconds += self._windowed.seconds(patches, near, 0)
        return seconds

    # Tables ------------------------------------------------------------------------------------------

    def _attention(self, over: Over) -> AttentionTime:
        """One kind of attention, of a layer (text) or of all its blocks (vision)."""
        for operator in self._operators:
            if operator.over == over:
                return self._times.attention(operator) * operator.times
        return NO_ATTENTION

    def _seconds(self, over: Over, count: Floats, parts: Sequence[Mapping[Part, int]]) -> Floats:
        """Seconds of all operators over one kind of load, in these stages."""
        load = loads(self._model, **{**NO_LOAD, _INPUT[over]: count})[over]
        total = np.zeros_like(count)
        for operator in self._operators:
            times = runs(operator, parts) if operator.over == over else 0
            if times:
                total += times * self._times.seconds(operator, load)
        return total

    def _all_stages(self, count: Floats) -> Floats:
        return np.asarray(np.sum([table.evaluate(count) for table in self._stage_tokens], axis=0))

    def _stage_seconds(self, stage: int) -> Callable[[Floats], Floats]:
        """What depends on tokens alone in one stage, sending to the next and host overhead included."""
        overhead = self._overhead if stage == 0 else 0.0
        width = self._model.text.hidden * self._formats.activations
        parts = [self._parts[stage]]

        def seconds(count: Floats) -> Floats:
            kinds: tuple[Over, ...] = ("tokens", "largest", "pooled")
            total = overhead + np.sum([self._seconds(over, count, parts) for over in kinds], axis=0)
            if stage < len(self._sends):
                sent = self._sends[stage].seconds(count * width) + self._launch
                total = total + np.where(count > 0, sent, 0.0)
            return np.asarray(total)

        return seconds

    # Work --------------------------------------------------------------------------------------------

    def work(self, columns: Mapping[str, NDArray[Any]]) -> tuple[Floats, Floats]:
        """FLOP and bytes of rows of the batch log, all their iterations and all devices of the instance.

        FLOP are the model's: matrix products and attention of one unsharded model, padding left out. Bytes
        are those that cannot be avoided: weights once an iteration (of experts the share that is touched)
        and KV. A row of a data rank counts its share of the experts as if all ranks had as many tokens.

        Args:
            columns: of `BATCH_COLUMNS`, arrays of shape (rows,): iterations, prefill_tokens,
                prefill_pairs, prefill_kv, sampled, decodes, decode_kv, patches, patch_pairs.

        Returns:
            FLOP and bytes, float arrays of shape (rows,).
        """
        return self._work.rows(columns)


class _Table:
    """A function of a count as a list, longer whenever a larger count is asked for."""

    __slots__ = ("evaluate", "values")

    def __init__(self, evaluate: Callable[[Floats], Floats]) -> None:
        self.evaluate = evaluate
        self.values: list[float] = []
        """Those worked out so far."""

    def at(self, count: int) -> float:
        try:
            return self.values[count]
        except IndexError:
            return self._extend(count)

    def _extend(self, count: int) -> float:
        if count >= _TABLE_LIMIT:
            return float(self.evaluate(np.array([float(count)]))[0])
        known = len(self.values)
        end = min(_TABLE_LIMIT, max(256, 1 << count.bit_length()))
        self.values += self.evaluate(np.arange(known, end, dtype=np.float64)).tolist()
        return self.values[count]


def _slowest(lines: Sequence[tuple[float, float, int]]) -> tuple[float, float, int]:
    """The upper edge of several progressions, for as long as the highest now stays the highest."""
    first, growth, valid = max(lines)
    for other, other_growth, other_valid in lines:
        valid = min(valid, other_valid)
        if other_growth > growth:
            valid = min(valid, int((first - other) / (other_growth - growth)) + 1)
    return first, growth if valid > 1 else 0.0, valid


_INPUT: dict[Over, str] = {
    "tokens": "tokens",
    "largest": "tokens",
    "pooled": "tokens",
    "sampled": "sampled",
    "patches": "patches",
}
"""Which argument of `loads` sets a kind of load that is a count alone."""
