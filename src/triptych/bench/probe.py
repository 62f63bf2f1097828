"""What has to be known of a server before it is driven: its model, what it takes, how it counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf

import numpy as np

from triptych.bench.answer import Answer
from triptych.bench.bodies import PATHS, Form
from triptych.bench.client import Client
from triptych.bench.server import Api, Server
from triptych.bench.words import ID_RANGES, TokenIds, Words, text_units
from triptych.policy import Status
from triptych.spec.base import SpecError, did_you_mean

_SHORT, _LONG = 8, 72
"""Units of the prompts that tell how a server counts."""
_NO_FIELD = "ignore_eos"


async def probe(client: Client, server: Server, images: bool) -> Form:
    """Finds out how to ask a server.

    Args:
        client: of the server.
        server: what its user says of it.
        images: whether the workload has any.

    Raises:
        SpecError: it cannot be reached, does not serve the model, or refuses a small request.
    """
    api = _api(server, images)
    model = await _model(client, server)
    if api == "completions" and server.tokenizer is None:
        candidates: Sequence[TokenIds | Words] = ID_RANGES
    else:
        candidates = text_units(server.tokenizer)
    first: Form | None = None
    refusal: Answer | None = None
    for units in candidates:
        form = Form(model, api, units, server.ignore_eos)
        counts = [await _ask(client, form, length) for length in (_SHORT, _LONG)]
        refused = next((answer for answer in counts if answer.status is not Status.FINISHED), None)
        if refused is not None:
            refusal = refusal or refused
            if 400 <= refused.http_status < 500 and isinstance(units, TokenIds):
                continue
            break
        counted = _counted(form, counts)
        if counted.tokens_per_unit == 1:
            return counted
        if counted.tokens_per_unit > 0:
            first = first or counted
    if first is not None:
        return first
    if refusal is not None:
        raise _refused(server, form, refusal)
    problem = f"{server.base}{PATHS[api]} counts as many tokens in a long prompt as in a short one"
    raise SpecError("--url", f"{problem}; name the model's folder with --tokenizer")


def _api(server: Server, images: bool) -> Api:
    if images and server.api == "completions":
        raise SpecError("--api", "completions take no images; use chat, or remove images from the workload")
    return server.api or ("chat" if images else "completions")


async def _model(client: Client, server: Server) -> str:
    served = await client.models()
    if served is None:
        if server.model is None:
            problem = f"{server.url} does not say which models it serves"
            if server.lacks_path:
                raise SpecError("--url", f"{problem}; write it up to and with /v1: {server.base}/v1")
            raise SpecError("--model", f"{problem}; give the name")
        return server.model
    names = ", ".join(served) or "none"
    if server.model is None:
        if len(set(served.values())) != 1:
            raise SpecError("--model", f"{server.url} serves {names}; say which")
        return next(iter(served))
    if server.model not in served:
        mend = did_you_mean(server.model, served) or "give one of these"
        raise SpecError("--model", f"{server.url} does not serve {server.model!r} but {names}; {mend}")
    return server.model


async def _ask(client: Client, form: Form, length: int) -> Answer:
    answer = Answer()
    drawn = np.random.default_rng(length).integers(0, form.units.size, length - 1)
    body = form.body([*drawn.tolist(), form.units.size - 1], 1)  # the largest id may be none of the model's
    await client.send(PATHS[form.api], body, answer, inf, by_abort=False)
    return answer


def _counted(form: Form, answers: Sequence[Answer]) -> Form:
    """With the server's counts, where it gives any; no tokens a unit if they make no sense."""
    short, long = (answer.prompt_tokens for answer in answers)
    if short is None or long is None:
        return form
    each = max(long - short, 0) / (_LONG - _SHORT)
    return replace(form, tokens_per_unit=each, overhead=max(round(short - _SHORT * each), 0))


def _refused(server: Server, form: Form, answer: Answer) -> SpecError:
    path = PATHS[form.api]
    status = f"status {answer.http_status}: " if answer.http_status else ""
    mend = ""
    if answer.http_status == 404 and server.lacks_path:
        mend = f"; write it up to and with /v1: {server.base}/v1"
    elif _NO_FIELD in answer.error or "min_tokens" in answer.error:
        mend = "; use --no-ignore-eos"
    elif isinstance(form.units, TokenIds) and 400 <= answer.http_status < 500:
        mend = "; if it takes no token ids, name the model's folder with --tokenizer, or use --api chat"
    return SpecError("--url", f"{server.base}{path} refuses a small request ({status}{answer.error}){mend}")
