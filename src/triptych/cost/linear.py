"""Attention by the roofline: the slower of two lines, arithmetic over pairs and traffic over KV."""

from __future__ import annotations

from dataclasses import dataclass

from triptych.cost.loads import prefill_sizes
from triptych.policy.batch import Batch

UNBOUNDED = 1 << 60
"""Iterations for which a progression holds that never breaks."""


@dataclass(frozen=True, slots=True)
class AttentionTime:
    """Seconds of attention = fixed + max(pairs x per_pair, kv x per_kv + units x per_unit)."""

    fixed: float
    per_pair: float
    per_kv: float
    per_unit: float

    def __mul__(self, times: float) -> AttentionTime:
        return AttentionTime(
            self.fixed * times, self.per_pair * times, self.per_kv * times, self.per_unit * times
        )

    def seconds(self, units: float, pairs: float, kv: float) -> float:
        """Seconds for one load; nothing takes no time."""
        if not units:
            return 0.0
        return self.fixed + max(pairs * self.per_pair, kv * self.per_kv + units * self.per_unit)


NO_ATTENTION = AttentionTime(0.0, 0.0, 0.0, 0.0)


class TextAttention:
    """Seconds of the attention of all layers of the language model."""

    def run(self, batch: Batch) -> tuple[float, float, int]:
        """Seconds of a batch's first iteration, growth an iteration, iterations for which that holds."""
        raise NotImplementedError


class LinearAttention(TextAttention):
    """Attention whose time is a maximum of lines.

    Args:
        prefill: of all layers.
        decode: of all layers.
        window: tokens that a query sees at the most; None: all.
        windowed: share of the layers that have the window. Time is that of layers that all do the mean of
            the work, which is the same as long as one bound, arithmetic or memory, holds for all.
    """

    def __init__(
        self, prefill: AttentionTime, decode: AttentionTime, window: int | None, windowed: float = 1.0
    ) -> None:
        self._prefill = prefill
        self._decode = decode
        self._window = window
        self._windowed = windowed
        self._straight = window is None and decode.per_pair <= decode.per_kv
        """Whether memory bounds decode attention whatever the load, so that its line never breaks."""

    def run(self, batch: Batch) -> tuple[float, float, int]:
        decodes, seconds, growth, valid = batch.decodes, 0.0, 0.0, UNBOUNDED
        if decodes:
            if self._straight:
                line = self._decode
                growth = line.per_kv * decodes
                seconds = line.fixed + batch.decode_kv * line.per_kv + decodes * line.per_unit
            else:
                seconds, growth, valid = self._decode_line(batch)
        if batch.chunks:
            seconds += self._prefill_seconds(batch)
            if batch.repeat == 1 or self._window is not None:
                return seconds, 0.0, 1
            rise, holds = self._prefill_line(batch)
            growth += rise
            valid = min(valid, holds)
        return seconds, growth, valid

    def _decode_line(self, batch: Batch) -> tuple[float, float, int]:
        """Decode attention of all layers: seconds, growth an iteration, iterations until the line breaks."""
        decodes, line = batch.decodes, self._decode
        kv, more, valid = float(batch.decode_kv), float(decodes), UNBOUNDED
        if self._window is not None:
            room = decodes * self._window - batch.decode_kv
            if room <= 0:
                kv += self._windowed * room
                more *= 1.0 - self._windowed
            else:
                valid = room // decodes + 1
        memory = kv * line.per_kv + decodes * line.per_unit
        compute = kv * line.per_pair
        if memory < compute:
            return line.fixed + compute, line.per_pair * more, valid
        if more and line.per_pair > line.per_kv:
            gain = (line.per_pair - line.per_kv) * more
            valid = min(valid, int((memory - compute) / gain) + 1)
        return line.fixed + memory, line.per_kv * more, valid

    def _prefill_seconds(self, batch: Batch) -> float:
        if self._window is None:
            return self._prefill.seconds(batch.prefill_tokens, batch.prefill_pairs, batch.prefill_kv)
        return self._prefill.seconds(*prefill_sizes(batch, self._window, self._windowed))

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
