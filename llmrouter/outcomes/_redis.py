"""The outcome log in Redis, shared by all replicas of a gateway."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import orjson

from llmrouter.exceptions import ConfigError, MissingExtraError, StoreError
from llmrouter.outcomes import _redis_scripts as scripts
from llmrouter.outcomes._base import Event, Feedback
from llmrouter.outcomes._cursor import parse_entry, write_entry
from llmrouter.outcomes._feedback import check_feedback, check_outcome, join_feedback
from llmrouter.outcomes._record import from_record, to_record
from llmrouter.outcomes._redis_durability import weakness_of
from llmrouter.outcomes._sqlite_rows import storable_text
from llmrouter.types import Outcome, is_missing

if TYPE_CHECKING:
    from redis import Redis

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 3
"""As in SQLite: the fields are the same."""

DEFAULT_PREFIX = "llmrouter"

_SECONDS_PER_DAY = 86_400.0
_SCHEMES = ("redis", "rediss", "unix")
_CONNECT_S = 2.0
# After a time-out callers are told at once, for so long: each try would hold up the thread for the whole time-out.
_REST_S = 1.0
# A script holds up everybody else: so many outcomes, and bytes, at a time.
_BATCH = 250
_BATCH_BYTES = 4_000_000
_PAGE = 200
# Milliseconds for the disk of the seconds for the whole answer.
_DISK_SHARE = 900
_REMEDY = "check the server; nothing of this call is known to be stored, and it may be repeated"


class RedisOutcomeStore:
    """Outcomes, feedback and events in one Redis, over Redis Streams.

    Every change is one script, so that a request has one outcome, and a judgement one event, whoever repeats it. What
    a call stored is as durable as the server makes it before it answers: see `weakness`. Not for Redis Cluster.

    Parameters
    ----------
    url : str
        ``redis://``, ``rediss://`` or ``unix://``, as the client library reads it. The server is contacted on first
        use.
    prefix : str
        Of every key.
    timeout_s : float
        How long to wait for an answer.
    pending_s : float
        How long feedback for an unknown request is kept.

    Raises
    ------
    MissingExtraError
        If the client library is not installed.
    ConfigError
        If the URL is wrong.
    StoreError
        In every method: if Redis does not answer, refuses, or holds the log of a newer llmrouter.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = DEFAULT_PREFIX,
        timeout_s: float = 5.0,
        pending_s: float = _SECONDS_PER_DAY,
    ) -> None:
        self.place = _shown(url)
        self.prefix = prefix
        self.pending_s = pending_s
        self.weakness = ""
        """How an acknowledged write could still be lost; "" where it cannot, and before the first contact."""
        self._client = _client(url, timeout_s)
        self._keys = [f"{prefix}:log:{name}" for name in scripts.KEYS]
        self._scripts: dict[str, Any] = {}
        self._checked = False
        self._wait_for_disk = False
        self._timeout_s = timeout_s
        self._silent_until = 0.0

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Return the store of ``redis://HOST:PORT/DATABASE``, ``rediss://...`` (TLS) or ``unix://...``.

        A parameter ``prefix`` names the prefix of the keys: ``redis://host/0?prefix=team-a``.

        Raises
        ------
        ConfigError
            If the URL names no server.
        """
        parts = urlsplit(url)
        parameters = dict(parse_qsl(parts.query, keep_blank_values=True))
        prefix = parameters.pop("prefix", DEFAULT_PREFIX)
        if not prefix:
            raise ConfigError("log.store: the prefix of the keys is empty; leave it out, or write ?prefix=NAME")
        return cls(urlunsplit(parts._replace(query=urlencode(parameters))), prefix=prefix)

    def append(self, outcomes: Sequence[Outcome], /) -> None:
        """Store outcomes, some hundred in one transaction; one already stored is left as it is.

        Raises
        ------
        DataError
            If an outcome has no request_id, model or time, or a quality outside [0, 1]; nothing is stored then.
        """
        for outcome in outcomes:
            check_outcome(outcome)
        for batch in _batches(outcomes):
            self._write(scripts.APPEND, batch)

    def feedback(self, feedback: Feedback, /) -> bool:
        """Store a judgement; return whether its request is known already (else it waits for it).

        The same judgement again changes nothing; another one of the same source takes its place, unless it is older.

        Raises
        ------
        DataError
            If request_id or source is empty, or quality or weight is out of range.
        """
        return self.feedback_many([feedback])[0]

    def feedback_many(self, batch: Sequence[Feedback], /) -> list[bool]:
        """Store judgements, in order, some hundred in one transaction; return of each what `feedback` returns."""
        for feedback in batch:
            check_feedback(feedback)
        now = time.time()
        known: list[bool] = []
        for start in range(0, len(batch), _BATCH):
            words = [word for feedback in batch[start : start + _BATCH] for word in _judgement_words(feedback, now)]
            known += map(bool, self._write(scripts.FEEDBACK, [repr(now), repr(now - self.pending_s), *words]))
        return known

    def update_costs(self, costs: Iterable[tuple[str, float, str]], /) -> int:
        """Replace costs (request id, US dollars, stamp of the price list); return how many outcomes were found."""
        words: list[Any] = []
        for request_id, cost, stamp in costs:
            words += [storable_text(request_id), orjson.dumps([cost, storable_text(stamp)])]
        return int(self._write(scripts.UPDATE_COSTS, words)) if words else 0

    def get(self, request_id: str, /) -> Outcome | None:
        """Return one outcome with its feedback joined, or None."""
        found = self._read(scripts.GET, [storable_text(request_id)])
        return _joined(found) if found else None

    def scan(self, since: float = 0.0) -> Iterator[Outcome]:
        """Yield outcomes with ``time >= since``, oldest first, feedback joined; read page by page."""
        last = ""
        while page := self._read(scripts.SCAN, [repr(float(since)), last, _PAGE]):
            for entry in page:
                outcome = _joined(entry)
                last, since = entry[0], outcome.time
                yield outcome

    def events(self, after: str = "", limit: int = 1000) -> Sequence[Event]:
        """Return at most `limit` events that come after a cursor, in order.

        Raises
        ------
        DataError
            If `after` is no cursor of a log in Redis.
        """
        last = parse_entry(after)
        found: list[Event] = []
        while len(found) < limit:
            size = min(limit - len(found), _PAGE)
            page = self._read(scripts.EVENTS, [last, size])
            # Where there is no record, the outcome has been pruned.
            found += [Event(write_entry(entry[0].decode()), _joined(entry)) for entry in page if entry[1] is not None]
            if len(page) < size:
                break
            last = page[-1][0]
        return found

    def last_event(self) -> str:
        """Return the cursor of the newest event, "" where there is none."""
        with self._translated():
            newest: Any = self._client.xrevrange(self._keys[-1], count=1)
        return write_entry(newest[0][0].decode()) if newest else ""

    def prune(self, *, before: float = -math.inf, keep: int | None = None, limit: int = 1000) -> int:
        """Remove outcomes, oldest first, with their judgements and events; return how many.

        Those with ``time < before``, and those beyond the newest `keep`; at most `limit`, in steps of some hundred.
        """
        removed = 0
        bound = repr(float(before)) if math.isfinite(before) else ("+inf" if before > 0 else "-inf")
        while removed < limit:
            size = min(limit - removed, _BATCH)
            step = int(self._write(scripts.PRUNE, [bound, "" if keep is None else keep, size]))
            removed += step
            if step < size:
                break
        return removed

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    # The server

    def _write(self, text: str, words: Sequence[Any]) -> Any:
        """Run a script that changes something, and wait for the disk where the server can be asked to."""
        with self._translated():
            if not self._checked:
                self._check()
            if not self._wait_for_disk:
                return self._call(text, words)
            # On one connection: the server waits for what that has written.
            pipeline: Any = self._client.pipeline(transaction=False)
            self._call(text, words, pipeline)
            pipeline.execute_command("WAITAOF", 1, 0, int(self._timeout_s * _DISK_SHARE))
            result, (synced, _) = pipeline.execute()
        if not synced:
            raise StoreError(f"{self.place}: Redis did not bring the write to its disk in time; {_REMEDY}")
        return result

    def _read(self, text: str, words: Sequence[Any]) -> Any:
        with self._translated():
            return self._call(text, words)

    def _call(self, text: str, words: Sequence[Any], client: Any = None) -> Any:
        script = self._scripts.get(text)
        if script is None:
            script = self._scripts[text] = self._client.register_script(text)
        return script(keys=self._keys, args=[SCHEMA_VERSION, *words], client=client)

    def _check(self) -> None:
        """Find out how durable the server is; again after every failure, it may be another one."""
        self.weakness, self._wait_for_disk = weakness_of(self._client)
        if self.weakness:
            logger.warning("the outcome log in %s can lose what it acknowledged: %s", self.place, self.weakness)
        self._checked = True

    @contextmanager
    def _translated(self) -> Iterator[None]:
        from redis.exceptions import RedisError
        from redis.exceptions import TimeoutError as RedisTimeoutError

        if time.monotonic() < self._silent_until:
            raise StoreError(f"{self.place} did not answer a moment ago, and is not asked before it has had a rest")
        try:
            yield
        except (RedisError, OSError) as error:
            self._checked = False
            if isinstance(error, RedisTimeoutError | TimeoutError):
                self._silent_until = time.monotonic() + _REST_S
            message = str(error)
            if "LOGVERSION" in message:
                version = message.rpartition(" ")[2]
                raise StoreError(
                    f"{self.place} has schema version {version} under {self.prefix}:log, this llmrouter knows "
                    f"{SCHEMA_VERSION}; it was left as it is. Upgrade llmrouter, or name another prefix"
                ) from error
            raise StoreError(f"{self.place}: {type(error).__name__}: {message}; {_REMEDY}") from error


def _client(url: str, timeout_s: float) -> Redis:
    try:
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.exceptions import ConnectionError as RedisConnectionError
        from redis.retry import Retry
    except ImportError as error:
        raise MissingExtraError("redis", extra="redis", purpose="an outcome log in Redis") from error
    parts = urlsplit(url)
    try:
        usable = parts.scheme in _SCHEMES and bool(parts.path if parts.scheme == "unix" else parts.hostname)
        _ = parts.port
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(
            f"log.store {_shown(url)!r} names no server; write redis://HOST:PORT/DATABASE, rediss://HOST:PORT/DATABASE "
            "or unix:///PATH/TO/SOCKET"
        )
    try:
        # One more try where a connection had been closed: every script may be repeated.
        retry = Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))
        client: Redis = Redis.from_url(
            url, socket_timeout=timeout_s, socket_connect_timeout=min(_CONNECT_S, timeout_s), retry=retry
        )
    except (ValueError, TypeError) as error:
        raise ConfigError(f"log.store {_shown(url)!r} cannot be used: {error}") from error
    return client


def _shown(url: str) -> str:
    """Return a URL without its password."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return urlunsplit(parts._replace(query=""))
    return urlunsplit(parts._replace(netloc="***@" + parts.netloc.rpartition("@")[2], query=""))


