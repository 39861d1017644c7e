"""One request under way: what happened so far, and what is told and recorded of it."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from llmrouter.exceptions import BackendConnectError, BackendError, BackendStatusError, BackendTimeoutError
from llmrouter.pool import FailedAttempt
from llmrouter.types import Decision, Outcome, RankedModel, Usage
from service.chat import ChatRequest
from service.keys.principal import ANONYMOUS, Principal

if TYPE_CHECKING:
    from service.cache import CachePlan
    from service.learning.answer import HeardAnswer
    from service.limits import Grant
    from service.telemetry.trace_context import TraceContext

Status = Literal["ok", "error", "partial", "cancelled"]

UNDECIDED = Decision(ranking=())
"""The decision of a call for which none has been made yet."""

_MILLISECONDS = 1000.0
_LONGEST_ERROR = 500
_KEPT = frozenset({"hit", "semantic"})


@dataclass(slots=True)
class Call:
    """The state of one request; belongs to its task.

    Attributes
    ----------
    request_id : str
        Ours.
    chat : ChatRequest
        What was asked.
    decision : Decision
        What was decided.
    started : float
        `time.perf_counter` when the request came.
    received : float
        Seconds since the epoch when it came.
    failures : list of FailedAttempt
        Models that were tried and failed, in order.
    served_by : str or None
        The model that answers.
    upstream_s : float
        Time spent waiting for upstreams.
    first_token_s : float or None
        From `started` to the first token.
    principal : Principal
        Who asks.
    stages : dict of str to float
        Seconds of the gateway's own work, by stage: auth, parse, limits, cache, route, translate, record; and upstream,
        the wait for models.
    cache : str
        ``hit``, ``semantic``, ``miss`` or ``bypass``; "" where the cache is off.
    plan : CachePlan or None
        Under what the answer may be kept.
    hedges : list of str
        Models that were asked beside the first, because that was slow.
    abandoned : list of (str, float)
        Models whose call was cancelled because another answered first, and after how many seconds.
    extra_cost : dict of str to float
        US dollars beside the answer's own: ``retry``, ``hedge``, ``router``, ``judge``; as far as they are known.
    deployment : str
        Which deployment of the model answered; "" where there is one.
    grant : Grant or None
        What the limits set aside for the request.
    model_grants : list of (str, Grant)
        The same of the models that were asked, in order.
    trace : TraceContext or None
        The request's place in a trace.
    finish_reason : str or None
        Why the answer ended, as the upstream said.
    heard : HeardAnswer or None
        What takes down the answer, where something is to judge it.
    recorded : bool
        Whether the outcome has been handed over.
    """

    request_id: str
    chat: ChatRequest
    decision: Decision
    started: float
    received: float
    failures: list[FailedAttempt] = field(default_factory=list)
    served_by: str | None = None
    upstream_s: float = 0.0
    first_token_s: float | None = None
    principal: Principal = ANONYMOUS
    stages: dict[str, float] = field(default_factory=dict)
    cache: str = ""
    plan: CachePlan | None = None
    hedges: list[str] = field(default_factory=list)
    abandoned: list[tuple[str, float]] = field(default_factory=list)
    extra_cost: dict[str, float] = field(default_factory=dict)
    deployment: str = ""
    grant: Grant | None = None
    model_grants: list[tuple[str, Grant]] = field(default_factory=list)
    trace: TraceContext | None = None
    finish_reason: str | None = None
    heard: HeardAnswer | None = None
    recorded: bool = False

    @property
    def endpoint(self) -> str:
        """Name of the endpoint that was asked."""
        return self.chat.endpoint.name

    @property
    def asked(self) -> bool:
        """Whether any model was asked, or was to be."""
        return bool(self.decision.ranking) and self.upstream_s > 0

    def expected(self) -> RankedModel | None:
        """Return what was expected of the model that answers."""
        return next((entry for entry in self.decision.ranking if entry.model == self.served_by), None)

    def count_pick(self) -> None:
        """Take note of what picking the route cost."""
        pick = self.decision.route
        if pick is not None and pick.cost_usd:
            self.extra_cost["router"] = self.extra_cost.get("router", 0.0) + pick.cost_usd

    def headers(self) -> dict[str, str]:
        """Return the response headers that explain the routing."""
        decision = self.decision
        values = {
            "model": self.served_by or "",
            "router": decision.router,
            "policy": decision.policy,
            "route": "" if decision.route is None else decision.route.name,
            "artifact": decision.artifact_id,
            "lane": decision.lane,
            "explored": "true" if decision.explored else "",
            # Where nobody answered, the last one that was tried is no fallback for another.
            "fallbacks": str(len(self.failures) - (0 if self.served_by else 1)),
            "overhead-ms": f"{(time.perf_counter() - self.started - self.upstream_s) * _MILLISECONDS:.3f}",
        }
        if self.cache:
            values["cache"] = self.cache
        if self.deployment:
            values["deployment"] = self.deployment
        if self.hedges:
            values["hedges"] = ", ".join(self.hedges)
        if self.failures:
            values["attempts"] = ", ".join(f"{name}={_reason(error)}" for name, error in self.failures)
        entry = self.expected()
        if entry is not None:
            if math.isfinite(entry.expected_quality):
                values["expected-quality"] = f"{entry.expected_quality:.4f}"
            if math.isfinite(entry.expected_cost_usd):
                values["expected-cost"] = decimal(entry.expected_cost_usd)
        explained = {f"x-llmrouter-{name}": value for name, value in values.items() if value}
        if self.grant is not None:
            explained |= self.grant.headers()
        return explained

    def outcome(
        self,
        status: Status,
        *,
        prompts: str,
        usage: Usage | None = None,
        cost_usd: float | None = None,
        price_as_of: str | None = None,
        error: str = "",
    ) -> Outcome:
        """Return the record of this call, as of now.

        Parameters
        ----------
        status : str
            See `Outcome`.
        prompts : str
            What is kept of the prompt: ``text``, ``hash``, ``embedding`` or ``none``.
        usage : Usage, optional
            As the provider counted.
        cost_usd : float, optional
            Of the answer.
        price_as_of : str, optional
            The price list that it was computed with.
        error : str
            What went wrong.
        """
        usage = usage or Usage()
        text = self.chat.routing.text
        digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest() if prompts != "none" else None
        vector = self.decision.embedding if prompts == "embedding" else None
        return Outcome(
            request_id=self.request_id,
            time=self.received,
            model=self.decision.model,
            router=self.decision.router,
            artifact_id=self.decision.artifact_id,
            policy=self.decision.policy,
            propensity=self.decision.propensity,
            explored=self.decision.explored,
            lane=self.decision.lane,
            shadow=self.decision.shadow,
            candidates={
                entry.model: {
                    "quality": entry.expected_quality,
                    "standard_error": entry.standard_error,
                    "cost_usd": entry.expected_cost_usd,
                    "propensity": entry.propensity,
                    **({} if entry.eligible else {"eligible": 0.0}),
                }
                for entry in self.decision.ranking
                if math.isfinite(entry.expected_quality)
            },
            conversation_id=self.chat.routing.conversation_id,
            key_id=self.principal.key_id,
            prompt=text if prompts == "text" else None,
            prompt_sha256=digest,
            embedding=None if vector is None else tuple(vector.astype("<f4").tolist()),
            served_by=self.served_by,
            fallbacks=tuple(name for name, _ in self.failures),
            status=status,
            error=error[:_LONGEST_ERROR] or None,
            input_tokens=usage.input_tokens,
            cached_tokens=usage.cached_tokens,
            output_tokens=usage.output_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            cost_usd=cost_usd,
            price_as_of=price_as_of,
            time_to_first_token_s=self.first_token_s,
            latency_s=time.perf_counter() - self.started,
            endpoint=self.endpoint,
            stream=self.chat.stream,
            usage=usage.raw,
            overhead_cost_usd=sum(self.extra_cost.values()) if self.extra_cost else None,
            cache=self.cache if self.cache in _KEPT else "",
            deployment=self.deployment or None,
            team=self.principal.team,
            attempts=tuple(_attempt(name, error) for name, error in self.failures),
            finish_reason=self.finish_reason,
        )


def _reason(error: BackendError) -> str:
    """Return a failure in one word."""
    if isinstance(error, BackendStatusError):
        return str(error.status)
    if isinstance(error, BackendTimeoutError):
        return "timeout"
    return "unreachable" if isinstance(error, BackendConnectError) else "broke-off"


def _attempt(name: str, error: BackendError) -> Mapping[str, Any]:
    status = error.status if isinstance(error, BackendStatusError) else None
    return {"model": name, "error": _reason(error), "status": status}


def decimal(value: float) -> str:
    """Return a small amount of money without an exponent."""
    return f"{value:.12f}".rstrip("0").rstrip(".")
