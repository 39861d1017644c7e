"""The calls that the gateway itself makes to models of the pool: they count for those models' limits like any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmrouter.exceptions import BackendError
from llmrouter.pool import CHAT, BackendResponse, BackendStream, Timeouts, usage_from_body
from llmrouter.types import estimate_tokens
from service.limits.grant import NOTHING_LIMITED
from service.limits.refusals import LimitExceededError

if TYPE_CHECKING:
    from service.gateway import Gateway

_LIKELY_OUTPUT_TOKENS = 512


class JudgeCalls:
    """The backend of one model as one judgement, or the picking of a route, calls it.

    Parameters
    ----------
    gateway : Gateway
        Whose pool, and whose limits.
    name : str
        Pool name.
    request_id : str
        For which request it is asked.
    purpose : str
        What for; in the names of its grants.

    Attributes
    ----------
    spent_usd : float
        What the calls so far have cost, by the provider's usage, else by what they were expected to; a later one that
        fails takes nothing away.
    """

    def __init__(self, gateway: Gateway, name: str, *, request_id: str, purpose: str = "judge") -> None:
        self.spent_usd = 0.0
        self._backend = gateway.backends[name]
        self._price = gateway.cards[name].price
        self._subjects = gateway.shared.subjects.of_model(name)
        self._limiter = gateway.limiter
        self._telemetry = gateway.telemetry
        self._request_id = f"{request_id}/{name}/{purpose}"

    async def complete(self, body: Mapping[str, Any], *, timeouts: Timeouts, endpoint: str = CHAT) -> BackendResponse:
        """Return the whole answer, where the model's limits allow the call.

        Raises
        ------
        LimitExceededError
            If they do not; nothing was asked.
        BackendError
            If there is no answer.
        """
        asked = estimate_tokens(conversation(body, otherwise=""))
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        output = limit if isinstance(limit, int) else None
        bound = self._price.cost_usd(asked, _LIKELY_OUTPUT_TOKENS if output is None else output)
        grant = NOTHING_LIMITED
        if self._subjects:
            try:
                grant = await self._limiter.acquire(
                    self._subjects, tokens=asked + (output or 0), cost_usd=bound, request_id=self._request_id
                )
            except LimitExceededError as error:
                self._telemetry.limited(error.kind, error.dimension)
                raise
        try:
            answer = await self._backend.complete(body, timeouts=timeouts, endpoint=endpoint)
        except BackendError:
            await self._limiter.cancel(grant)
            raise
        except BaseException:  # cancelled: it may have answered half
            await self._limiter.settle(grant, tokens=None, cost_usd=None)
            raise
        usage = usage_from_body(answer.body)
        cost = self._price.cost_of(usage)
        self.spent_usd += bound if cost is None else cost
        known = usage is not None and usage.input_tokens is not None and usage.output_tokens is not None
        tokens = (usage.input_tokens or 0) + (usage.output_tokens or 0) if known and usage is not None else None
        await self._limiter.settle(grant, tokens=tokens, cost_usd=cost)
        return answer

    async def stream(self, body: Mapping[str, Any], *, timeouts: Timeouts, endpoint: str = CHAT) -> BackendStream:
        """Refuse: a judgement waits for whole answers, and a stream would have to be counted otherwise."""
        raise NotImplementedError("a judgement asks for whole answers")

    async def healthy(self) -> bool:
        """Return whether the upstream answers at all."""
        return await self._backend.healthy()

    async def aclose(self) -> None:
        """Do nothing: the backend is the gateway's."""


def conversation(body: Mapping[str, Any], *, otherwise: str) -> str:
    """Return a chat as text: ``role: what was said``, message by message; `otherwise` where it is none."""
    messages: Sequence[Mapping[str, Any]] = body.get("messages") or ()
    said = [f"{message.get('role', '')}: {_said(message.get('content'))}" for message in messages]
    return "\n\n".join(said) or otherwise


def _said(content: object) -> str:
    if isinstance(content, list):
        parts = [part.get("text") or f"[{part.get('type', 'part')}]" for part in content if isinstance(part, Mapping)]
        return "\n".join(map(str, parts))
    return content if isinstance(content, str) else ""