def _batches(outcomes: Sequence[Outcome]) -> Iterator[list[Any]]:
    """Yield the arguments of `scripts.APPEND`, so many outcomes and bytes at a time."""
    words: list[Any] = []
    size = 0
    for outcome in outcomes:
        record = to_record(outcome)
        judged = int(not is_missing(outcome.quality))
        words += [storable_text(outcome.request_id), repr(float(outcome.time)), record, judged]
        size += len(record)
        if len(words) >= 4 * _BATCH or size >= _BATCH_BYTES:
            yield words
            words, size = [], 0
    if words:
        yield words


def _judgement_words(feedback: Feedback, now: float) -> list[str]:
    numbers = [repr(float(value)) for value in (feedback.quality, feedback.weight, feedback.time or now)]
    words = [feedback.request_id, feedback.source, *numbers, feedback.by, repr(float(feedback.cost_usd))]
    return [storable_text(word) for word in words]


def _joined(entry: Sequence[Any]) -> Outcome:
    """Return the outcome of (place, record, judgements, costs) as a script returns them."""
    _, record, judged, repriced = entry
    outcome = from_record(record)
    if repriced:
        cost, stamp = orjson.loads(repriced)
        outcome = dataclasses.replace(outcome, cost_usd=cost, price_as_of=stamp)
    if not judged:
        return outcome
    judgements = [
        Feedback(outcome.request_id, float(quality), source, float(weight), float(moment), by, float(cost))
        for source, (quality, weight, moment, by, cost) in sorted(orjson.loads(judged).items())
    ]
    return join_feedback(outcome, judgements)
