"""One forward pass over a batch: packed tokens in, a row of logits out for each sequence that gets one."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from triptych.engine.attention import Attention, KVPool, Pass, Piece
from triptych.engine.graphs import Capture, DecodeGraphs, Inputs
from triptych.engine.loader import LoadedModel
from triptych.engine.messages import ImageInput, Sampling
from triptych.engine.sequence import Sequence
from triptych.engine.varlen import Varlen, choose
from triptych.policy import Request

logger = logging.getLogger(__name__)


class Work(NamedTuple):
    """What a batch computes of one sequence."""

    sequence: Sequence
    history: int
    """Tokens of it in the cache."""
    tokens: int
    sampled: bool
    """Whether its next token is wanted."""


class Embedding(NamedTuple):
    """What the vision tower makes of an image, each of shape (tokens, hidden)."""

    tokens: Tensor
    deepstack: tuple[Tensor, ...]
    """For the first layers of the language model, where the model has them."""


class Runner:
    """A model with its KV pool.

    Args:
        model: what runs, loaded with paged attention.
        blocks: KV blocks.
        block_size: tokens in one.
        attention: of all passes; None: the best that the device has without a trial of its speed.
        kv: number format of the KV pool; None: the model's.
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        blocks: int,
        block_size: int,
        attention: Attention | None = None,
        kv: torch.dtype | None = None,
    ) -> None:
        self.model = model
        self.embeddings: dict[int, Embedding] = {}
        """By image content; whoever evicts removes."""
        self.blocks = blocks
        self._block_size = block_size
        weight: Tensor = next(model.model.parameters())
        self.device = weight.device
        self._dtype = weight.dtype  # wider than was declared where that is the faster: see `kernels`
        self.attention: Attention = attention or choose(
            kv_heads=model.kv_heads,
            head_dim=model.head_dim,
            block_size=block_size,
            dtype=model.dtype,
            device=self.device,
        )
        self.graphs: DecodeGraphs | None = None
        self.range: Callable[[str], AbstractContextManager[None]] = range_on(self.device)
        """Around the passes of a phase, by its name: what profilers show."""
        self._pool = KVPool(
            layers=model.layers,
            tokens=(blocks + 1) * block_size,  # the last page is nobody's: see `graphs.py`
            heads=model.kv_heads,
            head_dim=model.head_dim,
            dtype=kv or model.dtype,
            device=self.device,
            columns=self.attention.columns,
        )

    def warm_up(self) -> None:
        """Runs one prompt and one decode, so that the first request does not pay for what happens once."""
        tokens = min(64, self.blocks * self._block_size)
        request = Request(-1, tokens, 1)
        pages = list(range(-(-tokens // self._block_size)))
        sequence = Sequence("", request, [0] * tokens, Sampling(max_tokens=1), pages=pages)
        self.logits([Work(sequence, 0, tokens, True)])
        self.logits([Work(sequence, tokens - 1, 1, True)])

    @torch.inference_mode()
    def capture(self, most: int, capture: Capture) -> None:
        """From now on decodes run as captured graphs, where model and attention allow it.

        Args:
            most: sequences of the largest batch.
            capture: `graphs.CUDACapture` in use.
        """
        if not isinstance(self.attention, Varlen):
            logger.info("decodes run without graphs: attention goes %s", self.attention.name)
            return
        try:
            self.graphs = DecodeGraphs(
                lambda inputs: self._forward(inputs, None, {}),
                pool=self._pool,
                attention=self.attention,
                most=most,
                longest=min(self.model.max_context, self.blocks * self._block_size),
                page=self._block_size,
                axes=1 if self.model.image_token_id is None else 3,
                capture=capture,
            )
        except RuntimeError as error:  # experts in a format for which they wait for the device, for one
            logger.info("decodes run without graphs: %s", str(error).partition("\n")[0])

    @torch.inference_mode()
    def encode(self, images: Iterable[ImageInput]) -> None:
        """Runs the vision tower over images and keeps their embeddings."""
        images = list(images)
        with self.range("encode"):
            self._encode(images)

    def _encode(self, images: list[ImageInput]) -> None:
        frames = self.model.model.config.vision_config.temporal_patch_size
        pixels = torch.cat([patches(image, frames).to(self.device, self._dtype) for image in images])
        grids = torch.tensor([image.grid for image in images], device=self.device)
        found = self.model.model.get_image_features(pixels, image_grid_thw=grids, return_dict=True)
        layers = getattr(found, "deepstack_features", None) or ()
        for index, image in enumerate(images):
            # Copies: a split is a view, which would keep the whole batch alive.
            deepstack = tuple(layer[index].clone() for layer in layers)
            self.embeddings[image.content] = Embedding(found.pooler_output[index].clone(), deepstack)

    def positions(self, sequence: Sequence) -> tuple[Tensor, int]:
        """Rotary positions of a prompt with images (time, height, width), and the shift of what follows."""
        tokens = torch.tensor([sequence.tokens])
        kinds = torch.zeros_like(tokens, dtype=torch.int32)
        for first, last in sequence.spans:
            kinds[0, first:last] = 1
        grids = torch.tensor([image.grid for image in sequence.images])
        positions, shift = self.model.model.model.get_rope_index(tokens, kinds, image_grid_thw=grids)
        return positions[:, 0], int(shift)

    @torch.inference_mode()
    def move(self, moves: Mapping[int, int]) -> None:
        """Copies pages: to each key the content of its value, all at once."""
        if moves:
            self._pool.copy_pages(list(moves.values()), list(moves), self._block_size)

    @torch.inference_mode()
    def logits(self, work: list[Work]) -> Tensor:
        """Runs the language model.

        Returns:
            float32, shape (sequences of which a token is wanted, vocabulary), in the order of `work`.
        """
        with self.range("prompt" if any(item.tokens > 1 for item in work) else "token"):
            inputs, rows = self._inputs(work)
            if self.graphs is not None and self.graphs.takes(inputs) and not _shows_images(work):
                logits = self.graphs.run(inputs)
                return logits if len(rows) == len(work) else logits[rows]
            inputs = inputs.to(self.device)
            keep = torch.tensor(rows, dtype=torch.long, device=self.device)
            images = {} if self.model.image_token_id is None else self._with_images(inputs.ids, work)
            return self._forward(inputs, keep, images)

    def _inputs(self, work: list[Work]) -> tuple[Inputs, list[int]]:
        """A batch for the model, on the CPU, and the tokens of which logits are wanted."""
        tokens: list[int] = []
        rows: list[int] = []
        pieces: list[Piece] = []
        places: list[Tensor] = []
        for sequence, history, count, sampled in work:
            place = self._place(sequence, history + count)
            pieces.append(Piece(len(tokens), count, history, place))
            if isinstance(place, int):
                places.append(torch.arange(place + history, place + history + count))
            else:
                places.append(place[history:])
            tokens += sequence.tokens[history : history + count]
            if sampled:
                rows.append(len(tokens) - 1)
        if self.model.image_token_id is None:
            positions = torch.cat([torch.arange(w.history, w.history + w.tokens) for w in work]).unsqueeze(0)
        else:
            positions = torch.cat([_rotary(w) for w in work], dim=1).unsqueeze(1)
        attention = self.attention
        batch = Pass(self._pool, pieces, torch.cat(places), attention, attention.prepare(pieces))
        return Inputs(torch.tensor([tokens]), positions, batch), rows

    def _forward(self, inputs: Inputs, keep: Tensor | None, images: dict[str, Any]) -> Tensor:
        """Logits of the tokens to keep, or of all, in float32."""
        arguments: dict[str, Any] = {"position_ids": inputs.positions, "use_cache": False, "kv": inputs.kv}
        if self.model.image_token_id is None:
            kept = 0 if keep is None else keep  # 0: all, by the convention of transformers
            out = self.model.model(input_ids=inputs.ids, logits_to_keep=kept, **arguments)
            logits: Tensor = out.logits[0]
            return logits.float()
        if not images:
            images = {"inputs_embeds": self.model.model.get_input_embeddings()(inputs.ids)}
        hidden = self.model.model.model.language_model(**images, **arguments).last_hidden_state[0]
        logits = self.model.model.lm_head(hidden if keep is None else hidden[keep])
        return logits.float()

    def _place(self, sequence: Sequence, context: int) -> int | Tensor:
        """Where the sequence's tokens lie: the first place if they lie side by side, else all of them."""
        size = self._block_size
        pages = sequence.pages[: -(-context // size)]
        if all(after - page == 1 for page, after in pairwise(pages)):
            return pages[0] * size
        firsts = torch.tensor(pages).unsqueeze(1) * size
        return (firsts + torch.arange(size)).flatten()[:context]

    def _with_images(self, ids: Tensor, work: list[Work]) -> dict[str, Any]:
        """Input embeddings in which images stand at their placeholders, and what deeper layers add there."""
        inputs = self.model.model.get_input_embeddings()(ids)
        seen = torch.zeros(ids.shape, dtype=torch.bool, device=self.device)
        deepstack: list[tuple[Tensor, ...]] = []
        start = 0
        for sequence, history, count, _ in work:
            for image, (first, last) in zip(sequence.images, sequence.spans, strict=True):
                begin, end = max(first, history), min(last, history + count)
                if begin >= end:
                    continue
                embedding = self.embeddings[image.content]
                here = slice(start + begin - history, start + end - history)
                inputs[0, here] = embedding.tokens[begin - first : end - first].to(inputs.dtype)
                seen[0, here] = True
                deepstack.append(tuple(layer[begin - first : end - first] for layer in embedding.deepstack))
            start += count
        arguments: dict[str, Any] = {"inputs_embeds": inputs}
        if deepstack and deepstack[0]:
            layers = [torch.cat(parts) for parts in zip(*deepstack, strict=True)]
            arguments |= {"visual_pos_masks": seen, "deepstack_visual_embeds": layers}
        return arguments


def patches(image: ImageInput, frames: int) -> Tensor:
    """What the vision tower takes, shape (patches, channels * frames * pixels of a patch).

    A patch spans several frames, which are all alike in an image that stands still.
    """
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (image.mean, image.std))
    pixels = torch.frombuffer(bytearray(image.pixels), dtype=torch.uint8)
    pixels = pixels.view(math.prod(image.grid), len(image.mean), 1, -1)
    return ((pixels - mean) / std).expand(-1, -1, frames, -1).flatten(1)


def range_on(device: torch.device) -> Callable[[str], AbstractContextManager[None]]:
    """What makes ranges that profilers show: NVTX on CUDA, nothing elsewhere."""
    if device.type == "cuda":
        made: Callable[[str], AbstractContextManager[None]] = torch.cuda.nvtx.range
        return made
    return lambda name: nullcontext()


def _shows_images(work: list[Work]) -> bool:
    """Whether any piece holds an image's placeholder."""
    return any(
        first < history + count and history < last
        for sequence, history, count, _ in work
        for first, last in sequence.spans
    )


def _rotary(work: Work) -> Tensor:
    """Rotary positions of a piece, shape (3, tokens)."""
    sequence, history, count, _ = work
    known = sequence.positions
    if known is None:
        return torch.arange(history, history + count).expand(3, -1)
    parts = [known[:, history : history + count]]
    generated = history + count - max(history, known.shape[1])
    if generated > 0:
        first = history + count - generated + sequence.shift
        parts.append(torch.arange(first, first + generated).expand(3, -1))
    return torch.cat(parts, dim=1)
