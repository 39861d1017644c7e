"""The cache as the gateway uses it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.datastructures import Headers

from llmrouter.exceptions import ConfigError
from service.cache.entry import Entry, Hit
from service.cache.flights import Flights
from service.cache.memory import AnswerStore, MemoryStore
from service.cache.plan import CachePlan, make_plan
from service.cache.recorder import UNFIT_REASONS, WHOLE, StreamRecorder
from service.cache.settings import CacheSettings
from service.cache.similar import Question, SimilarQuestions
from service.errors import APIError

if TYPE_CHECKING:
    from service.redis_link import RedisLink

_NOT_KEPT = 504


@dataclass(frozen=True, slots=True)
class CacheState:
    """What the cache holds and has done since the start.

    Attributes
    ----------
    entries, bytes : int
        Held by this process; 0 where they are in Redis.
    hits, semantic_hits, coalesced_hits, misses : int
        Lookups: answered with the same question's answer, with a similar one's, with that of a request which was under
        way, or not.
    stored, evictions, expired : int
        Entries taken, pushed out by others, found too old.
    failures : int
        Reads and writes that Redis did not do, and values that were damaged.
    questions : int
        Remembered by their embeddings.
    """

    entries: int
    bytes: int
    hits: int
    semantic_hits: int
    coalesced_hits: int
    misses: int
    stored: int
    evictions: int
    expired: int
    failures: int
    questions: int


class Cache:
    """Answers kept for the same question, or a similar one.

    Parameters
    ----------
    settings : CacheSettings
        The configuration.
    store : AnswerStore
        Where answers are.
    clock : callable
        Seconds since the epoch.

    Attributes
    ----------
    is_semantic : bool
        Whether lookups make use of embeddings.
    """

    def __init__(self, settings: CacheSettings, store: AnswerStore, *, clock: Callable[[], float] = time.time) -> None:
        self.settings = settings
        self.is_semantic = settings.semantic.enabled
        self._store = store
        self._clock = clock
        semantic = settings.semantic
        self._similar = SimilarQuestions(max_entries=semantic.max_entries, similarity=semantic.similarity)
        self._similar_ttl_s = min(settings.ttl_s, semantic.ttl_s or settings.ttl_s)
        self._flights = Flights(wait_s=settings.coalesce_wait_s) if settings.coalesce else None
        self._hits = self._semantic_hits = self._coalesced_hits = self._misses = 0

    @classmethod
    def from_settings(
        cls, settings: CacheSettings, *, link: RedisLink | None = None, clock: Callable[[], float] = time.time
    ) -> Cache:
        """Return the cache that a configuration asks for.

        Raises
        ------
        ConfigError
            If it is to be in Redis, and there is none.
        """
        store: AnswerStore
        if settings.store == "redis":
            if link is None:
                raise ConfigError(
                    "'redis' needs the section 'redis', which is missing; add it, or use memory", path="cache.store"
                )
            from service.cache.redis_store import RedisStore

            store = RedisStore(link, ttl_s=settings.ttl_s)
        else:
            store = MemoryStore(
                max_entries=settings.max_entries, max_bytes=settings.max_bytes, ttl_s=settings.ttl_s, clock=clock
            )
        return cls(settings, store, clock=clock)

    def plan(
        self,
        endpoint: str,
        body: Mapping[str, Any],
        headers: Headers,
        *,
        key_id: str | None,
        team: str | None,
        models: Sequence[str] | None = None,
    ) -> CachePlan | None:
        """Return what the cache may do for a request; None where it has no part in it.

        Parameters
        ----------
        endpoint : str
            Name of the endpoint.
        body : mapping
            In the shape of chat completions, with what is asked of the router.
        headers : Headers
            Of the request: ``Cache-Control`` is followed.
        key_id, team : str or None
            Who asks.
        models : sequence of str, optional
            The models that one may use, where they are restricted: an answer is for those with the same.
        """
        return make_plan(self.settings, endpoint, body, headers, key_id=key_id, team=team, models=models)

    async def lookup(
        self, plan: CachePlan, *, text: str | None = None, embedding: NDArray[np.float32] | None = None
    ) -> Hit | None:
        """Return a kept answer, if there is one that the request may be given.

        Parameters
        ----------
        plan : CachePlan
            Of the request; keeps `embedding` for when the answer is kept.
        text, embedding : str and ndarray of shape (d,), optional
            The text that the router read, and its embedding. It is of use only where that is the plan's question.

        Raises
        ------
        APIError
            504, if the request wants a kept answer only (``only-if-cached``) and there is none.
        """
        if embedding is not None and plan.question is not None and text == plan.question:
            plan.embedding = embedding
        hit = await self._find(plan) if plan.may_read else None
        if hit is None:
            if plan.may_read:
                self._misses += 1
            if plan.only_if_cached:
                raise _not_kept()
        return hit

    def store_answer(
        self, plan: CachePlan, answer: bytes, *, served_by: str, usage: Mapping[str, Any] | None = None
    ) -> None:
        """Keep a whole answer, if it is one that came to a good end; never waits.

        Parameters
        ----------
        plan : CachePlan
            Of the request.
        answer : bytes
            The upstream's chat completion.
        served_by : str
            The model that answered.
        usage : mapping, optional
            As the provider counted.
        """
        reasons = None
        if plan.may_store and len(answer) <= self.settings.max_entry_bytes:
            reasons = _finish_reasons(answer)
        if reasons is None or len(reasons) < plan.choices or not UNFIT_REASONS.isdisjoint(reasons):
            self.release(plan)
            return
        entry = Entry(
            payload=answer,
            streamed=False,
            served_by=served_by,
            stored=self._clock(),
            usage=usage,
            plain=set(reasons) == {WHOLE},
            scope=plan.scope,
        )
        self._keep(plan, entry)

    def recorder(self, plan: CachePlan) -> StreamRecorder | None:
        """Return what takes down the stream of a request; None where its answer may not be kept."""
        if not plan.may_store:
            return None
        return StreamRecorder(max_bytes=self.settings.max_entry_bytes, choices=plan.choices)

    def store_stream(
        self, plan: CachePlan, recorder: StreamRecorder, *, served_by: str, usage: Mapping[str, Any] | None = None
    ) -> None:
        """Keep what was taken down of a stream, if it came to a good end; never waits. See `store_answer`."""
        recording = recorder.recording() if plan.may_store else None
        if recording is None:
            self.release(plan)
            return
        entry = Entry(
            payload=recording.payload,
            streamed=True,
            served_by=served_by,
            stored=self._clock(),
            usage=usage,
            usage_event=recording.usage_event,
            usage_shown=recording.usage_shown,
            plain=recording.plain,
            scope=plan.scope,
        )
        self._keep(plan, entry)

    def release(self, plan: CachePlan) -> None:
        """Let those go on who wait for this request: it has ended. To be called for every plan; idempotent."""
        if self._flights is not None:
            self._flights.land(plan, None)

    def state(self) -> CacheState:
        """Return the counters."""
        counts = self._store.counts
        return CacheState(
            entries=counts.entries,
            bytes=counts.bytes,
            hits=self._hits,
            semantic_hits=self._semantic_hits,
            coalesced_hits=self._coalesced_hits,
            misses=self._misses,
            stored=counts.stored,
            evictions=counts.evictions,
            expired=counts.expired,
            failures=counts.failures,
            questions=len(self._similar),
        )

    async def clear(self, scope: str | None = None) -> int:
        """Remove the answers of a scope (``key:ID``, ``team:NAME``, ``global``), or all; return how many there were.

        Raises
        ------
        RedisUnavailableError
            If they are in Redis, and it does not answer.
        """
        self._similar.clear(scope)
        return await self._store.clear(scope)

    async def aclose(self) -> None:
        """End what runs in the background."""
        await self._store.aclose()

    # Finding and keeping

    async def _find(self, plan: CachePlan) -> Hit | None:
        hit = self._fit(plan, await self._store.get(plan.scope, plan.key))
        if hit is not None:
            self._hits += 1
            return hit
        if plan.embedding is not None:
            hit = await self._find_similar(plan, plan.embedding)
            if hit is not None:
                self._semantic_hits += 1
                return hit
        if self._flights is not None and not plan.only_if_cached:
            entry = await self._flights.join(plan)
            if entry is not None:
                self._coalesced_hits += 1
                return Hit(entry, age_s=self._age_s(entry))
        return None

    async def _find_similar(self, plan: CachePlan, embedding: NDArray[np.float32]) -> Hit | None:
        for key, similarity in self._similar.search(plan.frame, plan.question or "", embedding):
            entry = await self._store.get(plan.scope, key)
            if entry is None or not entry.plain or self._age_s(entry) >= self._similar_ttl_s:
                self._similar.forget(key)
            elif (hit := self._fit(plan, entry, similarity)) is not None:
                return hit
        return None

    def _fit(self, plan: CachePlan, entry: Entry | None, similarity: float | None = None) -> Hit | None:
        """Return an entry as a hit, unless the request wants a newer one."""
        if entry is None:
            return None
        age_s = self._age_s(entry)
        if plan.max_age_s is not None and age_s > plan.max_age_s:
            return None
        return Hit(entry, age_s, similarity)

    def _age_s(self, entry: Entry) -> float:
        return max(self._clock() - entry.stored, 0.0)  # another replica's clock may be ahead

    def _keep(self, plan: CachePlan, entry: Entry) -> None:
        self._store.put(plan.key, entry)
        if plan.embedding is not None and plan.question is not None and plan.frame and entry.plain:
            self._similar.add(Question(plan.key, plan.frame, plan.question, plan.scope), plan.embedding)
        if self._flights is not None:
            self._flights.land(plan, entry)


def _finish_reasons(answer: bytes) -> list[str] | None:
    """Return the finish reason of each choice; None for what is no chat completion that came to its end."""
    try:
        payload = orjson.loads(answer)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(payload, dict) or payload.get("error"):
        return None
    reasons = []
    choices = payload.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        reason = choice.get("finish_reason") if isinstance(choice, dict) else None
        if not isinstance(reason, str) or not isinstance(choice.get("message"), dict):
            return None
        reasons.append(reason)
    return reasons or None


def _not_kept() -> APIError:
    return APIError(
        "There is no kept answer to this request, and 'Cache-Control: only-if-cached' forbids to ask a model. "
        "Leave that directive out to have it answered.",
        status=_NOT_KEPT,
        code="not_cached",
        # OpenAI's clients would try again otherwise.
        headers={"x-should-retry": "false", "x-llmrouter-cache": "miss"},
    )
