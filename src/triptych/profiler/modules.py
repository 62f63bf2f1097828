"""Which operator each module of a model is: where marks are set, and what for.

The names of modules are those that the families in transformers share; the names of operators are those of
`cost`. What is between two modules belongs to an operator as well: additions to the residual stream, rotary
positions, the product of a gate.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple, overload

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from triptych.engine.attention import Attention, Own, Pass, Piece, PieceByPiece, attend
from triptych.engine.definition import Scoring
from triptych.engine.kernels.bags import Bags
from triptych.engine.loader import LoadedModel
from triptych.profiler.marks import INPUT, Marks
from triptych.profiler.ranges import begin_range, end_range
from triptych.spec.model import Model

TEXT, VISION = "triptych_marked", "triptych_marked_vision"
"""Under which transformers knows attention with marks."""


class Rule(NamedTuple):
    """What a module's start and end mark; empty: nothing."""

    module: str
    """A pattern of its path."""
    start: str
    """Of the time before it."""
    end: str
    """Of its own time."""


_VISION_ATTENTION = "vision attention"
"""Over the whole image or within windows, as the block has it."""
_NORM = r"(\w*norm\w*|norm[12])"
_ATTENTION = r"(layers|h)\.\d+\.(self_attn|attention|attn)"
_MLP = r"(layers|h)\.\d+\.(mlp\.)?"
_EXPERTS = r"layers\.\d+\.(mlp|block_sparse_moe)"
_SHARED = r"layers\.\d+\.(mlp\.shared_experts?|shared_mlp)"
RULES: tuple[Rule, ...] = (
    # The vision tower.
    Rule(r"visual\.patch_embed", "", "patch embedding"),
    Rule(r"visual\.blocks\.0\.norm1", "vision positions", "vision norm"),
    Rule(rf"visual\.blocks\.\d+\.{_NORM}", "vision residual add", "vision norm"),
    Rule(r"visual\.blocks\.\d+\.attn\.qkv", "", "vision qkv"),
    Rule(r"visual\.blocks\.\d+\.attn\.proj", _VISION_ATTENTION, "vision attention output"),
    Rule(r"visual\.blocks\.\d+\.mlp\.(gate_proj|linear_fc1|fc1)", "", "vision mlp up"),
    Rule(r"visual\.blocks\.\d+\.mlp\.up_proj", "vision mlp activation", "vision mlp up"),
    Rule(r"visual\.blocks\.\d+\.mlp\.(down_proj|linear_fc2|fc2)", "vision mlp activation", "vision mlp down"),
    Rule(r"visual\.(merger|deepstack_merger_list\.\d+)", "vision residual add", ""),
    Rule(r"visual\.(merger|deepstack_merger_list\.\d+)\.(mlp\.0|linear_fc1)", "merger up", "merger up"),
    Rule(r"visual\.(merger|deepstack_merger_list\.\d+)\.(mlp\.2|linear_fc2)", "merger up", "merger down"),
    # The layers of the language model.
    Rule(r"(layers|h)\.0\.(self_attn_layer_norm|input_layernorm|ln_1)", "embedding", "norm"),
    Rule(rf"(layers|h)\.\d+\.({_NORM}|ln_[12])", "residual add", "norm"),
    Rule(rf"{_ATTENTION}\.([qkv]_proj|qkv_proj|query_key_value|c_attn)", "", "qkv"),
    Rule(rf"{_ATTENTION}\.(o_proj|out_proj|dense|c_proj)", "", "attention output"),
    Rule(rf"{_MLP}(gate_proj|gate_up_proj|fc1|c_fc|dense_h_to_4h)", "", "mlp up"),
    Rule(rf"{_MLP}up_proj", "mlp activation", "mlp up"),
    Rule(rf"{_MLP}(down_proj|fc2|c_proj|dense_4h_to_h)", "mlp activation", "mlp down"),
    Rule(rf"{_EXPERTS}\.(gate|router)", "", "router"),
    Rule(rf"{_EXPERTS}\.experts", "router", "experts"),
    Rule(rf"{_SHARED}\.(gate_proj|input_linear)", "experts", "shared expert up"),
    Rule(rf"{_SHARED}\.up_proj", "shared expert activation", "shared expert up"),
    Rule(rf"{_SHARED}\.(down_proj|output_linear)", "shared expert activation", "shared expert down"),
    Rule(r"layers\.\d+\.mlp\.shared_expert_gate", "", "shared expert gate"),
    # What a pass does once.
    Rule(r"embed_tokens|embed_in|wte", INPUT, "embedding"),
    Rule(r"project_in", "embedding", "embedding projection"),
    Rule(rf"(model|decoder|language_model|gpt_neox)\.{_NORM}|ln_f", "residual add", "final norm"),
    Rule(r"project_out", "", "head projection"),
    Rule(r"lm_head", "final norm", "head"),
)
"""The first whose pattern matches the end of a module's path counts."""


class Hooks:
    """What sets the marks in a model. A module with hooks takes the host longer, even if they do nothing."""

    def __init__(self) -> None:
        self._modules: list[nn.Module] = []
        self._own: set[int] = set()

    def add(self, module: nn.Module, handles: Sequence[RemovableHandle]) -> None:
        """Hooks of a module; those that it gets from others stay what they are."""
        self._modules.append(module)
        self._own.update(handle.id for handle in handles)

    @contextmanager
    def out(self) -> Iterator[None]:
        """Modules run without these hooks."""
        before = []
        for module in self._modules:
            for name in ("_forward_pre_hooks", "_forward_hooks"):
                hooks = module.__dict__[name]
                before.append((module, name, hooks))
                others = {number: hook for number, hook in hooks.items() if number not in self._own}
                module.__dict__[name] = OrderedDict(others)
        try:
            yield
        finally:
            for module, name, hooks in before:
                module.__dict__[name] = hooks


