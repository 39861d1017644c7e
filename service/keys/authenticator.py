"""From the headers of a request to who asks: a dictionary and one hash while a key is known, the store seldom."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from service.errors import APIError
from service.keys import refusals
from service.keys.failures import ClientAddress, FailureCounter
from service.keys.manager import KeyManager
from service.keys.principal import GUEST, Principal
from service.keys.record import KeyRecord
from service.keys.settings import AuthSettings
from service.keys.store import KeyStore, KeyStoreError
from service.keys.token import ID, NO_DIGEST, PREFIX, digest_of, id_in, same

logger = logging.getLogger(__name__)

_MOST_KNOWN = 50_000
_MOST_UNKNOWN = 10_000
_MOST_LOOKUPS = 256
_UNKNOWN_S = 5.0
_RETRY_S = 1.0
_TOUCH_S = 60.0
# A key in use is looked up anew in the background before it is no longer trusted, so that no request waits for it.
_REFRESH_SHARE = 0.8
# A slow moment of Redis is over by then: its link tries again after half a second.
_PATIENCE_S = (0.1, 0.2, 0.3)

_AUTHORIZATION = b"authorization"
_KEY_HEADERS = (b"x-api-key", b"api-key")
_BEARER = b"bearer "


class _Entry:
    """A key that was looked up; times are the monotonic clock's.

    Attributes
    ----------
    digest, previous_digest : bytes
        Of the tokens that hold.
    holds_until, previous_until : float
        Until when they do without another look.
    refresh_at : float
        When to look again in the background.
    stale_until : float
        Until when the record may be believed if the store cannot be reached.
    """

    __slots__ = (
        "digest", "holds_until", "previous_digest", "previous_until", "principal", "record", "refresh_at",
        "stale_until", "trusted_until",
    )  # fmt: skip

    def __init__(self, record: KeyRecord, *, now: float, wall: float, settings: AuthSettings) -> None:
        self.record = record
        self.principal = record.principal()
        self.digest = record.digest
        self.previous_digest = record.previous_digest or NO_DIGEST
        self.stale_until = now + settings.cache_s + settings.stale_s
        self.trust_until(now + settings.cache_s, refresh_at=now + settings.cache_s * _REFRESH_SHARE, offset=now - wall)

    def trust_until(self, moment: float, *, refresh_at: float, offset: float) -> None:
        """Believe the record until then, its own ends permitting; `offset` is the monotonic clock minus the wall's."""
        self.trusted_until, self.refresh_at = moment, refresh_at
        record = self.record
        ends = math.inf if record.expires is None else record.expires + offset
        self.holds_until = -math.inf if record.revoked is not None else min(moment, ends)
        until = -math.inf if record.previous_until is None else record.previous_until + offset
        self.previous_until = min(self.holds_until, until)


