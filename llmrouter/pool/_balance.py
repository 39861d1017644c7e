"""Several deployments of one model: each call goes to the one that is likely to answer soonest."""

from __future__ import annotations

import math
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from llmrouter.exceptions import BackendError
from llmrouter.pool._base import CHAT, Backend, BackendResponse, BackendStream, Timeouts
from llmrouter.pool._cooldown import Cooldowns
from llmrouter.pool._failover import FailedAttempt, FailureClass, failure_class, is_upstream_trouble, most_telling
from llmrouter.pool._sse import ServerSentEvent
from llmrouter.pool._usage import StreamObserver

DEPLOYMENT_HEADER = "x-llmrouter-deployment"
"""Added to the headers of an answer: the name of the deployment that gave it."""

deployments_in_use: ContextVar[set[str] | None] = ContextVar("deployments_in_use", default=None)
"""Within a request whose attempts run beside each other: deployments that are taken, so that no two share one."""

# The same model is elsewhere as well, so nothing of the request itself is to be tried again.
_ELSEWHERE = frozenset({
    FailureClass.RATE_LIMIT, FailureClass.SERVER_ERROR, FailureClass.TIMEOUT, FailureClass.CONNECTION,
    FailureClass.LOCKED_OUT,
})  # fmt: skip
_RECENT = 0.3
_IDLE_S = 30.0
_UNKNOWN_S = 1.0
# Differences below this are noise, and calls under way must weigh in at any rate.
_SHORTEST_S = 0.001


class Deployment:
    """One of the places where a model is served.

    Parameters
    ----------
    name : str
        Told to clients.
    backend : Backend
        Reaches it.
    weight : float
        How much it can take, beside the others.

    Attributes
    ----------
    in_flight : int
        Calls under way; a stream counts until it is closed.
    """

    __slots__ = ("_latency_s", "_measured", "backend", "in_flight", "key", "name", "weight")

    def __init__(self, name: str, backend: Backend, *, weight: float = 1.0) -> None:
        if not weight > 0:
            raise ValueError(f"the weight of deployment {name!r} must be above 0; got {weight!r}")
        self.name = name
        self.backend = backend
        self.weight = weight
        self.in_flight = 0
        self.key = name
        # Whole answers take longer than first tokens: one estimate for each.
        self._latency_s: dict[bool, float] = {}
        self._measured: dict[bool, float] = {}

    def answered(self, seconds: float, now: float, *, streamed: bool) -> None:
        """Take note of how long an answer took."""
        seconds = max(seconds, _SHORTEST_S)
        before = self._latency_s.get(streamed)
        self._latency_s[streamed] = seconds if before is None else before + _RECENT * (seconds - before)
        self._measured[streamed] = now

    def latency_s(self, *, streamed: bool) -> float | None:
        """Return the smoothed latency as last measured, None where it has never answered."""
        return self._latency_s.get(streamed)

    def load(self, best_s: float, now: float, *, streamed: bool) -> float:
        """Return what another call has to expect: latency times calls under way, for its weight.

        An old measurement fades towards the best of the deployments, so that a slow one is tried again one day.
        """
        latency = self._latency_s.get(streamed, best_s)
        if latency > best_s:
            latency = best_s + (latency - best_s) * math.exp((self._measured[streamed] - now) / _IDLE_S)
        return latency * (self.in_flight + 1) / self.weight


