"""Answers kept for the requests of a gateway: looked up before a model is asked, put away after it has answered."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers

from llmrouter.types import Decision, RankedModel, Usage
from service.call import Call
from service.control import BODY_KEY
from service.endpoints import CHAT
from service.reservations import Reservations
from service.upstreams import Upstreams

if TYPE_CHECKING:
    from service.cache import Cache, Hit, StreamRecorder


class KeptAnswers:
    """The cache as requests use it; without one, nothing is found and nothing kept.

    Parameters
    ----------
    cache : Cache or None
        Where answers are.
    reservations : Reservations
        A kept answer counts as a request.
    upstreams : Upstreams
        Answers that an upstream gives in another dialect are not kept.
    embed : callable
        Text -> vector (d,), by the encoder in use.
    """

    def __init__(
        self,
        cache: Cache | None,
        reservations: Reservations,
        upstreams: Upstreams,
        *,
        embed: Callable[[str], Any],
    ) -> None:
        self._cache = cache
        self._reservations = reservations
        self._upstreams = upstreams
        self._embed = embed

    async def replay(self, call: Call, headers: Headers) -> Hit | None:
        """Return a kept answer to the same question, where there is one and the request allows it."""
        cache = self._cache
        if cache is None or call.chat.control.dry_run or not call.chat.translatable:
            return None
        before = time.perf_counter()
        principal = call.principal
        plan = cache.plan(
            call.endpoint,
            {**call.chat.body, BODY_KEY: call.chat.control.answer_relevant()},
            headers,
            key_id=principal.key_id,
            team=principal.team,
            models=principal.models,
        )
        if plan is None:
            call.cache = "bypass"
            return None
        call.plan = plan
        question = plan.question if plan.may_read else None
        embedding = None if question is None else await asyncio.to_thread(self._embed, question)
        hit: Hit | None = await cache.lookup(plan, text=plan.question, embedding=embedding)
        call.cache = ("semantic" if hit.semantic else "hit") if hit else ("miss" if plan.may_read else "bypass")
        if hit is not None:
            call.served_by = hit.entry.served_by
            call.decision = Decision(
                ranking=(RankedModel(hit.entry.served_by, math.nan, math.nan, 0.0),), policy="cache"
            )
            await self._reservations.reserve(call)
        call.stages["cache"] = time.perf_counter() - before
        return hit

    def keep(self, call: Call, answer: bytes, usage: Usage) -> None:
        """Keep a whole answer of the upstream for the same question."""
        if self._cache is not None and call.plan is not None and self._cacheable(call):
            self._cache.store_answer(call.plan, answer, served_by=call.served_by or "", usage=usage.raw)

    def recorder(self, call: Call) -> StreamRecorder | None:
        """Return what takes down a stream that may be kept."""
        if self._cache is None or call.plan is None or not self._cacheable(call):
            return None
        return self._cache.recorder(call.plan)

    def keep_stream(self, call: Call, recorder: StreamRecorder, usage: Usage) -> None:
        """Keep a stream that came to its end."""
        if self._cache is not None and call.plan is not None:
            self._cache.store_stream(call.plan, recorder, served_by=call.served_by or "", usage=usage.raw)

    def _cacheable(self, call: Call) -> bool:
        return call.chat.endpoint is CHAT or not self._upstreams.serves(call.served_by, call.chat.endpoint)
