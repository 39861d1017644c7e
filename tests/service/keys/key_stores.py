"""What the tests of keys share: clocks to turn, and a store that fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from service.keys.record import KeyRecord
from service.keys.store import KeyStoreError, MemoryKeyStore


class Clock:
    """A clock that a test turns."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class WatchedStore(MemoryKeyStore):
    """A store in memory that counts lookups and can be out of reach."""

    def __init__(self) -> None:
        super().__init__()
        self.lookups: list[str] = []
        self.broken = False
        self.before_answer: Callable[[], Awaitable[None]] | None = None

    async def get(self, key_id: str, /) -> KeyRecord | None:
        self.lookups.append(key_id)
        if self.broken:
            raise KeyStoreError("it is gone")
        record = await super().get(key_id)
        if self.before_answer is not None:
            await self.before_answer()
        return record

    async def touch(self, used: Any, /) -> None:
        if self.broken:
            raise KeyStoreError("it is gone")
        await super().touch(used)
