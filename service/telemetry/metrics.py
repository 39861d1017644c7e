"""What requests add to the metrics.

Labels come from bounded sets: model names from the pool, everything else from the lists below. What is in none of them
counts as ``other``, so that no client can make series grow.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from service.telemetry import catalogue
from service.telemetry.reasons import OTHER, REASONS, reason_of
from service.telemetry.tallies import Counter, Histogram, Tallies

if TYPE_CHECKING:
    from llmrouter.types import Decision, Outcome
    from service.call import Call

logger = logging.getLogger(__name__)

NONE = "none"

ENDPOINTS = frozenset(
    {"chat", "completions", "responses", "messages", "embeddings", "models", "route", "feedback", "outcomes", "admin"}
)
STATUSES = frozenset({"ok", "error", "partial", "cancelled", "refused"})
STAGES = frozenset({"auth", "parse", "limits", "cache", "route", "upstream", "translate", "record"})
CACHE_RESULTS = frozenset({"hit", "semantic", "miss", "bypass"})
COST_KINDS = frozenset({"answer", "retry", "hedge", "router", "judge"})
SIGNAL_KINDS = frozenset({"verifier", "judge", "implicit", "feedback"})
SIGNAL_RESULTS = frozenset({"stored", "skipped", "failed", "dropped", "budget", "unclear", "refused"})
RESULTS = REASONS | {"ok", "abandoned"}
LIMIT_KINDS = frozenset({"gateway", "team", "key", "model"})
LIMITS = frozenset({"requests", "tokens", "concurrency", "budget", "reserved"})
CODES = frozenset(
    {"400", "401", "402", "403", "404", "408", "409", "413", "415", "422", "429", "499", "500", "502", "503", "504"}
)

_UPSTREAM = "upstream"
_KEPT = frozenset({"hit", "semantic"})
_NOTHING: tuple[str, ...] = ()


class Metrics:
    """Count requests; belongs to the event loop's thread.

    Parameters
    ----------
    tallies : Tallies
        Where the numbers are.
    pool : iterable of str
        Names of the models.
    """

    def __init__(self, tallies: Tallies, pool: Iterable[str]) -> None:
        self.pool = frozenset(pool)
        self._policies: set[str] = set()
        self._requests = Counter(tallies, catalogue.REQUESTS)
        self._duration = Histogram(tallies, catalogue.REQUEST_DURATION)
        self._first_token = Histogram(tallies, catalogue.FIRST_TOKEN)
        self._overhead = Histogram(tallies, catalogue.OVERHEAD)
        self._stage = Histogram(tallies, catalogue.STAGE)
        self._attempts = Counter(tallies, catalogue.ATTEMPTS)
        self._fallbacks = Counter(tallies, catalogue.FALLBACKS)
        self._tokens = Counter(tallies, catalogue.TOKENS)
        self._cost = Counter(tallies, catalogue.COST)
        self._dearest = Counter(tallies, catalogue.DEAREST_COST)
        self._routed = Counter(tallies, catalogue.ROUTED_COST)
        self._decisions = Counter(tallies, catalogue.DECISIONS)
        self._expected_quality = Histogram(tallies, catalogue.EXPECTED_QUALITY)
        self._explored = Counter(tallies, catalogue.EXPLORED)
        self._lanes = Counter(tallies, catalogue.LANES)
        self._cache = Counter(tallies, catalogue.CACHE_REQUESTS)
        self._refusals = Counter(tallies, catalogue.REFUSALS)
        self._http_errors = Counter(tallies, catalogue.HTTP_ERRORS)
        self._reloads = Counter(tallies, catalogue.RELOADS)
        self._signals = Counter(tallies, catalogue.SIGNALS)
        self._picks = Counter(tallies, catalogue.ROUTE_PICKS)
        self._uncounted = Counter(tallies, catalogue.UNCOUNTED)

    def finished(self, call: Call, outcome: Outcome) -> None:
        """Count a request that was decided and ended."""
        decision: Decision | None = getattr(call, "decision", None)
        ranking = decision.ranking if decision is not None else ()
        chosen = ranking[0].model if ranking else None
        served_by = outcome.served_by
        model = self._model(served_by or chosen)
        endpoint = _known(getattr(call, "endpoint", OTHER), ENDPOINTS)
        stream = "true" if getattr(call.chat, "stream", False) else "false"
        self._requests.add((endpoint, model, _known(outcome.status, STATUSES), stream))
        if outcome.latency_s is not None:
            self._duration.observe((endpoint,), outcome.latency_s)
        if outcome.time_to_first_token_s is not None:
            self._first_token.observe((model,), outcome.time_to_first_token_s)
        self._times(call, outcome)
        cache = getattr(call, "cache", None)
        kept = cache in _KEPT
        if cache:
            self._cache.add((_known(cache, CACHE_RESULTS),))
        self._attempted(call, None if kept else served_by)
        self._spent(call, outcome, model)
        if decision is not None and chosen is not None and not kept:
            self._decided(decision, chosen, outcome)

    def uncounted(self) -> None:
        """Count a request that could not be taken note of."""
        self._uncounted.add(_NOTHING)

    def refused(self, endpoint: str, status: int) -> None:
        """Count a request that was answered with an error before any model was asked."""
        endpoint = _known(endpoint, ENDPOINTS)
        # Whether a stream was asked for may be unknown: the body may be what is wrong.
        self._requests.add((endpoint, NONE, "refused", "false"))
        code = str(status)
        self._http_errors.add((endpoint, code if code in CODES else f"{code[:1]}xx"))

    def limited(self, kind: str, limit: str) -> None:
        """Count a refusal by a limit."""
        self._refusals.add((_known(kind, LIMIT_KINDS), _known(limit, LIMITS)))

    def attempt(self, model: str, result: str) -> None:
        """Count a call of an upstream."""
        self._attempts.add((self._model(model), _known(result, RESULTS)))

    def signal(self, kind: str, result: str) -> None:
        """Count a judgement of an answer, or that there is none."""
        self._signals.add((_known(kind, SIGNAL_KINDS), _known(result, SIGNAL_RESULTS)))

    def picked(self, route: str, result: str) -> None:
        """Take note of a picked route."""
        self._picks.add((route, result))

    def spent(self, model: str, kind: str, cost_usd: float) -> None:
        """Add what was spent after a request had ended."""
        self._cost.add((self._model(model), _known(kind, COST_KINDS)), cost_usd)

    def reloaded(self, *, ok: bool) -> None:
        """Count an attempt to take in a changed configuration."""
        self._reloads.add(("ok" if ok else "failed",))

    def _model(self, name: str | None) -> str:
        if name is None:
            return NONE
        return name if name in self.pool else OTHER

    def _times(self, call: Call, outcome: Outcome) -> None:
        stages: Mapping[str, float] | None = getattr(call, "stages", None)
        waited: float = getattr(call, "upstream_s", 0.0)
        if stages:
            own = 0.0
            if waited and _UPSTREAM not in stages:
                self._stage.observe((_UPSTREAM,), waited)
            observe = self._stage.observe
            for stage, seconds in stages.items():
                observe((stage if stage in STAGES else OTHER,), seconds)
                if stage != _UPSTREAM:
                    own += seconds
            self._overhead.observe(_NOTHING, own)
        elif outcome.latency_s is not None and not getattr(call.chat, "stream", False):
            self._overhead.observe(_NOTHING, outcome.latency_s - waited)

    def _attempted(self, call: Call, served_by: str | None) -> None:
        if served_by is not None:
            self._attempts.add((self._model(served_by), "ok"))
        failures = getattr(call, "failures", ())
        if failures:
            following = [self._model(name) for name, _ in failures[1:]] + [self._model(served_by)]
            for (name, error), after in zip(failures, following, strict=True):
                before, reason = self._model(name), reason_of(error)
                self._attempts.add((before, reason))
                self._fallbacks.add((before, after, reason))
        for name, _ in getattr(call, "abandoned", ()):
            self._attempts.add((self._model(name), "abandoned"))

    def _spent(self, call: Call, outcome: Outcome, model: str) -> None:
        tokens = self._tokens
        if outcome.input_tokens:
            tokens.add((model, "input"), outcome.input_tokens)
        if outcome.output_tokens:
            tokens.add((model, "output"), outcome.output_tokens)
        if outcome.cached_tokens:
            tokens.add((model, "cached"), outcome.cached_tokens)
        if outcome.reasoning_tokens:
            tokens.add((model, "reasoning"), outcome.reasoning_tokens)
        usage = getattr(outcome, "usage", None)
        if usage:
            for kind, count in _further_tokens(usage):
                tokens.add((model, kind), count)
        if outcome.cost_usd is not None:
            self._cost.add((model, "answer"), outcome.cost_usd)
        extra = getattr(call, "extra_cost", None)
        if extra:
            for kind, cost in extra.items():
                self._cost.add((model, _known(kind, COST_KINDS)), cost)

    def _decided(self, decision: Decision, chosen: str, outcome: Outcome) -> None:
        self._decisions.add((self._policy(decision.policy), self._model(chosen)))
        expected = decision.ranking[0].expected_quality
        if math.isnan(expected):
            return  # the client named its model: nothing was weighed
        self._lanes.add(("canary" if decision.lane else "live",))
        if decision.explored:
            self._explored.add((self._model(chosen),))
        self._expected_quality.observe(_NOTHING, expected)
        if outcome.cost_usd is not None and outcome.status == "ok":
            dearest = max(entry.expected_cost_usd for entry in decision.ranking if entry.eligible)
            if math.isfinite(dearest):
                self._dearest.add(_NOTHING, dearest)
                self._routed.add(_NOTHING, outcome.cost_usd)

    def _policy(self, name: str) -> str:
        # Settings are left out, because a client may choose them: utility(0.3) is utility.
        kind = name.partition("(")[0]
        if kind not in self._policies:
            if len(self._policies) >= _MOST_POLICIES:
                return OTHER
            self._policies.add(kind)
        return kind


_MOST_POLICIES = 50


def _known(value: str, allowed: frozenset[str]) -> str:
    return value if value in allowed else OTHER


def _further_tokens(usage: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Return audio and cache-writing tokens of a provider's own usage object."""
    found = []
    for kind, details in (("input_audio", "prompt_tokens_details"), ("output_audio", "completion_tokens_details")):
        part = usage.get(details)
        if isinstance(part, Mapping):
            found.append((kind, part.get("audio_tokens")))
    found.append(("cache_write", usage.get("cache_creation_input_tokens")))
    return [(kind, count) for kind, count in found if isinstance(count, int) and count > 0]