def instrument(model: LoadedModel, spec: Model, marks: Marks, *, ranges: bool = False) -> Hooks:
    """Sets marks in a model.

    Args:
        model: its modules get hooks, and another attention function.
        spec: its shape.
        marks: that the hooks set.
        ranges: whether modules stand in NVTX ranges too.

    Returns:
        The hooks that can be left out: all but the one that tells the input from the rest.
    """
    hooks = Hooks()
    for path, module in model.model.named_modules():
        rule = rule_of(path)
        if rule is None:
            continue
        handles = []
        if ranges:
            handles.append(module.register_forward_pre_hook(begin_range(rule.end or path)))
            handles.append(module.register_forward_hook(end_range))
        start = _vision_kind(path, spec) if rule.start == _VISION_ATTENTION else rule.start
        if start:
            handle = module.register_forward_pre_hook(_before(marks, start))
            handles += [] if start == INPUT else [handle]
        if rule.end:
            handles.append(module.register_forward_hook(_after(marks, rule.end)))
        hooks.add(module, handles)
    AttentionInterface.register(TEXT, _text_attention(marks))
    model.model.config.get_text_config()._attn_implementation = TEXT
    vision = getattr(model.model.config, "vision_config", None)
    if vision is not None:
        AttentionInterface.register(VISION, _vision_attention(marks))
        vision._attn_implementation = VISION
    return hooks


def rule_of(path: str) -> Rule | None:
    """The rule for the module at a path; None: it has no marks of its own."""
    for rule in RULES:
        if re.search(rf"(?:^|\.)(?:{rule.module})$", path):
            return rule
    return None


def _vision_kind(path: str, spec: Model) -> str:
    vision = spec.vision
    assert vision is not None
    number = re.search(r"blocks\.(\d+)\.", path)
    assert number is not None
    windowed = vision.window is not None and int(number[1]) not in vision.full_attention_blocks
    return "vision window attention" if windowed else "vision full attention"


def _before(marks: Marks, name: str) -> Any:
    def hook(module: nn.Module, inputs: Any) -> None:
        marks.mark(name)

    return hook


def _after(marks: Marks, name: str) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        marks.mark(name)

    return hook


def _text_attention(marks: Marks) -> Any:
    """The engine's, of which the part before the first piece writes KV."""

    def marked(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *,
        kv: Pass,
        **more: Any,
    ) -> tuple[Tensor, None]:
        if marks.are_few:
            return attend(module, query, key, value, attention_mask, kv=kv, **more)
        watched = replace(kv, attention=MarkedAttention(kv.attention, marks))
        return attend(module, query, key, value, attention_mask, kv=watched, **more)

    return marked


class MarkedAttention:
    """Attention of a pass, with a mark before it and behind it.

    Where all pieces go in one call, that of prompts and decodes together counts as that of prompts: operators
    are learned from passes that hold one kind alone.
    """

    def __init__(self, attention: Attention, marks: Marks) -> None:
        self.name = attention.name
        self.apart, self.columns = attention.apart, attention.columns
        self._attention = attention
        self._marks = marks

    def prepare(self, pieces: Sequence[Piece]) -> Any:
        """As of what is marked."""
        return self._attention.prepare(pieces)

    def __call__(
        self, query: Tensor, keys: Tensor, values: Tensor, kv: Pass, scoring: Scoring, own: Own | None = None
    ) -> Tensor:
        """As of what is marked."""
        if isinstance(self._attention, PieceByPiece):
            kv = replace(kv, pieces=MarkedPieces(kv.pieces, self._marks))
            return self._attention(query, keys, values, kv, scoring, own)
        self._marks.mark("rope and KV write")
        if isinstance(self._attention, Bags):
            return self._in_two(self._attention, query, keys, values, kv, scoring, own)
        out = self._attention(query, keys, values, kv, scoring, own)
        decodes = all(piece.tokens == 1 for piece in kv.pieces)
        self._marks.mark("decode attention" if decodes else "prefill attention")
        return out

    def _in_two(
        self,
        attention: Bags,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        kv: Pass,
        scoring: Scoring,
        own: Own | None,
    ) -> Tensor:
        """Decodes, which go in one call, and then prompts, each with a mark behind it."""
        heads, tokens, width = query.shape
        out = query.new_empty((tokens, heads, width))
        if kv.prepared.groups:
            attention.attend_singles(query, keys, values, kv, scoring, out)
            self._marks.mark("decode attention")
        if kv.prepared.prompts:
            attention.attend_prompts(query, keys, values, kv, scoring, own, out)
            self._marks.mark("prefill attention")
        return out


class MarkedPieces(Sequence[Piece]):
    """The pieces of a pass; whoever has gone through the prompts, or the decodes, passes a mark."""

    def __init__(self, pieces: Sequence[Piece], marks: Marks) -> None:
        self._pieces = pieces
        self._marks = marks

    @overload
    def __getitem__(self, index: int) -> Piece: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Piece]: ...
    def __getitem__(self, index: int | slice) -> Piece | Sequence[Piece]:
        return self._pieces[index]

    def __len__(self) -> int:
        return len(self._pieces)

    def __iter__(self) -> Iterator[Piece]:
        before = "rope and KV write"
        for piece in self._pieces:
            kind = "prefill attention" if piece.tokens > 1 else "decode attention"
            if kind != before:
                self._marks.mark(before)
                before = kind
            yield piece
        self._marks.mark(before)


def _vision_attention(marks: Marks) -> Any:
    def marked(*arguments: Any, **more: Any) -> Any:
        if marks.last == "vision qkv":
            marks.mark("vision rope")
        return sdpa_attention_forward(*arguments, **more)

    return marked
