"""One chat completion under way: what happened so far, and what is told and recorded of it."""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass, field
from typing import Literal

from llmrouter.exceptions import BackendConnectError, BackendError, BackendStatusError, BackendTimeoutError
from llmrouter.pool import FailedAttempt
from llmrouter.types import Decision, ModelCard, Outcome, RankedModel, Usage
from service.chat import ChatRequest

Status = Literal["ok", "error", "partial", "cancelled"]

_MILLISECONDS = 1000.0
_LONGEST_ERROR = 500


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

    def expected(self) -> RankedModel | None:
        """Return what was expected of the model that answers."""
        return next((entry for entry in self.decision.ranking if entry.model == self.served_by), None)

    def headers(self) -> dict[str, str]:
        """Return the response headers that explain the routing."""
        decision = self.decision
        values = {
            "model": self.served_by or "",
            "router": decision.router,
            "policy": decision.policy,
            "artifact": decision.artifact_id,
            # Where nobody answered, the last one that was tried is no fallback for another.
            "fallbacks": str(len(self.failures) - (0 if self.served_by else 1)),
            "overhead-ms": f"{(time.perf_counter() - self.started - self.upstream_s) * _MILLISECONDS:.3f}",
        }
        if self.failures:
            values["attempts"] = ", ".join(f"{name}={_reason(error)}" for name, error in self.failures)
        entry = self.expected()
        if entry is not None:
            if math.isfinite(entry.expected_quality):
                values["expected-quality"] = f"{entry.expected_quality:.4f}"
            if math.isfinite(entry.expected_cost_usd):
                values["expected-cost"] = decimal(entry.expected_cost_usd)
        return {f"x-llmrouter-{name}": value for name, value in values.items() if value}

    def outcome(
        self,
        status: Status,
        *,
        prompts: str,
        usage: Usage | None = None,
        cost_usd: float | None = None,
        error: str = "",
    ) -> Outcome:
        """Return the record of this call, as of now.

        Parameters
        ----------
        status : str
            See `Outcome`.
        prompts : str
            What is kept of the prompt: ``text``, ``hash`` or ``none``.
        usage : Usage, optional
            As the provider counted.
        cost_usd : float, optional
            Of the answer.
        error : str
            What went wrong.
        """
        usage = usage or Usage()
        text = self.chat.routing.text
        digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest() if prompts != "none" else None
        return Outcome(
            request_id=self.request_id,
            time=self.received,
            model=self.decision.model,
            router=self.decision.router,
            artifact_id=self.decision.artifact_id,
            policy=self.decision.policy,
            propensity=self.decision.propensity,
            candidates={
                entry.model: {
                    "quality": entry.expected_quality,
                    "standard_error": entry.standard_error,
                    "cost_usd": entry.expected_cost_usd,
                }
                for entry in self.decision.ranking
                if math.isfinite(entry.expected_quality)
            },
            conversation_id=self.chat.routing.conversation_id,
            key_id=self.chat.routing.key_id,
            prompt=text if prompts == "text" else None,
            prompt_sha256=digest,
            served_by=self.served_by,
            fallbacks=tuple(name for name, _ in self.failures),
            status=status,
            error=error[:_LONGEST_ERROR] or None,
            input_tokens=usage.input_tokens,
            cached_tokens=usage.cached_tokens,
            output_tokens=usage.output_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            cost_usd=cost_usd,
            time_to_first_token_s=self.first_token_s,
            latency_s=time.perf_counter() - self.started,
        )


def _reason(error: BackendError) -> str:
    """Return a failure in one word."""
    if isinstance(error, BackendStatusError):
        return str(error.status)
    if isinstance(error, BackendTimeoutError):
        return "timeout"
    return "unreachable" if isinstance(error, BackendConnectError) else "broke-off"


def cost_of(usage: Usage, card: ModelCard) -> float | None:
    """Return the cost in US dollars, or None where the provider did not count the tokens."""
    if usage.input_tokens is None or usage.output_tokens is None:
        return None
    return card.price.cost_usd(usage.input_tokens, usage.output_tokens, cached_tokens=usage.cached_tokens or 0)


def decimal(value: float) -> str:
    """Return a small amount of money without an exponent."""
    return f"{value:.12f}".rstrip("0").rstrip(".")
