"""One Redis for everything that replicas share. When it is slow or gone, callers hear so in time, and then at once.

After a failure every call is refused without being tried, for a back-off; a background task asks the server whether it
is well again. Nothing waits for Redis at start-up.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from llmrouter.exceptions import LLMRouterError, MissingExtraError
from service.redis_resolver import Resolver
from service.redis_script import Script

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from service.limits.settings import RedisSettings

logger = logging.getLogger(__name__)

T = TypeVar("T")

__all__ = ["RedisLink", "RedisState", "RedisUnavailableError", "Script"]

_FIRST_BACK_OFF_S = 0.5
_LAST_BACK_OFF_S = 5.0
# A new connection may take longer than a command: nobody waits for it but the probe.
_CONNECT_S = 1.0
_CONNECTIONS = 32
# Where a time-out came so much too late, it was our own event loop that stood still, not Redis.
_STALLED = 1.5
# Of the time-out: what a request has left of it, where that is less, says nothing about Redis.
_ENOUGH = 0.5


class RedisUnavailableError(LLMRouterError):
    """Redis did not answer in time, or said that it cannot: do without."""


@dataclass(frozen=True, slots=True)
class RedisState:
    """How Redis is.

    Attributes
    ----------
    status : {"ok", "failing"}
        ``failing`` also before the first contact.
    failures : int
        How often it stopped answering since the start.
    refused : int
        Calls that were not tried because it was failing.
    since : float
        Seconds since the epoch when the status began.
    trouble : str
        What went wrong last; "" while it works.
    """

    status: Literal["ok", "failing"]
    failures: int
    refused: int
    since: float
    trouble: str


class _Allowance:
    __slots__ = ("left_s", "task")

    def __init__(self, task: asyncio.Task[Any] | None, left_s: float) -> None:
        self.task = task
        self.left_s = left_s


_allowance: ContextVar[_Allowance | None] = ContextVar("redis_allowance", default=None)


class RedisLink:
    """A Redis client with a time-out and a circuit breaker.

    Parameters
    ----------
    settings : RedisSettings
        Where it is, and how long to wait.

    Raises
    ------
    MissingExtraError
        If the client library is not installed.
    """

    def __init__(self, settings: RedisSettings) -> None:
        self.settings = settings
        self.timeout_s = settings.timeout_s
        self._redis = _client(settings)
        self._resolver = Resolver(settings.address)
        self._on_return: list[Callable[[], None]] = []
        self._well = False
        self._proved: asyncio.Event | None = None
        self._probe: asyncio.Task[None] | None = None
        self._failures = self._refused = 0
        self._since = time.time()
        self._trouble = "not asked yet"

    def key(self, *parts: str) -> str:
        """Return a key under the configured prefix."""
        return ":".join((self.settings.prefix, *parts))

    def on_return(self, callback: Callable[[], None]) -> None:
        """Call `callback` on the event loop whenever Redis answers again, the first contact included."""
        self._on_return.append(callback)

    def start(self) -> None:
        """Make the first contact in the background; the first use does so too."""
        self._begin_probe(0.0)

    def begin_request(self) -> None:
        """From here on, all uses of Redis by the current task together wait for at most the time-out."""
        _allowance.set(_Allowance(asyncio.current_task(), self.timeout_s))

    def left_s(self) -> float:
        """Return how many seconds the current task may wait for Redis."""
        allowance = _allowance.get()
        if allowance is None or allowance.task is not asyncio.current_task():
            return self.timeout_s
        return allowance.left_s

    def waited(self, seconds: float) -> None:
        """Take what the current task has waited off what it may wait."""
        allowance = _allowance.get()
        if allowance is not None and allowance.task is asyncio.current_task():
            allowance.left_s -= seconds

    async def run(self, job: Callable[[Redis], Awaitable[T]]) -> T:
        """Return what `job` returns for the client; it must leave Redis as it is where it is cancelled.

        Raises
        ------
        RedisUnavailableError
            Within the time-out, whatever happens to Redis, the network or name resolution.
        """
        limit = self.left_s()
        began = time.perf_counter()
        try:
            if not self._well:
                await self._first_contact(limit)
                limit -= time.perf_counter() - began
            if limit <= 0:
                raise RedisUnavailableError("this request has waited for Redis long enough")
            return await self._tried(job, limit)
        finally:
            self.waited(time.perf_counter() - began)

    async def evaluate(self, calls: Sequence[tuple[Script, Sequence[str], Sequence[Any]]]) -> list[Any]:
        """Run scripts, each given as (script, keys, arguments), in one round trip, in order.

        Returns
        -------
        list
            Their results; the error itself where a script failed.

        Raises
        ------
        RedisUnavailableError
            As `run`; some or all of them may have run.
        """
        return await self.run(lambda redis: _evaluate(redis, calls))

    def check(self) -> None:
        """Raise at once where a call would be refused without being tried.

        Raises
        ------
        RedisUnavailableError
            If Redis is failing.
        """
        if not self._well and self._proved is not None and self._proved.is_set():
            self._refused += 1
            raise RedisUnavailableError(f"Redis is failing: {self._trouble}")

    def failed(self, trouble: str) -> None:
        """Take note that Redis does not answer: calls are refused until it does."""
        if self._well:
            logger.warning("Redis is failing, going on without it: %s", trouble)
            self._since = time.time()
            self._failures += 1
        self._well = False
        self._trouble = trouble
        self._begin_probe(_FIRST_BACK_OFF_S)

    def state(self) -> RedisState:
        """Return how Redis is."""
        return RedisState(
            status="ok" if self._well else "failing",
            failures=self._failures,
            refused=self._refused,
            since=self._since,
            trouble=self._trouble,
        )

    async def aclose(self) -> None:
        """End the background task and close the connections; Redis is not asked any more."""
        self._on_return.clear()
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.wait([self._probe])
        self._well = False
        try:
            async with asyncio.timeout(_CONNECT_S):
                await self._redis.aclose()
        except Exception as error:
            logger.debug("closing the connections to Redis: %s", error)

    # Calls

    async def _first_contact(self, limit_s: float) -> None:
        """Wait for the first contact if that is under way; refuse if Redis is known to fail."""
        self.check()
        self._begin_probe(0.0)
        assert self._proved is not None  # noqa: S101 - set by the line above
        try:
            async with asyncio.timeout(limit_s):
                await self._proved.wait()
        except TimeoutError:
            self._trouble = f"no contact within {limit_s:g} s"
            self._proved.set()
        if not self._well:
            raise RedisUnavailableError(f"Redis is failing: {self._trouble}")

    async def _tried(self, job: Callable[[Redis], Awaitable[T]], limit_s: float) -> T:
        from redis.exceptions import RedisError

        began = time.perf_counter()
        try:
            async with asyncio.timeout(limit_s) as scope:
                return await job(self._redis)
        except TimeoutError as error:
            in_time = time.perf_counter() - began < limit_s * _STALLED
            if not scope.expired() or (in_time and limit_s >= self.timeout_s * _ENOUGH):
                self.failed(f"no answer within {limit_s:g} s")
            raise RedisUnavailableError(f"Redis did not answer within {limit_s:g} s") from error
        except (RedisError, OSError) as error:
            trouble = f"{type(error).__name__}: {error}"
            if _is_outage(error):
                self.failed(trouble)
            raise RedisUnavailableError(f"Redis failed: {trouble}") from error

    # The background task

    def _begin_probe(self, first_s: float) -> None:
        if self._proved is None:
            self._proved = asyncio.Event()
        if self._probe is None or self._probe.done():
            self._probe = asyncio.get_running_loop().create_task(self._probe_until_well(first_s), name="redis-probe")

    async def _probe_until_well(self, pause_s: float) -> None:
        while True:
            await asyncio.sleep(pause_s)
            try:
                await self._contact()
            except Exception as error:
                self._trouble = f"{type(error).__name__}: {error}".rstrip(": ")
                self._prove()
                pause_s = min(max(pause_s * 2, _FIRST_BACK_OFF_S), _LAST_BACK_OFF_S)
                continue
            self._returned()
            return

    async def _contact(self) -> None:
        async with asyncio.timeout(_CONNECT_S):
            await self._resolver.resolve()
            # Idle connections may lead to a server that is gone.
            await self._redis.connection_pool.disconnect(inuse_connections=False)
            await _command(self._redis, "PING")
        async with asyncio.timeout(self.timeout_s):
            await _command(self._redis, "PING")

    def _returned(self) -> None:
        if self._failures or self._trouble != "not asked yet":
            logger.warning("Redis answers again")
        self._well = True
        self._trouble = ""
        self._since = time.time()
        self._prove()
        for callback in self._on_return:
            try:
                callback()
            except Exception:
                logger.exception("after the return of Redis")

    def _prove(self) -> None:
        if self._proved is not None:
            self._proved.set()


def _client(settings: RedisSettings) -> Redis:
    try:
        from redis.asyncio import BlockingConnectionPool, Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ImportError as error:
        raise MissingExtraError("redis", extra="redis", purpose="the section 'redis' of the configuration") from error
    pool = BlockingConnectionPool.from_url(
        settings.url.get_secret_value(),
        max_connections=_CONNECTIONS,
        # How long things may take is decided in one place, above.
        timeout=None,
        socket_timeout=None,
        socket_connect_timeout=None,
        retry=Retry(NoBackoff(), 0),
    )
    return Redis(connection_pool=pool)


async def _command(redis: Any, *words: Any) -> Any:
    return await redis.execute_command(*words)


async def _evaluate(redis: Redis, calls: Sequence[tuple[Script, Sequence[str], Sequence[Any]]]) -> list[Any]:
    from redis.exceptions import NoScriptError

    results = await _send(redis, calls)
    missing = [i for i, result in enumerate(results) if isinstance(result, NoScriptError)]
    if missing:
        for text in {calls[i][0].text for i in missing}:
            await _command(redis, "SCRIPT LOAD", text)
        for i, result in zip(missing, await _send(redis, [calls[i] for i in missing]), strict=True):
            results[i] = result
    return results


async def _send(redis: Redis, calls: Sequence[tuple[Script, Sequence[str], Sequence[Any]]]) -> list[Any]:
    if len(calls) == 1:
        from redis.exceptions import ResponseError

        script, keys, arguments = calls[0]
        try:
            return [await _command(redis, "EVALSHA", script.sha, len(keys), *keys, *arguments)]
        except ResponseError as error:
            if _is_outage(error):
                raise
            return [error]
    pipeline = redis.pipeline(transaction=False)
    for script, keys, arguments in calls:
        pipeline.execute_command("EVALSHA", script.sha, len(keys), *keys, *arguments)
    return list(await pipeline.execute(raise_on_error=False))


def _is_outage(error: Exception) -> bool:
    """Return whether an error is about the server, not about one command."""
    from redis import exceptions

    if not isinstance(error, exceptions.ResponseError):
        return not isinstance(error, exceptions.WatchError | exceptions.DataError)
    return isinstance(error, exceptions.ReadOnlyError | exceptions.OutOfMemoryError | exceptions.NoPermissionError)
