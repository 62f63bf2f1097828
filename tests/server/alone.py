"""What the engine of a deployment answers to a prompt when it is alone with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from triptych.engine.build import build
from triptych.engine.images import load_image_reader
from triptych.engine.messages import Sampling, Submit, Tokens
from triptych.engine.server.prompts import Vocabulary, expand
from triptych.engine.server.text import Answer
from triptych.engine.tokenizer import load_tokenizer
from triptych.spec.deployment import Deployment


class Alone:
    """Greedy answers, one after the other, nothing of one kept for the next.

    Args:
        deployment: as it is served.
    """

    def __init__(self, deployment: Path) -> None:
        torch.set_num_threads(1)
        declared = Deployment.load(deployment, ["pools.all.prefix_cache=false"])
        self._engine = build(declared, deployment).engine
        self._tokenizer = load_tokenizer(declared.model)
        self._vocabulary = Vocabulary(self._tokenizer)
        self._reader = load_image_reader(declared.model)

    def completion(self, prompt: str, output: int) -> list[int]:
        """Tokens of the answer to a text."""
        tokens = self._vocabulary.encode(prompt, special=True)
        return self._answer(Submit("alone", tokens, _greedy(output)))

    def chat(self, question: str, files: Sequence[bytes], output: int) -> list[int]:
        """Tokens of the answer to images and a text behind them."""
        content: list[dict[str, Any]] = [{"type": "image"} for _ in files]
        content.append({"type": "text", "text": question})
        messages = [{"role": "user", "content": content if files else question}]
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        tokens = self._vocabulary.encode(str(text), special=False)
        if not files:
            return self._answer(Submit("alone", tokens, _greedy(output)))
        assert self._reader is not None
        images = [self._reader.read(file) for file in files]
        tokens = expand(tokens, images, self._reader.placeholder)
        return self._answer(Submit("alone", tokens, _greedy(output), images))

    def text(self, tokens: Sequence[int]) -> str:
        """What a client reads. Bytes that are no character read otherwise in a stream than all at once."""
        return Answer(self._vocabulary.decode).add(tokens, "length").text

    def spell(self, tokens: Sequence[int]) -> list[str]:
        """Each token as log-probabilities name it."""
        return [self._vocabulary.spell(token)[0] for token in tokens]

    def _answer(self, submit: Submit) -> list[int]:
        tokens: list[int] = []
        outputs = self._engine.turn([submit])
        while self._engine.busy or outputs:
            for output in outputs:
                assert isinstance(output, Tokens), output
                tokens += output.tokens
            self._engine.compute()
            outputs = self._engine.turn()
        return tokens


def _greedy(output: int) -> Sampling:
    return Sampling(max_tokens=output, temperature=0.0, ignore_eos=True)