class Authenticator:
    """Tell who asks.

    Belongs to one event loop.

    Parameters
    ----------
    settings : AuthSettings
        Of the configuration.
    store : KeyStore
        Where keys are; closed with the authenticator.
    clock, wall_clock : callable
        Seconds: monotonic, and since the epoch.

    Attributes
    ----------
    keys : KeyManager
        Changes keys; what it changes holds in this process at once.
    failures : FailureCounter
        Wrong keys by client.
    """

    def __init__(
        self,
        settings: AuthSettings,
        store: KeyStore,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.failures = FailureCounter(settings.failures_per_minute, clock=clock)
        self.keys = KeyManager(store, on_change=self.forget, wall_clock=wall_clock)
        self._store = store
        self._clock = clock
        self._wall_clock = wall_clock
        self._address = ClientAddress(settings.trusted_proxies)
        self._known: dict[str, _Entry] = {}
        self._unknown: dict[str, float] = {}
        self._lookups: dict[str, asyncio.Task[_Entry | None]] = {}
        self._used: dict[str, float] = {}
        self._changes = 0
        self._trouble = ""
        self._toucher: asyncio.Task[None] | None = None

    # The way of every request

    async def of_request(self, scope: Any, /) -> Principal:
        """Return who sent a request.

        Parameters
        ----------
        scope : ASGI scope
            Its headers and client address are read.

        Raises
        ------
        APIError
            401 without a key or with one that does not hold, 429 after too many of those, 503 while keys cannot be
            looked up.
        """
        token = token_in(scope["headers"])
        if token is not None:
            principal = self.authenticate_cached(token)
            if principal is not None:
                return principal
        return await self.authenticate(token, client=self._address.of(scope))

    def authenticate_cached(self, token: str, /) -> Principal | None:
        """Return whom a token stands for if that is known without asking the store, else None."""
        entry = self._known.get(token[ID])
        if entry is None:
            return None
        now = self._clock()
        digest = digest_of(token)
        if same(digest, entry.digest):
            if now >= entry.holds_until:
                return None
        elif not same(digest, entry.previous_digest) or now >= entry.previous_until:
            return None
        if now >= entry.refresh_at:
            self._refresh(token[ID], entry)
        return entry.principal

    async def authenticate(self, token: str | None, /, *, client: str = "unknown") -> Principal:
        """Return whom a token stands for.

        Parameters
        ----------
        token : str or None
            As the client sent it; None without one.
        client : str
            Address that failures are counted for.

        Raises
        ------
        APIError
            See `of_request`.
        """
        if token is None:
            if self.settings.required:
                raise refusals.missing_key()
            return GUEST
        principal = self.authenticate_cached(token)
        if principal is not None:
            return principal
        key_id = id_in(token)
        # What has not the form of a key is not worth a hash: it may be as long as a header can be.
        digest = NO_DIGEST if key_id is None else digest_of(token)
        # Whoever has the secret of a key that was good a moment ago need not suffer for others at the same address.
        if not self._matches_known(key_id, digest) and (wait_s := self.failures.wait_s(client)):
            raise refusals.too_many_failures(wait_s)
        entry = None if key_id is None else await self._entry(key_id)
        if key_id is None or entry is None:
            same(digest, NO_DIGEST)  # an id that does not exist takes as long as one that does
            self.failures.failed(client)
            raise refusals.wrong_key(token)
        wall = self._wall_clock()
        verdict = entry.record.verdict(digest, wall)
        if verdict == "ok":
            self._used[key_id] = wall
            return entry.principal
        if verdict == "wrong":
            self.failures.failed(client)
        raise refusals.refused_key(verdict, token)

    # What others tell it

    def forget(self, key_id: str, /) -> None:
        """Look a key up anew before it is trusted again; at once, lookups under way included."""
        self._changes += 1
        self._known.pop(key_id, None)
        self._unknown.pop(key_id, None)
        self._lookups.pop(key_id, None)

    def start(self) -> None:
        """Write in the background when keys were last used."""
        if self._toucher is None:
            self._toucher = asyncio.get_running_loop().create_task(self._touch_now_and_then())

    async def aclose(self) -> None:
        """End what runs in the background, write what is left to write, and close the store."""
        tasks = [*self._lookups.values(), *((self._toucher,) if self._toucher else ())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._toucher = None
        await self.touch()
        await self._store.aclose()

    async def touch(self) -> None:
        """Write when keys were last used; what cannot be written now waits for the next time."""
        used, self._used = self._used, {}
        if not used:
            return
        try:
            await self._store.touch(used)
        except KeyStoreError as error:
            self._used = {**used, **self._used}
            logger.debug("when keys were last used is not written yet: %s", error)

    def state(self) -> dict[str, Any]:
        """Return what is known, for readiness and metrics: numbers and trouble, no keys."""
        return {
            "status": "failing" if self._trouble else "ok",
            "known": len(self._known),
            "clients_with_failures": len(self.failures),
            "trouble": self._trouble,
        }

    # Lookups

    def _matches_known(self, key_id: str | None, digest: bytes) -> bool:
        entry = None if key_id is None else self._known.get(key_id)
        return entry is not None and (same(digest, entry.digest) or same(digest, entry.previous_digest))

    async def _entry(self, key_id: str) -> _Entry | None:
        """Return a key that may be believed now, None if there is none of that id."""
        while True:
            now = self._clock()
            entry = self._known.get(key_id)
            if entry is not None and now < entry.trusted_until:
                return entry
            if self._unknown.get(key_id, -math.inf) > now:
                return None
            changes = self._changes
            found = await asyncio.shield(self._lookup(key_id))
            if changes == self._changes:
                return found
            # A key was changed meanwhile, perhaps this one.

    def _lookup(self, key_id: str) -> asyncio.Task[_Entry | None]:
        """Return the lookup of a key under way, or begin one."""
        task = self._lookups.get(key_id)
        if task is None:
            if len(self._lookups) >= _MOST_LOOKUPS:
                raise refusals.store_unavailable()
            task = asyncio.get_running_loop().create_task(self._ask_store(key_id))
            self._lookups[key_id] = task
            task.add_done_callback(lambda done: self._looked_up(key_id, done))
        return task

    def _looked_up(self, key_id: str, task: asyncio.Task[_Entry | None]) -> None:
        if self._lookups.get(key_id) is task:
            del self._lookups[key_id]
        if not task.cancelled():
            task.exception()  # a background refresh has nobody else to take it

    def _refresh(self, key_id: str, entry: _Entry) -> None:
        entry.refresh_at = math.inf
        self._used[key_id] = self._wall_clock()
        with suppress(APIError):  # too many lookups: the next request looks again
            self._lookup(key_id)

    async def _ask_store(self, key_id: str) -> _Entry | None:
        changes = self._changes
        try:
            record = await self._from_store(key_id)
        except KeyStoreError as error:
            return self._without_store(key_id, error)
        if self._trouble:
            logger.warning("the store of keys works again")
            self._trouble = ""
        now, wall = self._clock(), self._wall_clock()
        entry = None if record is None else _Entry(record, now=now, wall=wall, settings=self.settings)
        if changes != self._changes:
            return entry  # it may be older than the change: nobody is to believe it
        self._known.pop(key_id, None)
        if entry is None:
            _put(self._unknown, key_id, now + min(_UNKNOWN_S, self.settings.cache_s), _MOST_UNKNOWN)
        else:
            _put(self._known, key_id, entry, _MOST_KNOWN)
        return entry

    async def _from_store(self, key_id: str) -> KeyRecord | None:
        """Ask the store; for a key that was never seen more than once, since without an answer it has to be refused.

        Raises
        ------
        KeyStoreError
            If it does not answer.
        """
        for pause_s in () if key_id in self._known else _PATIENCE_S:
            try:
                return await self._store.get(key_id)
            except KeyStoreError:
                await asyncio.sleep(pause_s)
        return await self._store.get(key_id)

    def _without_store(self, key_id: str, error: KeyStoreError) -> _Entry:
        """Return the key as it was last seen, where that is not too long ago."""
        if not self._trouble:
            logger.error("the store of keys fails; keys seen before are trusted on: %s", error)
        self._trouble = str(error)
        now = self._clock()
        entry = self._known.get(key_id)
        if entry is None or now >= entry.stale_until:
            raise refusals.store_unavailable() from error
        again = now + min(_RETRY_S, self.settings.cache_s)
        offset = now - self._wall_clock()
        # A refresh may fail while the record is still trusted anyway.
        until = min(max(again, entry.trusted_until), entry.stale_until)
        entry.trust_until(until, refresh_at=again, offset=offset)
        return entry

    async def _touch_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(_TOUCH_S)
            await self.touch()


def token_in(headers: Iterable[tuple[bytes, bytes]], /) -> str | None:
    """Return the key in the headers of a request, None without one.

    It is read from ``Authorization: Bearer``, ``x-api-key`` and ``api-key``. Where several are given, one that has the
    form of a key of ours goes before others: clients send keys that are meant for somebody else along.

    Parameters
    ----------
    headers : iterable of (bytes, bytes)
        Of the ASGI scope, names in lower case.
    """
    other = None
    for name, value in headers:
        if name == _AUTHORIZATION:
            if value[: len(_BEARER)].lower() != _BEARER:
                continue
            value = value[len(_BEARER) :]
        elif name not in _KEY_HEADERS:
            continue
        token = value.decode("latin-1").strip()
        if token.startswith(PREFIX):
            return token
        other = other or token
    return other or None


def _put(memory: dict[str, Any], key: str, value: Any, most: int) -> None:
    """Remember, and forget the oldest where there are too many."""
    memory.pop(key, None)
    if len(memory) >= most:
        del memory[next(iter(memory))]
    memory[key] = value
