"""What a measured run taught about a deployment: a few coefficients that can be read and judged."""

from __future__ import annotations

from pydantic import Field

from triptych.spec.base import Spec
from triptych.spec.units import Seconds


class Factors(Spec):
    """By what the predicted time of each class of operators is multiplied."""

    matmul: float = Field(default=1.0, gt=0)
    attention: float = Field(default=1.0, gt=0)
    memory: float = Field(default=1.0, gt=0)
    """Norms, activations, embeddings, sampler."""
    network: float = Field(default=1.0, gt=0)
    """Collectives."""


class Calibration(Spec):
    """Coefficients fitted to a measured run, and where they come from.

    An iteration takes `iteration + sequence x sequences + image x images` seconds beside its operators.
    """

    iteration: Seconds = 0.0
    """Host time of every iteration; stands in for the device's `iteration_overhead`."""
    sequence: Seconds = 0.0
    """Host time of every sequence that gets a token."""
    image: Seconds = 0.0
    """Host time of every image that is encoded."""
    front_end: Seconds = 0.0
    """From the client's sending a request until a scheduler sees it."""
    front_end_image: Seconds = 0.0
    """More of it for every image of the request: decoding and resizing."""
    answer: Seconds = 0.0
    """From the end of an iteration until the client has its tokens."""
    factors: Factors = Factors()
    link_share: float = Field(default=1.0, gt=0)
    """Of the bandwidth of the links between pools, the share that transfers reach."""
    profiles: tuple[str, ...] | None = None
    """Names of the profiles that the factors are relative to; none: data sheets. null: it is not known."""
    provenance: dict[str, str] = Field(default={})
    """Of which run, when, from how many iterations, and the error on those held out."""
