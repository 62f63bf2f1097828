"""The workload: when requests come, how long they are, what they carry, and when they are good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from triptych.spec.base import Spec, SpecError
from triptych.spec.lengths import MOST_TOKENS, Lengths, Range, Tokens, one_of_kinds
from triptych.spec.slo import Slo
from triptych.spec.units import Seconds

PositiveSeconds = Annotated[Seconds, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]

# As in `units`, the limits lie far from anything real, and what follows from them is finite.
MOST_REQUESTS = 100_000_000
Number = Annotated[PositiveInt, Field(le=MOST_REQUESTS)]
Rate = Annotated[float, Field(ge=1e-6, le=1e9)]
Scale = Annotated[float, Field(ge=1e-6, le=1e6)]
MOST_PIXELS = 100_000
"""In one side of an image."""
Pixels = Annotated[PositiveInt, Field(le=MOST_PIXELS)]


class Poisson(Spec):
    """Independent arrivals: exponential gaps."""

    kind: Literal["poisson"]
    rate: Rate
    """Requests per second."""


class Gamma(Spec):
    """Gamma-distributed gaps: burstier than Poisson for a CV above 1, more even below it."""

    kind: Literal["gamma"]
    rate: Rate
    """Requests per second."""
    cv: Annotated[float, Field(ge=0.01, le=100)]
    """Coefficient of variation of the gaps: standard deviation over mean."""


class Constant(Spec):
    """Equal gaps; the first request comes at 0."""

    kind: Literal["constant"]
    rate: Rate
    """Requests per second."""


class Closed(Spec):
    """A closed loop: so many requests are under way at any time, and a new one comes when one ends."""

    kind: Literal["closed"]
    concurrency: Number


class AtOnce(Spec):
    """All requests come at 0 (offline inference)."""

    kind: Literal["at-once"]


class TraceArrivals(Spec):
    """The times of the trace."""

    kind: Literal["trace"]


Arrivals = Annotated[
    Poisson | Gamma | Constant | Closed | AtOnce | TraceArrivals,
    Field(discriminator="kind"),
    one_of_kinds("poisson", "gamma", "constant", "closed", "at-once", "trace"),
]


class Trace(Spec):
    """A file of requests. Its clock starts with its first request (parquet: as written)."""

    format: Literal["azure", "bailian", "mooncake", "parquet"]
    """azure: AzurePublicDataset CSV (2023, 2024); bailian: JSONL of Alibaba Cloud; mooncake: Mooncake JSONL;
    parquet: `workload.write_parquet`."""
    path: str = Field(min_length=1)
    """Relative to the folder of the workload file, or else to the current folder."""
    start: Seconds = 0.0
    """Requests before this time are left out, and it becomes the new 0."""
    stop: PositiveSeconds | None = None
    """Requests at this time and later are left out."""
    limit: Number | None = None
    """Requests of the slice that are read, from its start."""

    @model_validator(mode="after")
    def _slice_holds_time(self) -> Self:
        if self.stop is not None and self.stop <= self.start:
            raise ValueError(f"stop ({self.stop:g} s) is not after start ({self.start:g} s); make it later")
        return self

    def locate(self, file: str | Path | None = None) -> Path:
        """The absolute path of the trace that the workload file `file` names.

        Raises:
            SpecError: there is no such file.
        """
        folders = [Path.cwd()] if file is None else [Path(file).parent, Path.cwd()]
        for folder in folders:
            path = (folder / self.path).absolute()
            if path.is_file():
                return path
        raise SpecError("trace.path", f"no such file: {self.path}; correct the path", file=file)


class Caps(Spec):
    """Limits to which longer requests are cut, in tokens of text (images are the model's to count)."""

    prompt: Tokens | None = None
    output: Tokens | None = None
    total: Annotated[int, Field(ge=2, le=2 * MOST_TOKENS)] | None = None
    """Of prompt and output together: the output is cut first, down to one token, then the prompt."""


class ImageSize(Spec):
    """One resolution and how often it is met."""

    width: Pixels
    height: Pixels
    weight: Annotated[PositiveFloat, Field(le=1e9)] = 1.0
    """Relative to the weights of the other sizes."""


class ImageCount(Range):
    """Images of one request."""

    low: Annotated[PositiveInt, Field(le=10_000)]
    high: Annotated[PositiveInt, Field(le=10_000)]


def _range_of_one(value: object) -> object:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return {"low": value, "high": value} if whole else value


class Images(Spec):
    """Images that requests carry beside their text."""

    share: Share = 1.0
    """Of requests that carry any."""
    count: Annotated[ImageCount, BeforeValidator(_range_of_one)] = ImageCount(low=1, high=1)
    """Images of a request that carries any: a number, or {low, high}."""
    sizes: tuple[ImageSize, ...]
    """One is drawn for each different image."""
    distinct: Number | None = None
    """Different images in the run, each as likely (repeats meet the embedding cache); None: all are new."""

    @field_validator("sizes")
    @classmethod
    def _has_sizes(cls, value: tuple[ImageSize, ...]) -> tuple[ImageSize, ...]:
        if not value:
            raise ValueError("no size is given; add {width, height} or remove images")
        return value


class Prefixes(Spec):
    """System prompts: the first tokens of a prompt are those of its group, and count in its length.

    A prompt that is no longer than the system prompt keeps its length and is the beginning of it.
    """

    groups: Annotated[PositiveInt, Field(le=1_000_000_000)]
    """Different system prompts, each as likely."""
    tokens: Tokens
    """Tokens of a system prompt."""
    share: Share = 1.0
    """Of requests that begin with one."""


class Aborts(Spec):
    """Clients that go away before the end."""

    share: Share
    """Of requests whose client may go away."""
    after: PositiveSeconds
    """Mean time from arrival to going away (exponential); one that has ended by then is not touched."""


class WorkloadSpec(Spec):
    """Traffic: a trace, or arrivals x lengths x images, or a mixture of them.

    With a `trace`, what is not declared of `arrivals`, `prompt` and `output` is taken from it.
    """

    requests: Number | None = None
    """At most so many."""
    duration: PositiveSeconds | None = None
    """Requests come before this time only."""
    seed: int = Field(default=0, ge=0)
    """Equal seeds give equal requests, bit for bit (with the same release of NumPy)."""
    arrivals: Arrivals
    prompt: Lengths
    """Tokens of text in a prompt."""
    output: Lengths
    """Tokens that a request generates."""
    trace: Trace | None = None
    rate_scale: Scale = 1.0
    """Arrivals come so many times as fast; applied before `duration`."""
    caps: Caps = Caps()
    images: Images | None = None
    prefixes: Prefixes | None = None
    max_concurrency: Number | None = None
    """Most requests in flight: one that is due while so many are waits at its client until one of them ends,
    and arrives when it is sent. None: requests come at their times whatever becomes of earlier ones."""
    timeout: PositiveSeconds | None = None
    """Time from arrival after which a client gives a request up."""
    aborts: Aborts | None = None
    slo: Slo | None = None

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Self:
        """As `Spec.load`; the path of the trace becomes absolute, so that it is found from anywhere.

        Raises:
            SpecError: as `Spec.load`, or the trace is missing.
        """
        return super().load(path, overrides).rooted(path)

    def rooted(self, file: str | Path | None = None) -> Self:
        """With the trace under a path that is true from anywhere, as copies of it need it.

        Args:
            file: where it was declared; None: in no file.

        Raises:
            SpecError: the trace is missing.
        """
        if self.trace is None:
            return self
        trace = self.trace.model_copy(update={"path": str(self.trace.locate(file))})
        return self.model_copy(update={"trace": trace})

    @property
    def rate(self) -> float | None:
        """Requests/s that come on average, whatever becomes of the others; None where nothing declares it."""
        if isinstance(self.arrivals, Poisson | Gamma | Constant) and self.max_concurrency is None:
            return self.arrivals.rate * self.rate_scale
        return None

    @model_validator(mode="before")
    @classmethod
    def _rest_from_trace(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or data.get("trace") is None:
            return data
        return {name: {"kind": "trace"} for name in ("arrivals", "prompt", "output")} | dict(data)

    @model_validator(mode="after")
    def _trace_is_given_and_used(self) -> Self:
        parts = {"arrivals": self.arrivals, "prompt": self.prompt, "output": self.output}
        traced = [name for name, part in parts.items() if part.kind == "trace"]
        if traced and self.trace is None:
            raise ValueError(
                f"{traced[0]}: kind trace needs a trace; add trace: {{format, path}} or use another kind"
            )
        if self.trace is not None and not traced:
            raise ValueError(
                "trace: nothing is taken from it; remove it, or use kind: trace for arrivals, prompt "
                "or output"
            )
        return self

    @model_validator(mode="after")
    def _ends(self) -> Self:
        timeless = self.arrivals.kind in ("closed", "at-once")
        if timeless and self.duration is not None:
            raise ValueError(f"duration: {self.arrivals.kind} arrivals have no times to bound; use requests")
        if timeless and self.rate_scale != 1:
            raise ValueError(f"rate_scale: {self.arrivals.kind} arrivals have no rate to scale; remove it")
        if self.arrivals.kind == "closed" and self.max_concurrency is not None:
            raise ValueError("max_concurrency: closed arrivals have a concurrency of their own; remove it")
        if self.requests is None and self.duration is None and self.trace is None:
            mend = "requests" if timeless else "requests or duration"
            raise ValueError(f"requests: nothing ends the workload; give {mend}")
        return self

    @model_validator(mode="after")
    def _ends_in_time(self) -> Self:
        if (
            self.requests is None
            and self.duration is not None
            and isinstance(self.arrivals, Poisson | Gamma | Constant)
        ):
            expected = self.duration * self.arrivals.rate * self.rate_scale
            if expected > MOST_REQUESTS:
                raise ValueError(
                    f"duration: about {expected:.3g} requests come within it; make it shorter or give "
                    f"requests, at most {MOST_REQUESTS}"
                )
        return self
