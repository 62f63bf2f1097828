"""What clients of the OpenAI API send: fields, their bounds, and what of it is refused.

A field that is named neither here nor in `unsupported` is ignored.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from triptych.engine.messages import Sampling
from triptych.engine.server.errors import ApiError, invalid
from triptych.engine.server.structure import check_structure
from triptych.engine.server.unsupported import Unsupported

_GREEDY = 1e-5
"""Temperature below which the likeliest token is taken, as in vLLM: logits divided by it overflow."""
MAX_CHOICES = 128
"""Of `n`, as OpenAI has it."""
_MAX_STOPS = 16
_MAX_STOP_LENGTH = 1024
_MAX_STOP_TOKENS = 1024
_MAX_BIASES = 1024
"""Entries of `logit_bias`; OpenAI takes 300."""
_DEFAULT_COMPLETION_TOKENS = 16
"""Of /v1/completions, where a request does not say."""

Count = Annotated[int, Meta(ge=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Share = Annotated[float, Meta(ge=0, le=1)]
TokenId = Annotated[int, Meta(ge=0, lt=2**31)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
Candidates = Annotated[int, Meta(ge=0, le=20)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class StreamOptions(msgspec.Struct, frozen=True):
    """What a stream holds beside text."""

    include_usage: bool | None = None
    """End with a chunk that has the token counts and no choices."""
    continuous_usage_stats: bool | None = None
    """With `include_usage`: the token counts so far in every chunk too, as in vLLM."""


class Options(Unsupported, kw_only=True):
    """What both kinds of request have in common."""

    model: str | None = None
    max_tokens: Count | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, lt=2**31)] | None = None
    """-1 and 0: all."""
    min_p: Share | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Meta(ge=0.001, le=1000)] | None = None
    logit_bias: Annotated[dict[TokenId, Bias], Meta(max_length=_MAX_BIASES)] | None = None
    """What is added to the logits of tokens."""
    seed: Seed | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[TokenId] | None = None
    ignore_eos: bool | None = None
    min_tokens: Annotated[int, Meta(ge=0)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    add_special_tokens: bool | None = None
    """Whether the prompt gets the tokens that a text begins or ends with, as the tokenizer has it. By default
    a completion does and a chat, whose template writes them itself, does not."""

    @property
    def choices(self) -> int:
        """Answers to each prompt."""
        return self.n or 1

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        """Whether every chunk of a stream has the token counts so far."""
        return bool(self.include_usage and self.stream_options and self.stream_options.continuous_usage_stats)

    @property
    def stops(self) -> list[str]:
        """Texts that end an answer."""
        if self.stop is None:
            return []
        return [self.stop] if isinstance(self.stop, str) else self.stop

    @property
    def output_limit(self) -> int | None:
        """Output tokens at the most; None: as many as there is room for."""
        return self.max_tokens

    @property
    def candidates(self) -> int | None:
        """Likeliest tokens to tell the log-probabilities of; None: no log-probabilities."""
        raise NotImplementedError

    def check(self) -> None:
        """Refuses what cannot be served.

        Raises:
            ApiError: status 400, and which field it is.
        """
        self.check_unsupported()
        if self.stream_options is not None and not self.stream:
            raise invalid("stream_options is for streams; set stream to true or remove it", "stream_options")
        if len(self.stops) > _MAX_STOPS:
            raise invalid(f"at most {_MAX_STOPS} stop strings are supported", "stop")
        for stop in self.stops:
            if not 0 < len(stop) <= _MAX_STOP_LENGTH:
                raise invalid(f"a stop string must have 1 to {_MAX_STOP_LENGTH} characters", "stop")
        if len(self.stop_token_ids or ()) > _MAX_STOP_TOKENS:
            raise invalid(f"at most {_MAX_STOP_TOKENS} stop tokens are supported", "stop_token_ids")
        if self.min_tokens and not (self.ignore_eos and not self.stops and not self.stop_token_ids):
            problem = "min_tokens is supported only where nothing ends an answer early; set ignore_eos"
            raise invalid(problem, "min_tokens", "unsupported_parameter")

    def sampling(self, max_tokens: int, choice: int) -> Sampling:
        """How the tokens of one answer are chosen; answers of one request draw differently.

        Raises:
            ApiError: fewer tokens at the most than at the least.
        """
        if self.min_tokens and self.min_tokens > max_tokens:
            raise invalid(f"min_tokens {self.min_tokens} is more than max_tokens {max_tokens}", "min_tokens")
        temperature = _given(self.temperature, 1.0)
        return Sampling(
            max_tokens=max_tokens,
            temperature=0.0 if temperature < _GREEDY else temperature,
            top_k=max(_given(self.top_k, 0), 0),
            top_p=_given(self.top_p, 1.0),
            min_p=_given(self.min_p, 0.0),
            presence_penalty=_given(self.presence_penalty, 0.0),
            frequency_penalty=_given(self.frequency_penalty, 0.0),
            repetition_penalty=_given(self.repetition_penalty, 1.0),
            logit_bias=tuple((self.logit_bias or {}).items()),
            seed=None if self.seed is None else (self.seed + choice) % 2**63,
            logprobs=self.candidates,
            ignore_eos=bool(self.ignore_eos),
            stop_token_ids=tuple(self.stop_token_ids or ()),
        )


class ImageUrl(msgspec.Struct, frozen=True):
    """Where an image is: a `data:` URL, or an http(s) one."""

    url: str


class TextPart(msgspec.Struct, frozen=True, tag="text"):
    """A piece of a message that is text."""

    text: str


class ImagePart(msgspec.Struct, frozen=True, tag="image_url"):
    """A piece of a message that is an image."""

    image_url: ImageUrl


class Function(msgspec.Struct, frozen=True):
    """What a call of a tool says of it."""

    name: str
    arguments: str = "{}"
    """JSON."""


class ToolCall(msgspec.Struct, frozen=True):
    """A tool that the assistant has called earlier in the conversation."""

    function: Function
    id: str | None = None


class Message(msgspec.Struct, frozen=True):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart | ImagePart] | None = None
    name: str | None = None
    """Of who speaks, for chat templates that know it."""
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    """Id of the call that a message of a tool answers."""


class ChatRequest(Options, kw_only=True):
    """The body of /v1/chat/completions."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Count | None = None
    """The newer name of `max_tokens`; the smaller of the two holds."""
    logprobs: bool | None = None
    top_logprobs: Candidates | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    """Switches that the model's chat template knows."""

    @property
    def output_limit(self) -> int | None:
        limits = [limit for limit in (self.max_tokens, self.max_completion_tokens) if limit is not None]
        return min(limits, default=None)

    @property
    def candidates(self) -> int | None:
        return self.top_logprobs or 0 if self.logprobs else None

    def check(self) -> None:
        super().check()
        if self.top_logprobs and not self.logprobs:
            raise invalid("top_logprobs needs logprobs; set logprobs to true", "top_logprobs")
        if self.tools and not (
            isinstance(self.tools, list) and all(isinstance(tool, dict) for tool in self.tools)
        ):
            raise invalid("tools must be a list of objects", "tools")


