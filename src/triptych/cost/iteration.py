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

from triptych.cost.breakdown import Breakdown
from triptych.cost.collectives import Wires, exchanges
from triptych.cost.linear import NO_ATTENTION, AttentionTime, LinearAttention, TextAttention
from triptych.cost.loads import NO_LOAD, Floats, Load, Over, loads, window_patches
from triptych.cost.operators import Formats, Operator, Part
from triptych.cost.placement import operators, runs, stage_parts
from triptych.cost.roofline import OperatorTimes, Roofline
from triptych.cost.work import Work
from triptych.policy.batch import Batch
from triptych.spec.calibration import Calibration, Factors
from triptych.spec.deployment import Pool
from triptych.spec.device import Device, Node
from triptych.spec.model import Model

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
        calibration: what a measured run taught of host time and of efficiencies.
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
        calibration: Calibration | None = None,
        field: str = "",
        file: str | Path | None = None,
    ) -> None:
        self._of = (model, device, node, pool)
        self._model = model
        self._parallel = parallel = pool.parallel
        self._formats = formats = Formats.of(pool.precision)
        self._times = times or Roofline(device, field=field, file=file)
        host = calibration or self._times.host()
        self._overhead = device.iteration_overhead if host is None else host.iteration
        self._sequence, self._image = (host.sequence, host.image) if host is not None else (0.0, 0.0)
        self._factors = calibration.factors if calibration is not None else Factors()
        self._operators = operators(model, device, node, parallel, formats)
        self._work = Work(model, device, parallel, formats, self._operators)
        self._sends = exchanges(Wires(device, node), parallel).stage_sends
        self._launch = device.launch_overhead
        self._window_patches = window_patches(model)
        self._image_attention = _Table(self._attention_of_image) if self._times.knows_images() else None
        """Where it was measured, over the patches of one image."""
        self._parts = stage_parts(model, parallel.pipeline)
        layers = model.text.layers
        self._layer_shares = [parts["layer"] / layers for parts in self._parts]

        self._text = self._text_attention(layers)
        self._full = self._attention("full")
        self._windowed = self._attention("window")

        self._stage_tokens = [_Table(self._stage_seconds(stage)) for stage in range(parallel.pipeline)]
        self._tokens = _Table(self._all_stages)
        self._sampled = _Table(self._head_seconds)
        self._patches = _Table(lambda n: self._seconds("patches", n, self._parts))
        self._own = _Table(lambda n: self._seconds("tokens", n, self._parts))
        self._largest = _Table(lambda n: self._seconds("largest", n, self._parts))
        self._pooled = _Table(lambda n: self._seconds("pooled", n, self._parts))
        # What `run` looks up at every call; the tables extend these lists in place.
        self._by_tokens, self._by_sampled = self._tokens.values, self._sampled.values
        # A precision that the device lacks must show now, not in the middle of a run.
        for table in (self._tokens, self._sampled, self._patches):
            table.at(0)

    @property
    def measured(self) -> bool:
        """Whether any operator's time rests on measurements."""
        return not isinstance(self._times, Roofline)

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
        attention, growth, valid = self._text.run(batch)
        seconds += attention
        if batch.images:
            return seconds + self._vision_seconds(batch), 0.0, 1
        return seconds, growth, valid

    def stages(self, batch: Batch) -> list[float]:
        """Seconds of a batch's first iteration in each pipeline stage; they add up to that of `run`."""
        tokens = batch.tokens
        attention, _, _ = self._text.run(batch)
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
        seconds, growth, valid = self._text.run(batch)
        if batch.images:
            seconds += self._vision_seconds(batch)
        if batch.chunks or batch.images:
            growth, valid = 0.0, 1
        return batch.tokens, seconds + self._sampled.at(batch.sampled), growth, valid

    def _vision_seconds(self, batch: Batch) -> float:
        """The whole vision tower over the images of a batch."""
        patches = pairs = 0
        measured = 0.0
        for _, image in batch.images:
            patches += image.patches
            pairs += image.patches * image.patches
            if self._image_attention is not None:
                measured += self._image_attention.at(image.patches)
        if self._image_attention is not None:
            return self._patches.at(patches) + measured + len(batch.images) * self._image
        seconds = self._patches.at(patches) + self._full.seconds(patches, pairs, 0)
        seconds += len(batch.images) * self._image
        if self._window_patches is not None:
            near = min(patches * self._window_patches, pairs)
            seconds += self._windowed.seconds(patches, near, 0)
        return seconds

    def _attention_of_image(self, patches: Floats) -> Floats:
        """Attention of all blocks of the vision tower over one image."""
        near = patches * patches
        if self._window_patches is not None:
            near = np.minimum(patches * self._window_patches, near)
        total = np.zeros_like(patches)
        for operator in self._operators:
            if operator.over in ("full", "window"):
                pairs = near if operator.over == "window" else patches * patches
                load = Load(patches, pairs, np.zeros(1))
                total += operator.times * self._factor(operator) * self._times.seconds(operator, load)
        return total

    # Tables ------------------------------------------------------------------------------------------

    def _text_attention(self, layers: int) -> TextAttention:
        measured = self._times.table(layers * self._factors.attention)
        if measured is not None:
            return measured
        prefill, decode = self._attention("prefill") * layers, self._attention("decode") * layers
        text = self._model.text
        return LinearAttention(prefill, decode, text.sliding_window, text.windowed_share)

    def _attention(self, over: Over) -> AttentionTime:
        """One kind of attention, of a layer (text) or of all its blocks (vision)."""
        for operator in self._operators:
            if operator.over == over:
                return self._times.attention(operator) * (operator.times * self._factors.attention)
        return NO_ATTENTION

    def _seconds(self, over: Over, count: Floats, parts: Sequence[Mapping[Part, int]]) -> Floats:
        """Seconds of all operators over one kind of load, in these stages."""
        load = loads(self._model, **{**NO_LOAD, _INPUT[over]: count})[over]
        total = np.zeros_like(count)
        for operator in self._operators:
            times = runs(operator, parts) if operator.over == over else 0
            if times:
                total += times * self._factor(operator) * self._times.seconds(operator, load)
        return total

    def _factor(self, operator: Operator) -> float:
        return float(getattr(self._factors, operator.kind))

    def _head_seconds(self, count: Floats) -> Floats:
        """What depends on the sequences that get a token, and the host's time for each."""
        return self._seconds("sampled", count, self._parts) + count * self._sequence

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

    def breakdown(self, columns: Mapping[str, NDArray[Any]]) -> tuple[dict[str, Floats], Floats]:
        """Predicted seconds of rows of the batch log, host time left out, in parts.

        Args:
            columns: as `work` takes, and `prefilling`.

        Returns:
            Seconds of all iterations of each row, arrays of shape (rows,), by class of operator: matmul,
            attention, memory, network; and an array of shape (rows, 3): seconds that rest on a measurement at
            that size, on measurements around it, and on the roofline.
        """
        return self._breakdown().rows(columns)

    def deviation(self, columns: Mapping[str, NDArray[Any]]) -> float:
        """Standard deviation of the logarithm of the predicted seconds of rows; columns as of `breakdown`."""
        return self._breakdown().deviation(columns)

    def _breakdown(self) -> Breakdown:
        return Breakdown(
            self._model,
            self._operators,
            self._parts,
            self._times,
            self._text,
            self._factors,
            self._parallel.data,
        )

    def scaled(self, factor: float) -> IterationCost:
        """The same, with every iteration so many times as long."""
        factors = Factors(**{kind: factor * share for kind, share in self._factors.model_dump().items()})
        host = Calibration(
            iteration=factor * self._overhead,
            sequence=factor * self._sequence,
            image=factor * self._image,
            factors=factors,
        )
        model, device, node, pool = self._of
        return IterationCost(model, device, node, pool, times=self._times, calibration=host)


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
