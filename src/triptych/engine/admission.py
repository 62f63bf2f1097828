"""What comes in: a message read as a request, and why some can never be served."""

from __future__ import annotations

import torch

from triptych.engine.loader import LoadedModel
from triptych.engine.messages import Submit, too_long
from triptych.engine.sequence import Sequence, block_hashes, image_spans, policy_images
from triptych.policy import Request, Scheduler
from triptych.policy.request import ENCODE, PREFILL


class Admission:
    """Of requests to one instance.

    Args:
        model: that would serve them.
        scheduler: that would queue them.
    """

    def __init__(self, model: LoadedModel, scheduler: Scheduler) -> None:
        self._model = model
        self._scheduler = scheduler
        self.max_context = min(scheduler.max_context, model.max_context)
        """Tokens of prompt and output that a request can have."""

    def sequence(self, submit: Submit) -> Sequence:
        """The request as the engine sees it.

        Raises:
            ValueError: it makes no sense.
        """
        if not submit.tokens:
            raise ValueError("the prompt is empty")
        if submit.sampling.max_tokens < 1:
            raise ValueError("max_tokens is less than 1")
        vocabulary = self._model.vocab_size
        if not 0 <= min(submit.tokens) <= max(submit.tokens) < vocabulary:
            raise ValueError(f"a token of the prompt is outside the model's vocabulary of {vocabulary}")
        biased = [token for token, _ in submit.sampling.logit_bias]
        if biased and not 0 <= min(biased) <= max(biased) < vocabulary:
            raise ValueError(f"a token of logit_bias is outside the model's vocabulary of {vocabulary}")
        spans = image_spans(submit.tokens, submit.images, self._model.image_token_id)
        kv = self._scheduler.kv
        hashes: tuple[int, ...] = ()
        if kv.prefix_cache:
            hashes = block_hashes(submit.tokens, submit.images, spans, kv.block_size)
        request = Request(
            0,
            len(submit.tokens),
            submit.sampling.max_tokens,
            policy_images(submit.images),
            hashes,
            phase=ENCODE if submit.images else PREFILL,
        )
        seed = submit.sampling.seed
        return Sequence(
            submit.id,
            request,
            list(submit.tokens),
            submit.sampling,
            submit.images,
            spans,
            generator=None if seed is None else torch.Generator().manual_seed(seed),
        )

    def refusal(self, request: Request) -> str | None:
        """Why a request can never be served here; None if it can."""
        if request.longest_context > self.max_context:
            return too_long(self.max_context, request.prompt_tokens, request.output_tokens)
        if request.images:
            embeddings = self._scheduler.embeddings
            if embeddings is None:
                return "the model takes no images"
            if not embeddings.fits(request):
                return f"{request.image_tokens} image tokens do not fit the embedding cache"
        return None
