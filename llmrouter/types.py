"""Frozen values that cross the borders between packages.

Units: prices in US dollars per million tokens, costs in US dollars, time in seconds, quality in [0, 1].
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]

TOKENS_PER_PRICE_UNIT = 1_000_000


class Capability(enum.StrEnum):
    """What a request may need and a model may offer."""

    TOOLS = "tools"
    VISION = "vision"
    AUDIO = "audio"
    JSON_MODE = "json_mode"
    JSON_SCHEMA = "json_schema"
    LOGPROBS = "logprobs"


@dataclass(frozen=True, slots=True)
class Price:
    """List price of a model, US dollars per million tokens.

    `cached_input` is the price of input tokens the provider had cached; None means no discount.
    """

    input: float
    output: float
    cached_input: float | None = None

    def cost_usd(self, input_tokens: float, output_tokens: float, *, cached_tokens: float = 0.0) -> float:
        """Return the cost of one call in US dollars; `cached_tokens` is a part of `input_tokens`."""
        cached_price = self.input if self.cached_input is None else self.cached_input
        fresh = max(input_tokens - cached_tokens, 0.0)
        total = fresh * self.input + cached_tokens * cached_price + output_tokens * self.output
        return total / TOKENS_PER_PRICE_UNIT


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a model answers: seconds to its first token, then tokens per second (both > 0, checked where read)."""

    time_to_first_token_s: float
    tokens_per_s: float

    def total_s(self, output_tokens: float) -> float:
        """Return the expected seconds of an answer of that many tokens."""
        return self.time_to_first_token_s + output_tokens / self.tokens_per_s


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What is known of a model of the pool before it is asked anything.

    Attributes
    ----------
    name : str
        The pool's own name of the model; the columns of tables and estimates carry it.
    price : Price
        List price.
    context_window : int or None
        Prompt plus completion tokens the model accepts; None where unknown (then never a reason to rule it out).
    capabilities : frozenset of Capability
        What it offers beyond plain text chat.
    prior_quality : float or None
        Expected quality in [0, 1] used while nothing was observed; None lets the engine take the pool's mean.
    speed : Speed or None
        How fast it answers, until outcomes say better; None where unknown.
    energy_j_per_token : float or None
        Joules per completion token; None where unknown.
    """

    name: str
    price: Price
    context_window: int | None = None
    capabilities: frozenset[Capability] = frozenset()
    prior_quality: float | None = None
    speed: Speed | None = None
    energy_j_per_token: float | None = None


@dataclass(frozen=True, slots=True)
class Preference:
    """What a request wants of the trade between quality and cost; None defers to the configured policy.

    Attributes
    ----------
    cost_weight : float or None
        Weight of cost in the utility ``quality - cost_weight * cost / reference_cost``; 0 is quality alone.
    quality_floor : float or None
        Smallest expected quality, as a share of the best candidate's, in (0, 1].
    max_cost_usd : float or None
        Candidates expected to cost more are not eligible.
    """

    cost_weight: float | None = None
    quality_floor: float | None = None
    max_cost_usd: float | None = None


@dataclass(frozen=True, slots=True)
class RoutingRequest:
    """What the router may see of a request.

    Attributes
    ----------
    text : str
        The text to encode (see `llmrouter.encoders.chat_text`).
    prompt_tokens : int
        Estimated tokens of the whole prompt, all messages.
    max_output_tokens : int or None
        The client's limit on the completion.
    needs : frozenset of Capability
        Capabilities without which the request cannot be served.
    allowed_models : tuple of str or None
        Restricts the pool; None is the whole pool.
    preference : Preference
        The request's own wishes.
    request_id, conversation_id, key_id : str or None
        Who and what asks; recorded. Of these only a conversation is used for choosing, by the sticky policy.
    dry_run : bool
        Nothing will be called: policies decide, and count nothing (budget, quota, conversation).
    """

    text: str
    prompt_tokens: int = 0
    max_output_tokens: int | None = None
    needs: frozenset[Capability] = frozenset()
    allowed_models: tuple[str, ...] | None = None
    preference: Preference = field(default_factory=Preference)
    request_id: str | None = None
    conversation_id: str | None = None
    key_id: str | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pool model in the light of one request."""

    card: ModelCard
    eligible: bool = True
    reason: str = ""

    @property
    def name(self) -> str:
        """Pool name of the model."""
        return self.card.name


