"""Frozen values that cross the borders between packages.

Units: prices in US dollars per million tokens, costs in US dollars, time in seconds, quality in [0, 1].
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from functools import lru_cache
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
class PriceTier:
    """What a call costs whose prompt has more than `above_tokens` tokens: all of the call, not what lies above.

    US dollars per million tokens; None keeps the price of shorter prompts.
    """

    above_tokens: int
    input: float
    output: float
    cached_input: float | None = None
    cache_write: float | None = None


@dataclass(frozen=True, slots=True)
class Price:
    """List price of a model, US dollars per million tokens.

    Attributes
    ----------
    input, output : float
        Prompt and completion tokens.
    cached_input : float or None
        Prompt tokens that the provider had cached; None means no discount.
    cache_write : float or None
        Prompt tokens that the provider stored in its cache; None is `input`.
    reasoning_output : float or None
        Completion tokens spent on reasoning; None is `output`.
    input_audio, output_audio : float or None
        Audio tokens; None is the price of text.
    per_request : float
        US dollars for a call, whatever its tokens.
    tiers : tuple of PriceTier
        Prices of long prompts, in any order.
    as_of : str or None
        ISO date on which these prices were right; None where the source does not say.
    source : str
        Where they come from: ``config``, ``file``, ``pocket``, or e.g. ``litellm 1.106.2``.
    """

    input: float
    output: float
    cached_input: float | None = None
    cache_write: float | None = None
    reasoning_output: float | None = None
    input_audio: float | None = None
    output_audio: float | None = None
    per_request: float = 0.0
    tiers: tuple[PriceTier, ...] = ()
    as_of: str | None = None
    source: str = "config"

    @property
    def stamp(self) -> str:
        """What says which price list a cost was computed with: the date, or where there is none the source."""
        return self.as_of or self.source

    def cost_usd(self, input_tokens: float, output_tokens: float, *, cached_tokens: float = 0.0) -> float:
        """Return the expected cost of one call in US dollars; `cached_tokens` is a part of `input_tokens`.

        For expectations: tiers, audio and reasoning are not told apart. What a call did cost is `cost_of`.
        """
        cached_price = self.input if self.cached_input is None else self.cached_input
        fresh = max(input_tokens - cached_tokens, 0.0)
        total = fresh * self.input + cached_tokens * cached_price + output_tokens * self.output
        return total / TOKENS_PER_PRICE_UNIT + self.per_request

    def cost_of(self, usage: Usage) -> float | None:
        """Return what a call cost in US dollars: the number nearest to `exact_cost_of`, None where that is None."""
        exact = self.exact_cost_of(usage)
        return None if exact is None else float(exact)

    def exact_cost_of(self, usage: Usage) -> Decimal | None:
        """Return what a call cost in US dollars, without rounding; None where the provider did not count the tokens.

        Cached, stored and audio tokens are parts of the input, reasoning and audio tokens parts of the output; every
        token is paid once. A part of which the provider says nothing is paid at the full price.
        """
        if usage.input_tokens is None or usage.output_tokens is None:
            return None
        total = _ZERO
        for tokens, price in (*self._input_parts(usage), *self._output_parts(usage)):
            if tokens:
                total += tokens * _exact(price)
        total = total.scaleb(-6)  # TOKENS_PER_PRICE_UNIT
        return total + _exact(self.per_request) if self.per_request else total

    def _input_parts(self, usage: Usage) -> tuple[tuple[int, float], ...]:
        rest = usage.input_tokens or 0
        tier = self._tier(rest) if self.tiers else None
        text, cached_price, write_price = self.input, self.cached_input, self.cache_write
        if tier is not None:
            text = tier.input
            cached_price = cached_price if tier.cached_input is None else tier.cached_input
            write_price = write_price if tier.cache_write is None else tier.cache_write
        cached = min(usage.cached_tokens or 0, rest)
        written = min(usage.cache_write_tokens or 0, rest - cached)
        audio = min(usage.input_audio_tokens or 0, rest - cached - written)
        return (
            (rest - cached - written - audio, text),
            (cached, text if cached_price is None else cached_price),
            (written, text if write_price is None else write_price),
            (audio, text if self.input_audio is None else self.input_audio),
        )

    def _output_parts(self, usage: Usage) -> tuple[tuple[int, float], ...]:
        rest = usage.output_tokens or 0
        tier = self._tier(usage.input_tokens or 0) if self.tiers else None
        text = self.output if tier is None else tier.output
        reasoning = min(usage.reasoning_tokens or 0, rest)
        audio = min(usage.output_audio_tokens or 0, rest - reasoning)
        return (
            (rest - reasoning - audio, text),
            (reasoning, text if self.reasoning_output is None else self.reasoning_output),
            (audio, text if self.output_audio is None else self.output_audio),
        )

    def _tier(self, input_tokens: int) -> PriceTier | None:
        reached = [tier for tier in self.tiers if input_tokens > tier.above_tokens]
        return max(reached, key=lambda tier: tier.above_tokens, default=None)


_ZERO = Decimal(0)


@lru_cache(maxsize=4096)
def _exact(price: float) -> Decimal:
    """Return a price as it was written: 0.15, not the binary number next to it."""
    return Decimal(repr(float(price)))


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
class Usage:
    """Tokens of one call, as the provider counted them; None where it did not say.

    Attributes
    ----------
    input_tokens, output_tokens : int or None
        All tokens of the prompt, cached ones included, and all of the completion, reasoning included.
    cached_tokens, cache_write_tokens, input_audio_tokens : int or None
        Parts of `input_tokens`: read from the provider's cache, stored in it, audio.
    reasoning_tokens, output_audio_tokens : int or None
        Parts of `output_tokens`.
    raw : mapping or None
        The provider's own usage object, as it was sent. Not compared.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cache_write_tokens: int | None = None
    input_audio_tokens: int | None = None
    output_audio_tokens: int | None = None
    raw: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)


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
