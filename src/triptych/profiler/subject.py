"""A model as one device of the engine runs it: built, split, packed, and with marks in it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import torch
from torch import Tensor, nn

from triptych import catalog
from triptych.cost.operators import Formats, Operator
from triptych.cost.placement import operators
from triptych.engine.graphs import CUDACapture
from triptych.engine.kernels.fit import fit
from triptych.engine.loader import LoadedModel, load
from triptych.engine.messages import ImageInput, Sampling
from triptych.engine.runner import Runner, Work
from triptych.engine.sequence import Sequence
from triptych.policy import Request
from triptych.profiler.graphed import Passes, divided, hold_device, is_graph, marked
from triptych.profiler.marks import Clock, CPUClock, CUDAClock, Marks
from triptych.profiler.modules import Hooks, instrument
from triptych.profiler.routing import Routing
from triptych.profiler.shard import shard
from triptych.profiler.sizes import Case, ImageCase
from triptych.profiler.statistics import Piece
from triptych.spec.deployment import Parallelism, Precisions
from triptych.spec.model import Model

BLOCK = 16
"""Tokens of a KV block."""
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_FEWEST = 4
"""Layers that are built at the least, where there are as many: the weights of one are cold when its turn
comes again."""
_ENOUGH = 4e9
"""Bytes of weights beyond which no cache remembers any of them from one pass to the next."""
_SHARE = 0.35
"""Of the free memory, that the weights may take before they are split; KV takes up to half of the rest."""


@dataclass
class Subject:
    """What is measured.

    `layers` of the model's were built: all, unless they would not fit. All layers are alike.
    """

    spec: Model
    loaded: LoadedModel
    runner: Runner
    marks: Marks
    hooks: Hooks
    text: Passes
    routing: Routing
    layers: int
    tensor: int
    kernels: str
    """What was chosen for the CPU (`engine/kernels/choice.py`); empty on other devices."""
    costly: bool = False
    """Whether marks take time that a pass without them has not: on CUDA, where the host records them."""
    shares: dict[Case | ImageCase, list[Piece]] = field(default_factory=dict)
    """How the passes divide that are taken whole, found out once for each batch."""

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        weight: Tensor = next(self.loaded.model.parameters())
        return weight.device

    def passes(self, case: Case | ImageCase, *, all_marks: bool = False) -> Callable[[], list[Piece]]:
        """What runs one pass over a batch and gives its pieces.

        Args:
            case: the batch.
            all_marks: also where they take time, for a clock that tells kernels and not what is between.
        """
        if isinstance(case, ImageCase):
            images = [_image(self.spec, index, grid) for index, grid in enumerate(case.grids)]
            encode = partial(self._encode, images)
            return lambda: self._divided(case, encode, encode, all_marks)
        work, passes = self.work(case), self.text
        pieces, apart = partial(passes.pieces, work), partial(passes.apart, work)

        def run() -> list[Piece]:
            self.routing.limit = case.experts
            with self.runner.range(case.name):
                if case.experts and not case.chunks and self.largest_graph:
                    return apart()  # a graph sends tokens where it did when it was captured
                return self._divided(case, pieces, apart, all_marks)

        return run

    def _divided(
        self,
        case: Case | ImageCase,
        run: Callable[[], list[Piece]],
        apart: Callable[[], list[Piece]],
        all_marks: bool,
    ) -> list[Piece]:
        """The pieces of a pass, of which a graph, or all where marks are costly, is measured whole."""
        if all_marks or not self.costly:
            pieces = run()
            if not is_graph(pieces):
                return pieces
        else:
            with self.hooks.out(), self.marks.few():
                pieces = run()
        if case not in self.shares:
            self.shares[case] = apart() if is_graph(pieces) else run()
        return divided(pieces, self.shares[case])

    @property
    def largest_graph(self) -> int:
        """Sequences of the largest batch of decodes that is launched as a graph; 0: none is."""
        return self.runner.graphs.sizes[-1] if self.runner.graphs is not None else 0

    def work(self, case: Case) -> list[Work]:
        """A batch of random tokens, whose requests lie side by side in the KV pool."""
        chance = random.Random(0)
        work: list[Work] = []
        page = 0
        parts = [(tokens, history) for tokens, history in case.chunks]
        for tokens, history in parts + [(1, context - 1) for context in case.decodes]:
            context = tokens + history
            pages = list(range(page, page - (-context // BLOCK)))
            page += len(pages)
            # What is in the cache is not read again, and drawing a million tokens takes a second.
            prompt = [0] * history + [chance.randrange(self.vocabulary) for _ in range(tokens)]
            sequence = Sequence("", Request(0, context, 1), prompt, Sampling(max_tokens=1), pages=pages)
            work.append(Work(sequence, history, tokens, True))
        return work

    def touched(self, case: Case) -> float:
        """Experts of a layer to which a batch sends tokens, on average; 0 where the model has none."""
        if self.spec.text.experts is None:
            return 0.0
        with self.text.plain():
            self.routing.begin()
            self.passes(case)()
            return self.routing.end()

    @cached_property
    def operators(self) -> dict[str, Operator]:
        """Those of `cost` by name; of which device and format does not matter here."""
        parallel, formats = Parallelism(tensor=self.tensor), Formats.of(Precisions())
        found = operators(self.spec, catalog.device("CPU-XEON-4"), None, parallel, formats)
        return {operator.name: operator for operator in found}

    @property
    def activation_is_fused(self) -> bool:
        """Whether the function between the matrices of the plain MLP runs within the first product."""
        paths = self.loaded.model.named_modules()
        return any(path.endswith(".activation_fn") and isinstance(each, nn.Identity) for path, each in paths)

    @property
    def vocabulary(self) -> int:
        """Tokens that may be given: those of one device's share of the embedding, no placeholders."""
        placeholder = self.loaded.image_token_id
        return self.loaded.vocab_size if placeholder is None else min(self.loaded.vocab_size, placeholder)

    def _encode(self, images: list[ImageInput]) -> list[Piece]:
        with self.runner.range("images"):
            self.marks.begin()
            self.runner.encode(images)
            pieces = self.marks.end("merger down")
        self.runner.embeddings.clear()
        return pieces