@dataclass(frozen=True, slots=True)
class Estimates:
    """Expectations of the router for m candidate models, in the order of `models`.

    Attributes
    ----------
    models : tuple of str, length m
        Pool names.
    quality : array of shape (m,)
        Expected quality in [0, 1].
    quality_std : array of shape (m,)
        Standard error of that expectation.
    cost_usd : array of shape (m,)
        Expected cost of the whole call in US dollars.
    output_tokens : array of shape (m,)
        Expected completion tokens; NaN where the training data had costs only.
    embedding : array of shape (d,) or None
        The vector that the router read.
    """

    models: tuple[str, ...]
    quality: FloatArray
    quality_std: FloatArray
    cost_usd: FloatArray
    output_tokens: FloatArray
    embedding: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class RankedModel:
    """One line of a decision's ranking."""

    model: str
    expected_quality: float
    standard_error: float
    expected_cost_usd: float
    eligible: bool = True
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A stored prompt near the request: its id in the training table and cosine similarity."""

    prompt_id: str
    similarity: float


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided: a ranking, best first; the second is the first fallback.

    Attributes
    ----------
    ranking : tuple of RankedModel
        Eligible models first, in the order in which they are to be tried; then the ruled out ones with their reasons.
    propensity : float
        Probability with which the policy chose the first model; 1 for a deterministic policy.
    policy, router : str
        Names of what decided.
    artifact_id : str
        The artifact whose estimates were used; "" for none.
    warnings : tuple of str
        E.g. that a model was given a prior because the artifact does not know it.
    neighbours : tuple of Neighbour
        The nearest training prompts, when they were asked for.
    """

    ranking: tuple[RankedModel, ...]
    propensity: float = 1.0
    policy: str = ""
    router: str = ""
    artifact_id: str = ""
    warnings: tuple[str, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()

    @property
    def model(self) -> str:
        """Name of the chosen model."""
        return self.ranking[0].model

    @property
    def eligible(self) -> tuple[RankedModel, ...]:
        """The models to try, in order."""
        return tuple(entry for entry in self.ranking if entry.eligible)

    def document(self) -> dict[str, Any]:
        """Return the decision as JSON values: what a dry run answers."""
        return {
            "model": self.model,
            "ranking": [asdict(entry) for entry in self.ranking],
            "propensity": self.propensity,
            "policy": self.policy,
            "artifact_id": self.artifact_id,
            "neighbours": [asdict(neighbour) for neighbour in self.neighbours],
        }


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call, as the provider counted them; None where it did not say."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """One served (or failed) request: the record that everything learns from.

    `candidates` maps each model to ``{"quality": ..., "standard_error": ..., "cost_usd": ...}`` as expected at
    decision time. `status` is one of ``ok``, ``error``, ``partial`` (broke off after the first byte) and
    ``cancelled`` (the client hung up). `time` is seconds since the epoch.
    """

    request_id: str
    time: float
    model: str
    router: str = ""
    artifact_id: str = ""
    policy: str = ""
    propensity: float = 1.0
    candidates: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    key_id: str | None = None
    conversation_id: str | None = None
    prompt: str | None = None
    prompt_sha256: str | None = None
    embedding: Sequence[float] | None = None
    task: str | None = None
    served_by: str | None = None
    fallbacks: tuple[str, ...] = ()
    status: str = "ok"
    error: str | None = None
    input_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost_usd: float | None = None
    time_to_first_token_s: float | None = None
    latency_s: float | None = None
    quality: float | None = None
    quality_source: str | None = None
    quality_weight: float | None = None
    quality_time: float | None = None


def is_missing(value: float | None) -> bool:
    """Return whether `value` stands for "never observed" (None or NaN)."""
    return value is None or math.isnan(value)


CHARACTERS_PER_TOKEN = 4


def estimate_tokens(text: str) -> int:
    """Return a rough token count, a quarter of the characters rounded up, for any tokenizer.

    Artifacts hold each model's ratio of real to estimated prompt tokens, so that expected costs are in real tokens.
    """
    return -(-len(text) // CHARACTERS_PER_TOKEN)
