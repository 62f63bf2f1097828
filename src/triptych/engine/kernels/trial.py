"""How long each candidate takes on the CPU at hand, over random numbers in the sizes of a model.

Every trial cycles through more bytes than a processor's caches usually hold, as a model does, unless the
model itself is smaller. Candidates take turns, and the best of each counts. Attention that is not that of the
definition is out, as is what raises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from time import perf_counter

import torch
from torch import Tensor

from triptych.engine.attention import KVPool, Pass, Piece
from triptych.engine.definition import Scoring, attend_by_definition
from triptych.engine.kernels.candidates import DECODES, FORMATS, attention, prompts
from triptych.engine.kernels.choice import Sizes, Timings
from triptych.engine.kernels.linear import PackedLinear

_COLD = 1 << 24
"""Numbers of weights, or of KV, that are cycled through."""
_ROUNDS, _MOST = 3, 30
"""Rounds of a race: at least, and at most while runs of a candidate differ."""
_SECONDS = 0.3
"""After which a race ends in any case, once it has had the least."""
_ALIKE = 1.2
"""Times the best of a candidate that its second best may take."""
_TOLERANCE = {"fp32": 1e-3, "bf16": 0.05, "fp16": 0.01}
"""Between attention over random keys and values of size 1, and the definition."""
_FAULTS = (RuntimeError, TypeError, ValueError, NotImplementedError)


class TorchTrial:
    """The trial of all candidates for one model.

    Args:
        sizes: of model and batches.
    """

    def __init__(self, sizes: Sizes) -> None:
        self._sizes = sizes
        self.steady = True
        """Whether every candidate took about as long again, in every race so far."""

    @torch.inference_mode()
    def products(self) -> Timings:
        """As `choice.Trial` says: the rows of a batch of decodes, and those of a chunk of a prompt."""
        sizes = self._sizes
        formats = [sizes.own, *(["fp32"] if sizes.wide_weights and sizes.own != "fp32" else [])]
        if not sizes.widths or len(formats) == 1:
            return {sizes.own: [1.0]}  # nothing to choose
        layers = self._layers()
        packed: dict[str, list[PackedLinear] | None] = {}
        for name in formats:
            try:
                packed[name] = [PackedLinear(layer.to(FORMATS[name])) for layer in layers]
            except _FAULTS:
                packed[name] = None
        races = []
        for rows in (sizes.batch, sizes.chunk):
            works = {}
            for name, stack in packed.items():
                if stack is not None:
                    works[name] = partial(_multiply, stack, rows, FORMATS[name])
            races.append(self._race(works))
        return _joined(formats, races)

    def _layers(self) -> list[torch.nn.Linear]:
        """Linear layers in the widths of the model, as many as are cold."""
        widths = [(min(one, 8192), min(other, 8192)) for one, other in self._sizes.widths]
        layers: list[torch.nn.Linear] = []
        held = 0
        for _ in range(self._sizes.layers):
            for one, other in widths:
                layer = torch.nn.Linear(one, other, bias=False, device="meta").to_empty(device="cpu")
                layer.weight.fill_(0.01)
                layers.append(layer)
                held += one * other
                if held >= _COLD:
                    return layers
        return layers

    @torch.inference_mode()
    def prompts(self, products: str) -> Timings:
        """As `choice.Trial` says: a chunk that begins a prompt, and one with as much before it."""
        sizes, kernels = self._sizes, prompts(products)
        races = []
        for context in (sizes.chunk, 2 * sizes.chunk):
            query, keys, values = (
                _noise(heads, tokens, sizes.head_dim).to(FORMATS[products])
                for heads, tokens in (
                    (sizes.heads, sizes.chunk),
                    (sizes.kv_heads, context),
                    (sizes.kv_heads, context),
                )
            )
            given = (query, keys.transpose(0, 1), values.transpose(0, 1), Scoring(sizes.head_dim**-0.5))
            expected = attend_by_definition(*given).float()
            works = {}
            for name, kernel in kernels.items():
                works_on = partial(kernel, *given)
                if _agrees(works_on, expected, {products}):
                    works[name] = works_on
            races.append(self._race(works))
        return _joined(list(kernels), races)

    @torch.inference_mode()
    def decodes(self, products: str) -> Timings:
        """As `choice.Trial` says: a batch, and a sequence alone."""
        sizes = self._sizes
        formats = [sizes.own, *(["fp32"] if sizes.wide_kv and sizes.own != "fp32" else [])]
        names = [f"{kernel} {kv}" for kv in formats for kernel in DECODES]
        races = []
        for batch in (sizes.batch, 1):
            works: dict[str, Callable[[], object]] = {}
            for name in names:
                kernel, _, kv = name.rpartition(" ")
                decode = _Decode(sizes, batch, kernel, kv, products)
                if _agrees(partial(decode.attend, 0), decode.expected(), {kv, products}):
                    works[name] = decode
            races.append(self._race(works))
        return _joined(names, races)

    def _race(self, works: Mapping[str, Callable[[], object]]) -> dict[str, float]:
        """Best seconds of each candidate that does not raise."""
        runs: dict[str, list[float]] = {}
        for name, work in works.items():
            try:
                work()
            except _FAULTS:
                continue
            runs[name] = []
        began = perf_counter()
        for number in range(_MOST):
            spent = perf_counter() - began
            if number >= _ROUNDS and (spent > _SECONDS or all(map(_steady, runs.values()))):
                break
            for name, seconds in runs.items():
                begin = perf_counter()
                works[name]()
                seconds.append(perf_counter() - begin)
        self.steady = self.steady and all(map(_steady, runs.values()))
        return {name: min(seconds) for name, seconds in runs.items()}


class _Decode:
    """A step of a batch through the attention of some layers."""

    def __init__(self, sizes: Sizes, batch: int, kernel: str, kv: str, products: str) -> None:
        self._attention = attention("flash", kernel)
        numbers = 2 * batch * sizes.context * sizes.kv_heads * sizes.head_dim
        layers = min(sizes.layers, -(-_COLD // numbers))
        self._pool = KVPool(
            layers=layers,
            tokens=batch * sizes.context,
            heads=sizes.kv_heads,
            head_dim=sizes.head_dim,
            dtype=FORMATS[kv],
            device="cpu",
            columns=self._attention.columns,
        )
        places = self._pool.keys.shape[1]
        for tensor in (self._pool.keys, self._pool.values):
            tensor.copy_(_noise(places, sizes.kv_heads, sizes.head_dim))
        self._query = _noise(sizes.heads, batch, sizes.head_dim).to(FORMATS[products])
        self._scoring = Scoring(sizes.head_dim**-0.5)
        pieces = [Piece(row, 1, sizes.context - 1, row * sizes.context) for row in range(batch)]
        prepared = self._attention.prepare(pieces)
        self._pass = Pass(self._pool, pieces, torch.empty(0), self._attention, prepared)

    def attend(self, layer: int) -> Tensor:
        """In one layer, shape (batch, heads, head_dim)."""
        keys, values = self._pool.keys[layer], self._pool.values[layer]
        return self._attention(self._query, keys, values, self._pass, self._scoring)

    def expected(self) -> Tensor:
        """What comes out of the first layer, by definition."""
        rows = []
        for piece in self._pass.pieces:
            place = piece.place
            assert isinstance(place, int)
            keys, values = (
                tensor[0, place : place + piece.history + 1].float()
                for tensor in (self._pool.keys, self._pool.values)
            )
            query = self._query[:, piece.first : piece.first + 1].float()
            rows.append(attend_by_definition(query, keys, values, self._scoring))
        return torch.cat(rows)

    def __call__(self) -> None:
        """In all layers."""
        for layer in range(len(self._pool.keys)):
            self.attend(layer)


def _multiply(stack: list[PackedLinear], rows: int, dtype: torch.dtype) -> None:
    for layer in stack:
        layer(torch.ones(rows, layer.in_features, dtype=dtype))


def _noise(*shape: int) -> Tensor:
    """Random numbers, a period of them again and again: drawing takes longer than what is measured."""
    count = 1
    for each in shape:
        count *= each
    period = torch.randn(min(count, 100_003), generator=torch.Generator().manual_seed(0))
    return period.repeat(-(-count // len(period)))[:count].view(shape)


def _agrees(work: Callable[[], Tensor], expected: Tensor, formats: set[str]) -> bool:
    """Whether what a candidate computes is right, for formats of which the coarsest counts."""
    try:
        worst = (work().float() - expected).abs().max().item()
    except _FAULTS:
        return False
    return worst < max(_TOLERANCE[each] for each in formats)


def _steady(seconds: list[float]) -> bool:
    """Whether the best two are alike."""
    best, second = sorted(seconds)[:2]
    return second < _ALIKE * best


def _joined(names: list[str], races: list[dict[str, float]]) -> Timings:
    """Times by size; None for who is missing in any race."""
    return {
        name: [race[name] for race in races] if all(name in race for race in races) else None
        for name in names
    }