def build(
    name: str,
    *,
    device: str,
    precision: str,
    tensor: int,
    kv_tokens: int,
    batch: int = 1,
    chunk: int | None = None,
) -> Subject:
    """Builds a model of random weights, whatever it is called by.

    Args:
        name: of the catalogue, or a `config.json`; `random:` before it changes nothing.
        device: as torch names it.
        precision: of weights, KV and activations.
        tensor: whose shard is kept; it divides all numbers of heads.
        kv_tokens: that the KV pool should hold; less where there is no room.
        batch: sequences of the largest batch of decodes: on CUDA it is captured as a graph, for the CPU
            kernels are chosen for it.
        chunk: tokens of the largest piece of a prompt; None: as many as the pool holds.

    Raises:
        SpecError: there is no such model.
    """
    name = name.removeprefix(catalog.RANDOM)
    spec = catalog.model(name)
    dtype = _DTYPES[precision]
    layers = _layers(spec, dtype, device)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "config.json"
        file.write_text(json.dumps(_shortened(dict(catalog.config(name)), layers)), encoding="utf-8")
        loaded = load(f"{catalog.RANDOM}{file}", dtype=dtype, device=device)
    if tensor > 1:
        loaded = shard(loaded, tensor)
    kv = 2 * loaded.layers * loaded.kv_heads * loaded.head_dim * dtype.itemsize
    blocks = min(kv_tokens, int(_free(device) / 2 / kv)) // BLOCK
    places = blocks * BLOCK
    fitted = fit(loaded, batch=batch, chunk=chunk or places, places=places) if device == "cpu" else None
    marks = Marks(_clock(device))
    hooks = instrument(loaded, spec, marks, ranges=device == "cuda")
    routing = Routing(loaded.model)
    runner = Runner(
        loaded,
        blocks=blocks,
        block_size=BLOCK,
        attention=None if fitted is None else fitted.attention,
        kv=None if fitted is None else fitted.kv,
    )
    runner.warm_up()
    if device == "cuda" and batch:
        runner.capture(min(batch, blocks), marked(CUDACapture(), marks))
    return Subject(
        spec,
        loaded,
        runner,
        marks,
        hooks,
        Passes(runner, marks, hold_device),
        routing,
        layers,
        tensor,
        "" if fitted is None else str(fitted.choice),
        costly=device == "cuda",
    )


def layers_that_fit(layers: int, layer_bytes: float, free: float) -> int:
    """Layers to build: all, or as many as fit, but no fewer than a few."""
    return min(layers, max(_FEWEST, int(min(free * _SHARE, _ENOUGH) / layer_bytes)))


def _layers(spec: Model, dtype: torch.dtype, device: str) -> int:
    text = spec.text
    width = text.heads * text.head_dim + 2 * text.kv_heads * text.head_dim + text.heads * text.head_dim
    inner = text.intermediate * (3 if text.gated_mlp else 2)
    if text.experts is not None:
        inner = text.experts.intermediate * 3 * text.experts.count
    # Packing on the CPU holds a second copy for a while, in float32 at the widest.
    copies = 1 if device != "cpu" else 1 + 4 / dtype.itemsize
    return layers_that_fit(
        text.layers, text.hidden * (width + inner) * dtype.itemsize * copies, _free(device)
    )


def _shortened(config: dict[str, object], layers: int) -> dict[str, object]:
    """A configuration with fewer layers of the language model."""
    for fields in (config, config.get("text_config")):
        if isinstance(fields, dict) and "num_hidden_layers" in fields:
            fields["num_hidden_layers"] = layers
            kinds = fields.get("layer_types")
            if isinstance(kinds, list):
                fields["layer_types"] = kinds[:layers]
    return config


def _free(device: str) -> float:
    if device == "cuda":
        return float(torch.cuda.mem_get_info()[0])
    return float(psutil.virtual_memory().available)


def _clock(device: str) -> Clock:
    return CUDAClock() if device == "cuda" else CPUClock()


def _image(spec: Model, content: int, grid: tuple[int, int]) -> ImageInput:
    vision = spec.vision
    assert vision is not None
    rows, columns = grid
    size = rows * columns * vision.channels * vision.patch**2
    channels = vision.channels
    return ImageInput(
        content=content,
        grid=(1, rows, columns),
        tokens=rows * columns // vision.merge**2,
        pixels=random.Random(content).randbytes(size),
        mean=(127.5,) * channels,
        std=(64.0,) * channels,
    )
