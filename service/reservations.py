"""What requests set aside of limits and budgets, and give back when it is known what they used."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Coroutine, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from llmrouter.types import ModelCard, Usage
from service.call import Call, Status
from service.limits.refusals import LimitExceededError
from service.resilience.state import LocalLimitError
from service.shared import Shared

_LIKELY_OUTPUT_TOKENS = 256
_SETTLE_S = 2.0


class Reservations:
    """Sets aside and settles for the requests of one gateway.

    Parameters
    ----------
    shared : Shared
        Holds the limiter and knows who is limited.
    cards : mapping of str to ModelCard
        Pool name -> card, for what a call may cost.
    at_list_price : set of str
        Models whose expected cost may follow another price than the one that is charged: nothing is set aside by it.
    """

    def __init__(
        self, shared: Shared, cards: Mapping[str, ModelCard], *, at_list_price: AbstractSet[str] = frozenset()
    ) -> None:
        self._at_list_price = at_list_price
        self._shared = shared
        self._limiter = shared.limiter
        self._telemetry = shared.telemetry
        self._cards = cards
        self._tasks: set[asyncio.Task[None]] = set()

    async def reserve(self, call: Call) -> None:
        """Set aside what the request may use of the limits of its key, its team and the gateway.

        Raises
        ------
        LimitExceededError
            If one of them does not allow it.
        """
        subjects = self._shared.subjects_of(call.principal)
        if not subjects:
            return
        before = time.perf_counter()
        tokens, dollars = self._amounts(call)
        call.grant = await self._limiter.acquire(subjects, tokens=tokens, cost_usd=dollars, request_id=call.request_id)
        call.stages["limits"] = time.perf_counter() - before

    async def reserve_model(self, call: Call, name: str) -> None:
        """Set aside what the call of a model may use of that model's own limits.

        Raises
        ------
        LocalLimitError
            If they do not allow it; the next model is tried.
        """
        subjects = self._shared.subjects.of_model(name)
        if not subjects:
            return
        tokens, dollars = self._amounts(call, name)
        try:
            grant = await self._limiter.acquire(
                subjects, tokens=tokens, cost_usd=dollars, request_id=f"{call.request_id}/{name}"
            )
        except LimitExceededError as error:
            self._telemetry.limited(error.kind, error.dimension)
            raise LocalLimitError.of(error, model=name) from error
        call.model_grants.append((name, grant))

    def _amounts(self, call: Call, name: str | None = None) -> tuple[int, float]:
        routing = call.chat.routing
        chosen = call.decision.model if name is None else name
        card = self._cards[chosen]
        output = routing.max_output_tokens
        tokens = routing.prompt_tokens + (output or 0)
        bound = card.price.cost_usd(routing.prompt_tokens, _LIKELY_OUTPUT_TOKENS if output is None else output)
        if chosen in self._at_list_price:
            return tokens, bound
        expected = next((e.expected_cost_usd for e in call.decision.ranking if e.model == chosen), math.nan)
        return tokens, bound if math.isnan(expected) else max(expected, bound if output else 0.0)

    def settle(self, call: Call, usage: Usage | None, cost: float | None, status: Status) -> None:
        """Give back what was set aside and not used."""
        if call.grant is None and not call.model_grants:
            return
        if call.cache in ("hit", "semantic") or status == "error" or not call.asked:
            used: tuple[int | None, float | None] = (0, cost or 0.0)
        else:
            used = (_total_tokens(usage), cost)
        self._spawn(self._settle_all(call, used))

    async def _settle_all(self, call: Call, used: tuple[int | None, float | None]) -> None:
        tokens, cost = used
        if call.grant is not None:
            await self._limiter.settle(call.grant, tokens=tokens, cost_usd=cost)
        answered = False
        for name, grant in reversed(call.model_grants):
            if name == call.served_by and not answered:
                answered = True
                await self._limiter.settle(grant, tokens=tokens, cost_usd=cost)
            elif any(name == other for other, _ in call.abandoned):
                # It may have answered half: what was set aside is taken for used.
                await self._limiter.settle(grant, tokens=None, cost_usd=None)
            else:
                await self._limiter.cancel(grant)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finished(self) -> None:
        """Wait until what was used is counted, for a while."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_SETTLE_S)


def _total_tokens(usage: Usage | None) -> int | None:
    if usage is None or usage.input_tokens is None or usage.output_tokens is None:
        return None
    return usage.input_tokens + usage.output_tokens