class CompletionRequest(Options, kw_only=True):
    """The body of /v1/completions."""

    prompt: str | list[Any]
    logprobs: Candidates | None = None

    @property
    def output_limit(self) -> int | None:
        return self.max_tokens or _DEFAULT_COMPLETION_TOKENS

    @property
    def candidates(self) -> int | None:
        return self.logprobs

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each prompt, as text or as tokens.

        Raises:
            ApiError: a mixture, or neither.
        """
        given = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        try:
            if given and isinstance(given[0], int):
                return [msgspec.convert(given, list[TokenId])]
            return msgspec.convert(given, list[str | Annotated[list[TokenId], Meta(min_length=1)]])
        except msgspec.ValidationError:
            problem = "prompt must be a text, a list of texts, a list of tokens, or a list of lists of tokens"
            raise invalid(problem, "prompt") from None

    def check(self) -> None:
        super().check()
        if not self.prompts:
            raise invalid("prompt is empty; give at least one", "prompt")


R = TypeVar("R", ChatRequest, CompletionRequest)
T = TypeVar("T")


def parse(kind: type[R], body: bytes | bytearray) -> R:
    """A request from its body.

    Raises:
        ApiError: status 400: it is no JSON, too deep, a field is wrong, or one is not supported.
    """
    request = decode(kind, body)
    request.check()
    return request


def decode(kind: type[T], body: bytes | bytearray) -> T:
    """What a body says, as far as its fields can be told alone.

    Raises:
        ApiError: status 400: it is no JSON, too deep, or a field is wrong.
    """
    check_structure(body)
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _wrong_field(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise invalid(f"the body is not JSON: {error}") from None


def _wrong_field(problem: str) -> ApiError:
    """Msgspec says ``Expected `int`, got `str` - at `$.max_tokens` ``."""
    what, _, path = problem.replace(" - at `key` in `$", " - at `$").partition(" - at `$")
    field = re.sub(r"^\.", "", path.rstrip("`"))
    missing = re.fullmatch(r"Object missing required field `(\w+)`", what)
    if missing:
        field = f"{field}.{missing[1]}" if field else missing[1]
        return invalid(f"{field} is missing; give it a value", field)
    return invalid(f"{field}: {what}" if field else what, field or None)


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value
