"""What a batch asks of each kind of operator: tokens, query-key pairs, KV tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from triptych.policy.batch import Batch
from triptych.spec.model import Model

Floats: TypeAlias = NDArray[np.float64]

Over = Literal["tokens", "sampled", "prefill", "decode", "patches", "full", "window", "largest", "pooled"]
"""What an operator works on. tokens: those that pass the language model's layers, of one data rank;
sampled: sequences that get a token; prefill, decode: their attention; patches: of images; full, window:
the vision tower's two kinds of attention; largest: tokens of the data rank that has most; pooled: tokens
of all data ranks together."""


@dataclass(frozen=True, slots=True)
class Load:
    """The size of one operator's work; arrays broadcast against each other."""

    units: Floats
    """Tokens, sequences or patches."""
    pairs: Floats
    """Query-key pairs, where it is attention."""
    kv: Floats
    """Tokens read from the KV cache, where it is attention over it."""


NO_LOAD: dict[str, Floats] = {
    name: np.zeros(1)
    for name in (
        *("tokens", "sampled", "prefill_tokens", "prefill_pairs", "prefill_kv"),
        *("decodes", "decode_kv", "patches", "patch_pairs"),
    )
}
"""Arguments of `loads` for a batch with nothing in it."""


def loads(
    model: Model,
    *,
    tokens: Floats,
    sampled: Floats,
    prefill_tokens: Floats,
    prefill_pairs: Floats,
    prefill_kv: Floats,
    decodes: Floats,
    decode_kv: Floats,
    patches: Floats,
    patch_pairs: Floats,
) -> dict[Over, Load]:
    """The load of each kind of operator, of a batch that has its instance to itself.

    Where all layers have a sliding window, `decode_kv` is clipped at `decodes` x window: exact where all
    contexts are longer than the window or all are shorter, too much by at most the shorter ones' room
    otherwise. Where some have one, pairs and KV tokens are to be those of the mean over layers, as
    `prefill_sizes` and `mean_columns` give them.
    """
    none = np.zeros(1)
    text = model.text
    seen_kv = decode_kv
    if text.sliding_window is not None and text.windowed_layers is None:
        seen_kv = np.minimum(decode_kv, decodes * text.sliding_window)
    full = Load(patches, patch_pairs, none)
    near = window_patches(model)
    near_pairs = patch_pairs if near is None else np.minimum(patches * near, patch_pairs)
    return {
        "tokens": Load(tokens, none, none),
        "largest": Load(tokens, none, none),
        "pooled": Load(tokens, none, none),
        "sampled": Load(sampled, none, none),
        "prefill": Load(prefill_tokens, prefill_pairs, prefill_kv),
        "decode": Load(decodes, seen_kv, seen_kv),
        "patches": Load(patches, none, none),
        "full": full,
        "window": Load(patches, near_pairs, none),
    }


def window_patches(model: Model) -> int | None:
    """Patches of one attention window of the vision tower; None where it has no windows."""
    vision = model.vision
    if vision is None or vision.window is None:
        return None
    return (vision.window // vision.patch) ** 2


def prefill_sizes(batch: Batch, window: int | None = None, windowed: float = 1.0) -> tuple[int, float, float]:
    """Queries, query-key pairs and KV tokens read by the prefill attention of a batch, in the mean layer.

    A chunk of q tokens after h of history has q h + q (q + 1) / 2 causal pairs and reads h + q tokens
    of KV, which the batch has summed; with a sliding window, which the share `windowed` of the layers has,
    each query sees `window` keys at the most.
    """
    if window is None:
        return batch.prefill_tokens, batch.prefill_pairs, batch.prefill_kv
    pairs, kv = 0.0, 0.0
    for chunk in batch.chunks:
        q, h = chunk.tokens, chunk.history
        whole = min(q, max(window - h, 0))
        pairs += whole * (h + 0.5 * (whole + 1)) + (q - whole) * window
        kv += min(h + q, window + q - 1)
    if windowed < 1.0:
        pairs += (1.0 - windowed) * (batch.prefill_pairs - pairs)
        kv += (1.0 - windowed) * (batch.prefill_kv - kv)
    return batch.prefill_tokens, pairs, kv