class BalancedBackend:
    """One model in several deployments; see `Backend`.

    Of two deployments drawn at random the less loaded one is called ("power of two choices", Mitzenmacher 2001):
    smoothed latency x (calls under way + 1) / weight. Where it fails for reasons of its own, another is called before
    the failure counts as the model's. Deployments that cool down are left out; if all do, the one that is well soonest
    is called.

    Parameters
    ----------
    name : str
        Pool name of the model.
    deployments : sequence of Deployment
        At least one, with names of their own.
    cooldowns : Cooldowns, optional
        Of the deployments, under ``<model>/<deployment>``.
    may_retry : callable
        Asked before another deployment is called.
    rng : random.Random, optional
        For the draws.
    clock : callable
        Seconds on a steady clock.
    """

    def __init__(
        self,
        name: str,
        deployments: Sequence[Deployment],
        *,
        cooldowns: Cooldowns | None = None,
        may_retry: Callable[[], bool] = lambda: True,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not deployments or len({deployment.name for deployment in deployments}) < len(deployments):
            raise ValueError(f"{name}: a balanced model needs deployments, each with a name of its own")
        self.name = name
        self.deployments = tuple(deployments)
        for deployment in self.deployments:
            deployment.key = f"{name}/{deployment.name}"
        self._cooldowns = Cooldowns(clock=clock) if cooldowns is None else cooldowns
        self._may_retry = may_retry
        self._rng = random.Random() if rng is None else rng
        self._clock = clock

    def __repr__(self) -> str:
        """Return the names."""
        return f"BalancedBackend({self.name!r}, {[deployment.name for deployment in self.deployments]})"

    @property
    def replicas(self) -> int:
        """How many deployments are well."""
        return sum(not self._cooldowns.cooling(deployment.key) for deployment in self.deployments)

    async def complete(self, body: Mapping[str, Any], *, timeouts: Timeouts, endpoint: str = CHAT) -> BackendResponse:
        """Return the whole answer; see `Backend.complete`."""
        failures: list[FailedAttempt] = []
        while True:
            attempt = self._begin(failures, streamed=False)
            deployment = attempt.deployment
            try:
                answer = await deployment.backend.complete(body, timeouts=timeouts, endpoint=endpoint)
            except BackendError as error:
                attempt.failed(error)
                self._go_on(failures, deployment, error)
            else:
                attempt.answered()
                return BackendResponse(answer.body, {**answer.headers, DEPLOYMENT_HEADER: deployment.name})
            finally:
                attempt.end()

    async def stream(self, body: Mapping[str, Any], *, timeouts: Timeouts, endpoint: str = CHAT) -> BalancedStream:
        """Return once the first token is there; see `Backend.stream`."""
        failures: list[FailedAttempt] = []
        while True:
            attempt = self._begin(failures, streamed=True)
            deployment = attempt.deployment
            try:
                stream = await deployment.backend.stream(body, timeouts=timeouts, endpoint=endpoint)
            except BackendError as error:
                attempt.failed(error)
                attempt.end()
                self._go_on(failures, deployment, error)
            except BaseException:
                attempt.end()
                raise
            else:
                attempt.answered()
                return BalancedStream(stream, attempt)

    async def healthy(self) -> bool:
        """Return whether any deployment answers."""
        for deployment in self.deployments:
            if await deployment.backend.healthy():
                return True
        return False

    async def aclose(self) -> None:
        """Close the backends of all deployments."""
        for deployment in self.deployments:
            await deployment.backend.aclose()

    def state(self) -> list[dict[str, Any]]:
        """Return what is known of the deployments: name, calls under way, cool-down and latencies in seconds."""
        return [
            {
                "name": deployment.name,
                "in_flight": deployment.in_flight,
                "cooling_down_s": round(self._cooldowns.remaining_s(deployment.key), 3),
                "first_event_s": deployment.latency_s(streamed=True),
                "answer_s": deployment.latency_s(streamed=False),
            }
            for deployment in self.deployments
        ]

    def _begin(self, failures: Sequence[FailedAttempt], *, streamed: bool) -> _Attempt:
        deployment = self._next(failures, streamed=streamed)
        return _Attempt(deployment, self._cooldowns, self._clock, streamed=streamed)

    def _next(self, failures: Sequence[FailedAttempt], *, streamed: bool) -> Deployment:
        """Return the deployment to call; there is one that has not failed, or `_go_on` would have raised."""
        tried = {name for name, _ in failures}
        taken = deployments_in_use.get()
        open_ones = [deployment for deployment in self.deployments if deployment.name not in tried]
        if taken and (free := [deployment for deployment in open_ones if deployment.key not in taken]):
            open_ones = free
        well = [deployment for deployment in open_ones if not self._cooldowns.cooling(deployment.key)]
        if not well:
            chosen = min(open_ones, key=lambda deployment: self._cooldowns.remaining_s(deployment.key))
        else:
            chosen = self._less_loaded(well, streamed=streamed)
        if taken is not None:
            taken.add(chosen.key)
        return chosen

    def _less_loaded(self, candidates: Sequence[Deployment], *, streamed: bool) -> Deployment:
        if len(candidates) == 1:
            return candidates[0]
        now = self._clock()
        known = [found for one in self.deployments if (found := one.latency_s(streamed=streamed)) is not None]
        best_s = min(known, default=_UNKNOWN_S)
        first, second = self._rng.sample(candidates, 2)
        if second.load(best_s, now, streamed=streamed) < first.load(best_s, now, streamed=streamed):
            return second
        return first

    def _go_on(self, failures: list[FailedAttempt], deployment: Deployment, error: BackendError) -> None:
        """Take note of a failure; raise what is to be told of the model where no other deployment may be called."""
        failures.append(FailedAttempt(deployment.name, error))
        tried = {name for name, _ in failures}
        others = [one for one in self.deployments if one.name not in tried and not self._cooldowns.cooling(one.key)]
        if failure_class(error) not in _ELSEWHERE:
            raise error
        if not others or not self._may_retry():
            raise most_telling(failures).error


class _Attempt:
    """The accounting of one call of a deployment."""

    __slots__ = ("_began", "_clock", "_cooldowns", "_ended", "_judged", "_started", "_streamed", "deployment")

    def __init__(
        self, deployment: Deployment, cooldowns: Cooldowns, clock: Callable[[], float], *, streamed: bool
    ) -> None:
        self.deployment = deployment
        self._cooldowns = cooldowns
        self._clock = clock
        self._streamed = streamed
        self._judged = self._ended = False
        deployment.in_flight += 1
        self._started = clock()
        self._began = cooldowns.began(deployment.key)

    def answered(self) -> None:
        """Take note of an answer, or of its first token."""
        now = self._clock()
        self._judged = True
        self.deployment.answered(now - self._started, now, streamed=self._streamed)
        self._cooldowns.succeeded(self.deployment.key, began=self._began)

    def failed(self, error: BackendError) -> None:
        """Take note of a failure."""
        if is_upstream_trouble(error):
            self._judged = True
            self._cooldowns.failed(self.deployment.key, error, began=self._began)

    def end(self) -> None:
        """Take note that the call is over (idempotent)."""
        if not self._ended:
            self._ended = True
            self.deployment.in_flight -= 1
            if not self._judged:
                self._cooldowns.released(self.deployment.key, began=self._began)


class BalancedStream:
    """A streamed answer of a deployment; see `BackendStream`."""

    def __init__(self, stream: BackendStream, attempt: _Attempt) -> None:
        self._stream = stream
        self._attempt = attempt
        self._headers = {**stream.headers, DEPLOYMENT_HEADER: attempt.deployment.name}

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers of the deployment's answer, with its name."""
        return self._headers

    @property
    def observer(self) -> StreamObserver | None:
        """The deployment's."""
        return self._stream.observer

    async def __aiter__(self) -> AsyncIterator[Sequence[ServerSentEvent]]:
        """Yield the events as they come."""
        try:
            async for events in self._stream:
                yield events
        except BackendError as error:
            self._attempt.failed(error)
            raise

    async def aclose(self) -> None:
        """Close the stream, and count the call as over."""
        try:
            await self._stream.aclose()
        finally:
            self._attempt.end()
