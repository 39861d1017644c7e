"""Keys in one SQLite file, shared by all workers of a machine."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from service.keys.record import KeyRecord
from service.keys.store import Change, KeyStoreError

SCHEMA_VERSION = 1

T = TypeVar("T")

_OWNER_ONLY = 0o600
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_CREATE = (
    "CREATE TABLE llmrouter_keys_schema (version INTEGER NOT NULL)",
    f"INSERT INTO llmrouter_keys_schema (version) VALUES ({SCHEMA_VERSION:d})",  # noqa: S608 - a constant
    "CREATE TABLE keys (id TEXT PRIMARY KEY, created REAL NOT NULL, record TEXT NOT NULL, last_used REAL)",
    "CREATE INDEX keys_by_creation ON keys (created, id)",
)


class SQLiteKeyStore:
    """Keys in a SQLite file that only its owner can read.

    Write-ahead logging with ``synchronous=FULL``: a revocation that was answered is on disk. Every process opens its
    own store. Statements run in a thread of the store's own.

    Parameters
    ----------
    path : str or Path
        The file; created with its folder if absent. Permissions of others on it are taken away.
    busy_timeout_s : float
        How long a write waits for the writes of other processes.

    Raises
    ------
    KeyStoreError
        Here and in every method: if the file cannot be used. A file of something else is never changed.
    """

    def __init__(self, path: str | Path, *, busy_timeout_s: float = 5.0) -> None:
        self.path = Path(path)
        self.busy_timeout_s = busy_timeout_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="keys")
        self._connection: sqlite3.Connection | None = None
        try:
            # In the thread that will use it, and before anybody asks: a wrong path ends the start.
            self._connection = self._thread.submit(self._open).result()
        except BaseException:
            self._thread.shutdown(wait=False)
            raise

    async def get(self, key_id: str, /) -> KeyRecord | None:
        """Return a key, or None."""
        return await self._run(lambda connection: _get(connection, key_id))

    async def add(self, record: KeyRecord, /) -> None:
        """Store a new key."""
        row = (record.id, record.created, record.to_json().decode())

        def job(connection: sqlite3.Connection) -> None:
            with _immediate(connection):
                try:
                    connection.execute("INSERT INTO keys (id, created, record) VALUES (?, ?, ?)", row)
                except sqlite3.IntegrityError as error:
                    raise KeyStoreError(f"the key id {record.id} is taken") from error

        await self._run(job)

    async def change(self, key_id: str, change: Change, /) -> KeyRecord | None:
        """Change a key under the write lock of the file."""

        def job(connection: sqlite3.Connection) -> KeyRecord | None:
            with _immediate(connection):
                record = _get(connection, key_id)
                if record is None:
                    return None
                changed = change(record)
                connection.execute("UPDATE keys SET record = ? WHERE id = ?", (changed.to_json().decode(), key_id))
                return changed

        return await self._run(job)

    async def page(self, *, after: str | None, limit: int) -> list[KeyRecord]:
        """Return keys, oldest first."""
        start = "" if after is None else "WHERE (created, id) > (SELECT created, id FROM keys WHERE id = ?)"
        values = (limit,) if after is None else (after, limit)
        query = f"SELECT record, last_used FROM keys {start} ORDER BY created, id LIMIT ?"  # noqa: S608 - constants
        rows = await self._run(lambda connection: connection.execute(query, values).fetchall())
        return [_record(*row) for row in rows]

    async def touch(self, used: Mapping[str, float], /) -> None:
        """Note when keys were last used."""
        rows = [(moment, key_id, moment) for key_id, moment in used.items()]

        def job(connection: sqlite3.Connection) -> None:
            with _immediate(connection):
                connection.executemany(
                    "UPDATE keys SET last_used = ? WHERE id = ? AND coalesce(last_used, 0) < ?", rows
                )

        await self._run(job)

    async def aclose(self) -> None:
        """Close the file, after what is under way."""
        with suppress(RuntimeError):  # closed before
            await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    async def _run(self, job: Callable[[sqlite3.Connection], T]) -> T:
        try:
            done = asyncio.get_running_loop().run_in_executor(self._thread, self._do, job)
        except RuntimeError as error:  # the thread has ended
            raise KeyStoreError(f"{self.path}: the store of keys is closed") from error
        return await done

    # The thread

    def _do(self, job: Callable[[sqlite3.Connection], T]) -> T:
        if self._connection is None:
            raise KeyStoreError(f"{self.path}: the store of keys is closed")
        with self._translated():
            return job(self._connection)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        with self._translated():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # The files that SQLite puts beside it get the permissions of this one.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, _OWNER_ONLY))
            connection = sqlite3.connect(self.path, timeout=self.busy_timeout_s, isolation_level=None)
            try:
                self._prepare(connection)
                self._close_to_others()
            except BaseException:
                connection.close()
                raise
            return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        deadline = time.monotonic() + self.busy_timeout_s
        while True:  # the switch to write-ahead logging does not wait for other openers, as transactions do
            try:
                self._is_ours(connection)  # before anything is written
                connection.execute("PRAGMA journal_mode = WAL").fetchone()
                break
            except sqlite3.OperationalError as error:
                busy = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
                if not busy or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)  # another process is switching the same new file
        connection.execute("PRAGMA synchronous = FULL")
        with _immediate(connection):
            if not self._is_ours(connection):
                for statement in _CREATE:
                    connection.execute(statement)

    def _close_to_others(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                file = self.path.with_name(self.path.name + suffix)
                mode = file.stat().st_mode
                if mode & _OTHERS:
                    file.chmod(mode & ~_OTHERS)

    def _is_ours(self, connection: sqlite3.Connection) -> bool:
        """Return whether the file holds keys, False if it is empty; refuse anything else."""
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        if not tables:
            return False
        if "llmrouter_keys_schema" not in tables:
            raise KeyStoreError(
                f"{self.path} is another database (tables {', '.join(sorted(tables))}); it was left as it is. Name "
                "another file in auth.store"
            )
        (version,) = connection.execute("SELECT max(version) FROM llmrouter_keys_schema").fetchone()
        if version != SCHEMA_VERSION:
            raise KeyStoreError(
                f"{self.path} has schema version {version}, this llmrouter knows {SCHEMA_VERSION}; it was left as it "
                "is. Upgrade llmrouter, or name another file in auth.store"
            )
        return True

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise KeyStoreError(
                f"the store of keys {self.path} cannot be used ({error}); check the file, its folder and the disk"
            ) from error
        except OSError as error:
            raise KeyStoreError(
                f"the store of keys {self.path} cannot be opened ({error.strerror or error}); check its folder"
            ) from error


def _get(connection: sqlite3.Connection, key_id: str) -> KeyRecord | None:
    row = connection.execute("SELECT record, last_used FROM keys WHERE id = ?", (key_id,)).fetchone()
    return None if row is None else _record(*row)


def _record(text: str, last_used: float | None) -> KeyRecord:
    try:
        return KeyRecord.from_json(text, last_used=last_used)
    except (ValueError, TypeError, KeyError) as error:
        raise KeyStoreError("a stored key cannot be read: it was written by a newer llmrouter, or damaged") from error


@contextmanager
def _immediate(connection: sqlite3.Connection) -> Iterator[None]:
    """Run a transaction that holds the write lock from its start."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
