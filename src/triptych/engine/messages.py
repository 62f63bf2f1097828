"""What the front end and the worker tell each other, and nothing else.

Messages cross a process border as MessagePack, never pickled; a message that does not decode to one of these
types is refused. The worker knows tokens only: text, images as files and HTTP stay in the front end.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

Finish = Literal["stop", "length", "abort", "error"]
"""Why a request ended: a stop token (or string), its token limit, the client or a time-out, or a fault."""


class Sampling(msgspec.Struct, frozen=True):
    """How the tokens of a request are chosen. Neutral values change nothing."""

    max_tokens: int
    """Output tokens at the most."""
    temperature: float = 1.0
    """0: greedy."""
    top_k: int = 0
    """Keep so many of the likeliest tokens; 0: all."""
    top_p: float = 1.0
    """Keep the likeliest tokens that together have this probability."""
    min_p: float = 0.0
    """Keep tokens at least this likely as a share of the likeliest."""
    presence_penalty: float = 0.0
    """Subtracted from the logit of every token generated before."""
    frequency_penalty: float = 0.0
    """Subtracted once for each time the token was generated before."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens in prompt or output."""
    seed: int | None = None
    """Makes the request's draws repeat; None: drawn."""
    logprobs: int | None = None
    """Log-probabilities of the chosen token and of this many of the likeliest; None: none."""
    ignore_eos: bool = False
    """Go on until `max_tokens` whatever comes."""
    stop_token_ids: tuple[int, ...] = ()
    """End after one of these, beside the model's own."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token, what is added to its logit), each token once."""


class ImageInput(msgspec.Struct, frozen=True):
    """One image, ready for the vision tower."""

    content: int
    """Hash of its pixels, below 2**63."""
    grid: tuple[int, int, int]
    """Patches in time, height and width (`image_grid_thw`)."""
    tokens: int
    """Placeholder tokens in the prompt."""
    pixels: bytes
    """uint8, shape (patches, channels, pixels of a patch): resized and not yet normalised."""
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    """Of each channel, on the scale of `pixels`; the vision tower gets (pixel - mean) / std."""
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        patches, channels = math.prod(self.grid), len(self.mean)
        if patches < 1 or not 1 <= channels == len(self.std) or len(self.pixels) % (patches * channels):
            raise ValueError(f"{len(self.pixels)} bytes are not {patches} patches of {channels} channels")


class Submit(msgspec.Struct, frozen=True, tag=True):
    """Front end: a new request."""

    id: str
    tokens: list[int]
    """Prompt, with one placeholder token for each embedding of an image."""
    sampling: Sampling
    images: list[ImageInput] = []
    sent: int = 0
    """Reading of the monotonic clock when the request came, in nanoseconds; 0: not known."""


class Abort(msgspec.Struct, frozen=True, tag=True):
    """Front end: nobody waits for this request any more; its blocks return at once."""

    id: str
    status: Literal["aborted", "timed_out", "finished"] = "aborted"
    """`finished`: the front end has found a stop string."""
    sent: int = 0
    """Reading of the monotonic clock when the client gave up, in nanoseconds; 0: not known."""


class Shutdown(msgspec.Struct, frozen=True, tag=True):
    """Front end: end the process now."""


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """Log-probability of a token, and of the likeliest in its place."""

    logprob: float
    top: list[tuple[int, float]]
    """(token, log-probability), likeliest first."""


class Tokens(msgspec.Struct, frozen=True, tag=True):
    """Worker: new tokens of a request, in order."""

    id: str
    tokens: list[int]
    finish: Finish | None = None
    """Set with the last tokens of the request."""
    logprobs: list[TokenLogprob] | None = None
    cached_tokens: int = 0
    """Prompt tokens found in the prefix cache."""


class Failed(msgspec.Struct, frozen=True, tag=True):
    """Worker: the request cannot be, or is no longer, served; nothing of it is left."""

    id: str
    reason: str
    invalid: bool = False
    """Whether the request is at fault (too long for the cache, say) rather than the worker."""


class Load(msgspec.Struct, frozen=True):
    """How busy the worker is."""

    waiting: int
    """Requests in the scheduler's queues."""
    running: int
    """Requests that hold KV."""
    kv_used: int
    """Blocks."""
    kv_blocks: int
    preemptions: int
    """Since the start, as all that follow."""
    iterations: int
    prompt_tokens: int
    generated_tokens: int
    encode_seconds: float
    """Seconds of iterations that ran images, or prompts, or only decodes."""
    prefill_seconds: float
    decode_seconds: float
    unencoded: int = 0
    """Of those that wait, requests whose images are to be encoded first."""
    encoding: int = 0
    """Requests that have all their embeddings after the present batch; they neither wait nor hold KV."""
    decoding: int = 0
    """Of those that run, requests that decode; the others prefill."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """Worker: the model is loaded; requests may come."""

    pid: int
    max_context: int
    """Tokens of prompt and output that one request can have."""
    kv_blocks: int
    block_size: int
    iteration_seconds: float = 0.0
    """That the largest batch is predicted to take."""


class Round(msgspec.Struct, frozen=True, tag=True):
    """Worker: what one iteration gave, and how busy the worker is."""

    outputs: list[Tokens | Failed]
    load: Load


def too_long(context: int, prompt: int, output: int | None = None, *, at_least: bool = False) -> str:
    """What is said of a request that is longer than the context, in tokens.

    The first sentence is OpenAI's and vLLM's: clients such as LiteLLM know by its words what is the matter.
    """
    asked = f"{'at least ' if at_least else ''}{prompt} tokens in the prompt"
    if output is not None:
        asked = f"{prompt + output} tokens ({prompt} in the prompt, {output} in the answer)"
    return (
        f"This model's maximum context length is {context} tokens. However, you requested {asked}; "
        "shorten the prompt or ask for fewer tokens"
    )


ToWorker = Submit | Abort | Shutdown
FromWorker = Ready | Round

_encoder = msgspec.msgpack.Encoder()
_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
_from_worker: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)


def encode(message: ToWorker | FromWorker) -> bytes:
    """A message as MessagePack."""
    return _encoder.encode(message)


def to_worker(data: bytes) -> ToWorker:
    """A message for the worker.

    Raises:
        msgspec.DecodeError: the data is no such message (`msgspec.ValidationError`: a field is wrong).
    """
    return _to_worker.decode(data)


def from_worker(data: bytes) -> FromWorker:
    """A message from the worker.

    Raises:
        msgspec.DecodeError: as in `to_worker`.
    """
    return _from_worker.decode(data)
