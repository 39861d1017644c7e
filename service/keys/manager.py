"""Make, change and revoke keys; what the admin routes and the command line share."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from service.errors import APIError
from service.keys.record import KeyRecord
from service.keys.store import Change, KeyStore
from service.keys.token import ID_LENGTH, id_in, is_id
from service.keys.wanted import DAY_S, bad, merged, read_changes, read_new, read_seconds

logger = logging.getLogger(__name__)

DEFAULT_GRACE_S = 3600.0
LONGEST_GRACE_S = 30 * DAY_S
LARGEST_PAGE = 1000


def _nobody(_key_id: str, /) -> None:
    """Listen to no changes."""


class KeyManager:
    """Keys as an administrator sees them.

    Parameters
    ----------
    store : KeyStore
        Where they are.
    on_change : callable
        Called with the id of every key that was made, changed or revoked: `Authenticator.forget`.
    wall_clock : callable
        Seconds since the epoch.
    """

    def __init__(
        self,
        store: KeyStore,
        *,
        on_change: Callable[[str], None] = _nobody,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._on_change = on_change
        self._wall_clock = wall_clock

    @property
    def now(self) -> float:
        """Seconds since the epoch."""
        return self._wall_clock()

    async def create(self, wanted: Mapping[str, Any], /, *, by: str = "the command line") -> tuple[KeyRecord, str]:
        """Make a key; return it and its token, which cannot be had again.

        Parameters
        ----------
        wanted : mapping
            See `service.keys.wanted.read_new`.
        by : str
            Who makes it, for the log.

        Raises
        ------
        APIError
            If `wanted` is wrong.
        KeyStoreError
            Here and in every method: if the store cannot be used.
        """
        fields = read_new(wanted, now=self.now)
        record, token = KeyRecord.new(now=self.now, **fields)
        await self._store.add(record)
        self._changed("created", record, by)
        return record, token

    async def get(self, key_id: str, /) -> KeyRecord:
        """Return a key.

        Raises
        ------
        APIError
            404 if there is none of that id.
        """
        key_id = _id_of(key_id)
        return _found(await self._store.get(key_id) if is_id(key_id) else None, key_id)

    async def page(self, *, after: str | None = None, limit: int = 100) -> tuple[list[KeyRecord], bool]:
        """Return keys, oldest first, and whether more follow.

        Parameters
        ----------
        after : str, optional
            The last key of the page before.
        limit : int
            At most that many, up to 1000.

        Raises
        ------
        APIError
            If a parameter is wrong.
        """
        if not 1 <= limit <= LARGEST_PAGE:
            raise bad("limit", f"must be from 1 to {LARGEST_PAGE}; got {limit}")
        if after is not None and not is_id(after):
            raise bad("after", "must be the id of a key")
        records = await self._store.page(after=after, limit=limit + 1)
        return records[:limit], len(records) > limit

    async def update(self, key_id: str, wanted: Mapping[str, Any], /, *, by: str = "the command line") -> KeyRecord:
        """Change a key.

        Raises
        ------
        APIError
            If `wanted` is wrong, 404 for an unknown key, 409 for a revoked one.
        """
        fields = read_changes(wanted, now=self.now)
        if "name" in wanted and wanted["name"] is None:
            raise bad("name", "cannot be taken away")

        def change(record: KeyRecord) -> KeyRecord:
            _refuse_revoked(record)
            parts = {
                name: merged(getattr(record, name), fields[name]) for name in ("limits", "metadata") & fields.keys()
            }
            return dataclasses.replace(record, **{**fields, **parts})

        return await self._change(key_id, change, "changed", by)

    async def rotate(
        self, key_id: str, /, *, grace_s: Any = DEFAULT_GRACE_S, by: str = "the command line"
    ) -> tuple[KeyRecord, str]:
        """Give a key a new token; return both. The old token holds for `grace_s` seconds, one older than it no longer.

        Raises
        ------
        APIError
            If `grace_s` is wrong, 404 for an unknown key, 409 for a revoked one.
        """
        grace = read_seconds(grace_s, "grace_s", most=LONGEST_GRACE_S)
        token = ""

        def change(record: KeyRecord) -> KeyRecord:
            nonlocal token
            _refuse_revoked(record)
            rotated, token = record.rotate(now=self.now, grace_s=grace)
            return rotated

        record = await self._change(key_id, change, "rotated", by)
        return record, token

    async def revoke(self, key_id: str, /, *, by: str = "the command line") -> KeyRecord:
        """Revoke a key for good; it stays on record.

        Raises
        ------
        APIError
            404 for an unknown key.
        """
        return await self._change(key_id, lambda record: record.revoke(now=self.now), "revoked", by)

    async def aclose(self) -> None:
        """Close the store."""
        await self._store.aclose()

    async def _change(self, key_id: str, change: Change, what: str, by: str) -> KeyRecord:
        key_id = _id_of(key_id)
        record = _found(await self._store.change(key_id, change) if is_id(key_id) else None, key_id)
        self._changed(what, record, by)
        return record

    def _changed(self, what: str, record: KeyRecord, by: str) -> None:
        self._on_change(record.id)
        logger.info("key %s (%r) was %s by %s", record.id, record.name, what, by)


def _id_of(given: str) -> str:
    """Return the id that is meant: of a token (one that leaked and is to be revoked), or the id itself."""
    return id_in(given) or given


def _found(record: KeyRecord | None, key_id: str) -> KeyRecord:
    if record is None:
        raise APIError(
            f"There is no key {key_id[:ID_LENGTH]!r}. Ids have 12 letters and digits, as in llmr-<id>-..., and "
            "GET /admin/keys (`llmrouter keys list`) lists them.",
            status=404,
            param="id",
            code="key_not_found",
        )
    return record


def _refuse_revoked(record: KeyRecord) -> None:
    if record.revoked is not None:
        raise APIError(
            f"The key {record.id} is revoked, and stays so; make a new one.", status=409, param="id", code="key_revoked"
        )
