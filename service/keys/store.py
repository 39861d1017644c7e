"""Where keys are kept: the protocol, its errors, and a store in memory as small as the protocol."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from llmrouter.exceptions import ConfigError, LLMRouterError
from service.keys.record import KeyRecord
from service.keys.settings import REDIS, SQLITE_SCHEME, AuthSettings

if TYPE_CHECKING:
    from service.keys.redis_store import Link

Change = Callable[[KeyRecord], KeyRecord]
"""Turns a key into what it is to be; may raise, and nothing is stored then."""


class KeyStoreError(LLMRouterError):
    """The store of keys cannot read or write."""


class KeyStore(Protocol):
    """Keeps keys by id. Every method raises `KeyStoreError` if the store cannot be reached or used."""

    async def get(self, key_id: str, /) -> KeyRecord | None:
        """Return a key, or None."""
        ...

    async def add(self, record: KeyRecord, /) -> None:
        """Store a new key.

        Raises
        ------
        KeyStoreError
            If the id is taken.
        """
        ...

    async def change(self, key_id: str, change: Change, /) -> KeyRecord | None:
        """Change a key in one step, whoever else changes it meanwhile; return it as it is then, None if unknown."""
        ...

    async def page(self, *, after: str | None, limit: int) -> list[KeyRecord]:
        """Return up to `limit` keys, oldest first, those that follow the key `after` (an unknown one: none)."""
        ...

    async def touch(self, used: Mapping[str, float], /) -> None:
        """Note when keys were last used, in seconds since the epoch; unknown ids and older times change nothing."""
        ...

    async def aclose(self) -> None:
        """Release the store (idempotent)."""
        ...


class MemoryKeyStore:
    """Keys in this process, gone with it: for tests and embedding."""

    def __init__(self) -> None:
        self._records: dict[str, KeyRecord] = {}

    async def get(self, key_id: str, /) -> KeyRecord | None:
        """Return a key, or None."""
        return self._records.get(key_id)

    async def add(self, record: KeyRecord, /) -> None:
        """Store a new key."""
        if record.id in self._records:
            raise KeyStoreError(f"the key id {record.id} is taken")
        self._records[record.id] = record

    async def change(self, key_id: str, change: Change, /) -> KeyRecord | None:
        """Change a key."""
        record = self._records.get(key_id)
        if record is None:
            return None
        self._records[key_id] = changed = change(record)
        return changed

    async def page(self, *, after: str | None, limit: int) -> list[KeyRecord]:
        """Return keys, oldest first."""
        records = sorted(self._records.values(), key=lambda record: (record.created, record.id))
        if after is None:
            return records[:limit]
        start = next((i + 1 for i, record in enumerate(records) if record.id == after), len(records))
        return records[start : start + limit]

    async def touch(self, used: Mapping[str, float], /) -> None:
        """Note when keys were last used."""
        for key_id, time in used.items():
            record = self._records.get(key_id)
            if record is not None and time > (record.last_used or 0.0):
                self._records[key_id] = dataclasses.replace(record, last_used=time)

    async def aclose(self) -> None:
        """Do nothing."""


def open_key_store(settings: AuthSettings, *, link: Link | None = None) -> KeyStore:
    """Return the configured store.

    Parameters
    ----------
    settings : AuthSettings
        Of the configuration.
    link : RedisLink, optional
        The connection of the section ``redis``.

    Raises
    ------
    ConfigError
        If Redis is asked for and not configured.
    KeyStoreError
        If the file cannot be used.
    """
    if settings.store == REDIS:
        if link is None:
            raise ConfigError(
                "'redis' needs the section 'redis' with its url; or keep keys in sqlite:///keys.db", path="auth.store"
            )
        from service.keys.redis_store import RedisKeyStore

        return RedisKeyStore(link)
    from service.keys.sqlite_store import SQLiteKeyStore

    return SQLiteKeyStore(settings.store.removeprefix(SQLITE_SCHEME))
