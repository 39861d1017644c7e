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

from llmrouter._prices import TOKENS_PER_PRICE_UNIT, Price, PriceTier, Usage

__all__ = [
    "CHARACTERS_PER_TOKEN",
    "OTHER_ROUTE",
    "TOKENS_PER_PRICE_UNIT",
    "Candidate",
    "Capability",
    "Decision",
    "Estimates",
    "FloatArray",
    "IntArray",
    "ModelCard",
    "Neighbour",
    "Outcome",
    "Preference",
    "Price",
    "PriceTier",
    "RankedModel",
    "RoutePick",
    "RoutingRequest",
    "Speed",
    "Usage",
    "estimate_tokens",
    "is_missing",
]

FloatArray = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]


class Capability(enum.StrEnum):
    """What a request may need and a model may offer."""

    TOOLS = "tools"
    VISION = "vision"
    AUDIO = "audio"
    JSON_MODE = "json_mode"
    JSON_SCHEMA = "json_schema"
    LOGPROBS = "logprobs"


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


OTHER_ROUTE = "other"
"""Name of the pick that is none of the user's routes: the ordinary policy decides."""


@dataclass(frozen=True, slots=True)
class RoutePick:
    """Which of the user's routes a request is on, and why; see `llmrouter.routes`.

    Attributes
    ----------
    name : str
        A route, or `OTHER_ROUTE`.
    chooser : str
        What picked: ``model``, ``embedding`` or ``classifier``.
    reason : str
        One sentence; it never quotes the request.
    score : float or None
        Similarity or probability of the best route, where the chooser has one.
    scores : mapping of str to float
        The same by route.
    failure : str
        Why the chooser could not pick, in one word (``timeout``, ``unreachable``, ``broken``, ...); "" where it did.
    cost_usd : float
        What picking cost, US dollars.
    latency_s : float
        How long a model took to pick, seconds; 0 where none was asked.
    known : bool
        Whether the pick was remembered from an earlier request.
    """

    name: str
    chooser: str
    reason: str = ""
    score: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    failure: str = ""
    cost_usd: float = 0.0
    latency_s: float = 0.0
    known: bool = False

    @property
    def is_other(self) -> bool:
        """Whether it is none of the routes."""
        return self.name == OTHER_ROUTE


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
    explore : bool
        Whether an exploring policy may try a model for what is learned from it.
    conversation : tuple of (str, str)
        Role and text of what user and assistant said, oldest first; for those who pick routes, else empty.
    route : RoutePick or None
        The user's route that the request is on; None where there are no routes, or nobody has picked yet.
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
    explore: bool = True
    conversation: tuple[tuple[str, str], ...] = ()
    route: RoutePick | None = None


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
    """One line of a decision's ranking.

    `propensity` is the probability with which the policy would have put this model first; NaN where nobody can say.
    """

    model: str
    expected_quality: float
    standard_error: float
    expected_cost_usd: float
    eligible: bool = True
    reason: str = ""
    propensity: float = math.nan


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
    explored : bool
        Whether chance, not the estimates, put the first model there.
    lane : str
        ``canary`` where a router on trial decided, else "".
    shadow : mapping or None
        What a router in shadow mode would have done: ``{"artifact_id", "model", "expected_quality",
        "expected_cost_usd"}``.
    embedding : array of shape (d,) or None
        The vector that the router read. Not compared.
    route : RoutePick or None
        Which of the user's routes the request is on; None where there are none.
    """

    ranking: tuple[RankedModel, ...]
    propensity: float = 1.0
    policy: str = ""
    router: str = ""
    artifact_id: str = ""
    warnings: tuple[str, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    explored: bool = False
    lane: str = ""
    shadow: Mapping[str, Any] | None = None
    embedding: FloatArray | None = field(default=None, compare=False, repr=False)
    route: RoutePick | None = None

    @property
    def model(self) -> str:
        """Name of the chosen model."""
        return self.ranking[0].model

    @property
    def eligible(self) -> tuple[RankedModel, ...]:
        """The models to try, in order."""
        return tuple(entry for entry in self.ranking if entry.eligible)

    def document(self) -> dict[str, Any]:
        """Return the decision as JSON values: what a dry run answers; ``route`` only where there are routes."""
        picked = {} if self.route is None else {"route": asdict(self.route)}
        return {
            **picked,
            "model": self.model,
            "ranking": [asdict(entry) for entry in self.ranking],
            "propensity": self.propensity,
            "policy": self.policy,
            "artifact_id": self.artifact_id,
            "neighbours": [asdict(neighbour) for neighbour in self.neighbours],
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """One served (or failed) request: the record that everything learns from.

    Attributes
    ----------
    request_id : str
        Unique.
    time : float
        Seconds since the epoch when the request came.
    model : str
        The chosen model.
    router, artifact_id, policy : str
        What chose it.
    propensity : float
        Probability with which it was chosen; NaN where nobody can say.
    candidates : mapping
        Model -> ``{"quality": ..., "standard_error": ..., "cost_usd": ..., "propensity": ...}`` as expected at decision
        time; outcomes of older versions have no propensity here. A model that could not take the request has
        ``"eligible": 0.0`` too.
    key_id, team, conversation_id : str or None
        Who asked, and in which conversation.
    prompt, prompt_sha256, embedding, task
        What was asked, as far as it is kept.
    served_by, deployment : str or None
        The model that answered, and which of its deployments.
    fallbacks : tuple of str
        Models that were tried before it.
    attempts : tuple of mapping
        What failed before the answer, in order: ``{"model": ..., "error": ..., "status": ..., "latency_s": ...}``.
    status : str
        ``ok``, ``error``, ``partial`` (broke off after the first byte) or ``cancelled`` (the client hung up).
    error : str or None
        What went wrong.
    input_tokens, cached_tokens, output_tokens, reasoning_tokens : int or None
        See `Usage`.
    usage : mapping or None
        The provider's own usage object, from which the cost can be computed again.
    cost_usd : float or None
        Of the answer, in US dollars.
    price_as_of : str or None
        `Price.stamp` of the price that `cost_usd` was computed with.
    overhead_cost_usd : float or None
        What else was spent on the request, as far as it is known: failed attempts, hedges, router, judge.
    time_to_first_token_s, latency_s : float or None
        Seconds since the request came.
    quality, quality_source, quality_weight, quality_time
        A judgement of the answer, in [0, 1].
    endpoint : str
        Name of the endpoint that was asked, e.g. ``chat``; "" where it was not recorded.
    stream : bool or None
        Whether the answer was streamed.
    cache : str
        ``hit`` or ``semantic`` where our own cache answered, else "".
    explored, lane, shadow
        See `Decision`.
    quality_by : tuple of str
        Keys whose judgements are in `quality`; "" stands for the gateway itself or a caller without key.
    finish_reason : str or None
        Why the answer ended, in OpenAI's words: ``stop``, ``length``, ``tool_calls``, ``content_filter``.
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
    # Since version 2 of the store's schema.
    endpoint: str = ""
    stream: bool | None = None
    usage: Mapping[str, Any] | None = None
    price_as_of: str | None = None
    overhead_cost_usd: float | None = None
    cache: str = ""
    deployment: str | None = None
    team: str | None = None
    attempts: tuple[Mapping[str, Any], ...] = ()
    # Since version 3.
    explored: bool = False
    lane: str = ""
    shadow: Mapping[str, Any] | None = None
    quality_by: tuple[str, ...] = ()
    finish_reason: str | None = None


def is_missing(value: float | None) -> bool:
    """Return whether `value` stands for "never observed" (None or NaN)."""
    return value is None or math.isnan(value)


CHARACTERS_PER_TOKEN = 4


def estimate_tokens(text: str) -> int:
    """Return a rough token count, a quarter of the characters rounded up, for any tokenizer.

    Artifacts hold each model's ratio of real to estimated prompt tokens, so that expected costs are in real tokens.
    """
    return -(-len(text) // CHARACTERS_PER_TOKEN)
