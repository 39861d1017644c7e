"""The outcome log in one SQLite file."""

from __future__ import annotations

import math
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from llmrouter.exceptions import ConfigError, DataError, StoreError
from llmrouter.outcomes import _sqlite_events as events
from llmrouter.outcomes._base import Event, Feedback
from llmrouter.outcomes._cursor import parse_number
from llmrouter.outcomes._feedback import check_feedback, check_outcome
from llmrouter.outcomes._sqlite_events import COLUMNS
from llmrouter.outcomes._sqlite_rows import (
    COLUMN_NAMES,
    storable_text,
    to_checked_row,
    to_row,
)
from llmrouter.outcomes._sqlite_schema import SCHEMA_VERSION, create, migrate, version_of
from llmrouter.types import Outcome

SECONDS_PER_DAY = 86_400.0

_PAGE = 500

_APPEND = (
    f"INSERT INTO outcomes ({COLUMNS}) VALUES ({', '.join('?' * len(COLUMN_NAMES))}) "  # noqa: S608 - constants
    "ON CONFLICT (request_id) DO NOTHING"
)
_WAITING = "SELECT 1 FROM feedback WHERE pending = 1 LIMIT 1"
_FOUND = "UPDATE feedback SET pending = 0 WHERE request_id = ? AND pending = 1"
_REPRICE = "UPDATE outcomes SET cost_usd = ?, price_as_of = ? WHERE request_id = ?"
_GET = f"SELECT {COLUMNS} FROM outcomes WHERE request_id = ?"  # noqa: S608 - constants
_SCAN = (
    f"SELECT rowid, {COLUMNS} FROM outcomes "  # noqa: S608 - constants
    "WHERE (time, rowid) > (?, ?) ORDER BY time, rowid LIMIT ?"
)
_JUDGE = (
    "INSERT INTO feedback (request_id, source, quality, weight, time, given_by, cost_usd, received, pending) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (request_id, source) DO UPDATE SET quality = excluded.quality, weight = excluded.weight, "
    "time = excluded.time, received = excluded.received, given_by = excluded.given_by, "
    "cost_usd = excluded.cost_usd "
    "WHERE (quality <> excluded.quality OR weight <> excluded.weight) AND excluded.time >= time"
)

_BUSY = "another process holds the log: stop it, or raise busy_timeout_s"
_UNREADABLE = (
    "the file is damaged or no SQLite database; it was left as it is. Move it (with its -wal file) away and start "
    "anew, and save what is in it with the `.recover` command of the sqlite3 shell"
)
_REMEDIES = {
    sqlite3.SQLITE_FULL: "the disk is full: free space; nothing of this call was stored",
    sqlite3.SQLITE_IOERR: "the disk failed or is full: check it; nothing of this call was stored",
    sqlite3.SQLITE_READONLY: "the file or its folder is read-only: make both writable for this user",
    sqlite3.SQLITE_CANTOPEN: "check that it is a file, and that its folder is writable",
    sqlite3.SQLITE_PERM: "check the permissions of the file and its folder",
    sqlite3.SQLITE_BUSY: _BUSY,
    sqlite3.SQLITE_LOCKED: _BUSY,
    sqlite3.SQLITE_CORRUPT: _UNREADABLE,
    sqlite3.SQLITE_NOTADB: _UNREADABLE,
}


class SQLiteOutcomeStore:
    """Outcomes and feedback in one SQLite file, shared by all workers of a gateway.

    Write-ahead logging with ``synchronous=FULL``: when `append` or `feedback` returns, the data is on disk. Every
    process opens its own store; threads may share one.

    Parameters
    ----------
    path : str or Path
        The file; created with its folder if absent.
    busy_timeout_s : float
        How long a write waits for the writes of other processes.
    pending_s : float
        How long feedback for an unknown request is kept.

    Raises
    ------
    StoreError
        Here and in every method: if the file cannot be read or written, is no outcome log, or was written by a newer
        llmrouter. A file that cannot be used is never changed or deleted.
    """

    def __init__(self, path: str | Path, *, busy_timeout_s: float = 10.0, pending_s: float = SECONDS_PER_DAY) -> None:
        self.path = Path(path)
        self.busy_timeout_s = busy_timeout_s
        self.pending_s = pending_s
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._connection: sqlite3.Connection | None = None
        with self._translated():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(
                self.path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
        self._connection = connection

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Return the store of ``sqlite:///relative/path.db`` or ``sqlite:////absolute/path.db``.

        Raises
        ------
        ConfigError
            If the URL names no file.
        StoreError
            If the file cannot be used.
        """
        path = url.removeprefix("sqlite:///")
        if path in (url, "", ":memory:"):
            raise ConfigError(
                f"log.store {url!r} names no file; write sqlite:///outcomes.db, or sqlite:////var/lib/outcomes.db "
                "for an absolute path"
            )
        return cls(path)

    def append(self, outcomes: Sequence[Outcome], /) -> None:
        """Store outcomes in one transaction; one already stored under its request_id is left as it is.

        Raises
        ------
        DataError
            If an outcome has no request_id, model or time, or a quality outside [0, 1]; nothing is stored then.
        StoreError
            If they cannot be written; nothing is stored then.
        """
        for outcome in outcomes:
            check_outcome(outcome)
        if not outcomes:
            return
        rows = [to_row(outcome) for outcome in outcomes]
        with self._transaction() as connection:
            before = events.last_row(connection)
            try:
                connection.executemany(_APPEND, rows)
            except (UnicodeEncodeError, sqlite3.ProgrammingError):
                # A value that SQLite does not take. What is in already stays: the same row again changes nothing.
                rows = [to_checked_row(outcome) for outcome in outcomes]
                connection.executemany(_APPEND, rows)
            events.note_judged_since(connection, before)
            if connection.execute(_WAITING).fetchone() is not None:
                connection.executemany(_FOUND, [(row[0],) for row in rows])

    def feedback(self, feedback: Feedback, /) -> bool:
        """Store a judgement; return whether its request is known already (else it waits for it).

        The same judgement again changes nothing; another one of the same source takes its place, unless it is older.

        Raises
        ------
        DataError
            If request_id or source is empty, or quality or weight is out of range.
        StoreError
            If it cannot be written.
        """
        return self.feedback_many([feedback])[0]

    def feedback_many(self, batch: Sequence[Feedback], /) -> list[bool]:
        """Store judgements in one transaction, in order; return of each what `feedback` returns.

        Raises
        ------
        DataError, StoreError
            As `feedback`; nothing is stored then.
        """
        for feedback in batch:
            check_feedback(feedback)
        with self._transaction() as connection:
            return [self._judge(connection, feedback, time.time()) for feedback in batch]

    def _judge(self, connection: sqlite3.Connection, feedback: Feedback, now: float) -> bool:
        texts = (feedback.request_id, feedback.source, feedback.by)
        request_id, source, by = (storable_text(text) for text in texts)
        known = connection.execute("SELECT 1 FROM outcomes WHERE request_id = ?", (request_id,)).fetchone()
        if known is None:
            expired = now - self.pending_s
            connection.execute("DELETE FROM feedback WHERE pending = 1 AND received < ?", (expired,))
        judged = (feedback.quality, feedback.weight, feedback.time or now, by, feedback.cost_usd)
        changed = connection.execute(_JUDGE, (request_id, source, *judged, now, int(known is None))).rowcount
        if known is not None and changed:
            events.note(connection, events.joined(connection, connection.execute(_GET, (request_id,)).fetchall()))
        return known is not None

    def update_costs(self, costs: Iterable[tuple[str, float, str]], /) -> int:
        """Replace costs in one transaction, and return how many outcomes were found.

        Parameters
        ----------
        costs : iterable of (str, float, str)
            Request id, US dollars, and what the price list says of itself (`Price.stamp`).

        Raises
        ------
        StoreError
            If they cannot be written; nothing is changed then.
        """
        rows = [(cost, storable_text(stamp), storable_text(request_id)) for request_id, cost, stamp in costs]
        with self._transaction() as connection:
            return connection.executemany(_REPRICE, rows).rowcount if rows else 0

    def get(self, request_id: str, /) -> Outcome | None:
        """Return one outcome with its feedback joined, or None."""
        with self._reading() as connection:
            row = connection.execute(_GET, (storable_text(request_id),)).fetchone()
            return None if row is None else events.joined(connection, [row])[0]

    def scan(self, since: float = 0.0) -> Iterator[Outcome]:
        """Yield outcomes with ``time >= since``, oldest first, feedback joined.

        Read page by page, so that a slow reader holds up neither writers nor checkpoints.
        """
        last_time, last_row = since, -1
        while True:
            with self._reading() as connection:
                rows = connection.execute(_SCAN, (last_time, last_row, _PAGE)).fetchall()
                outcomes = events.joined(connection, [row[1:] for row in rows])
            yield from outcomes
            if len(rows) < _PAGE:
                return
            last_time, last_row = outcomes[-1].time, rows[-1][0]

    def events(self, after: str = "", limit: int = 1000) -> Sequence[Event]:
        """Return at most `limit` events that come after a cursor, in order.

        Raises
        ------
        DataError
            If `after` is no cursor of a SQLite log.
        """
        last = parse_number(after)
        with self._reading() as connection:
            return events.read(connection, last, limit)

    def last_event(self) -> str:
        """Return the cursor of the newest event there was, "" where there was none."""
        with self._reading() as connection:
            return events.last_event(connection)

    def prune(self, *, before: float = -math.inf, keep: int | None = None, limit: int = 1000) -> int:
        """Remove outcomes, oldest first, with their judgements and events; return how many.

        Those with ``time < before``, and those beyond the newest `keep`; at most `limit` in this one transaction. The
        file does not shrink: its free pages are used again.
        """
        with self._transaction() as connection:
            return events.prune(connection, before, keep, limit)

    def close(self) -> None:
        """Release the file; the store cannot be used afterwards. Closing twice is harmless."""
        with self._lock:
            if self._connection is not None and os.getpid() == self._process:
                self._connection.close()
            self._connection = None

    def _prepare(self, connection: sqlite3.Connection) -> None:
        deadline = time.monotonic() + self.busy_timeout_s
        while True:  # the switch to write-ahead logging does not wait for other openers, as transactions do
            try:
                version_of(connection, self.path)  # before anything is written: the file may be somebody else's
                (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
                break
            except sqlite3.OperationalError as error:
                if _primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)  # another worker is switching the same new file
        if mode != "wal":
            raise StoreError(f"{self.path}: SQLite cannot keep a write-ahead log here; use a local file system")
        connection.execute("PRAGMA synchronous = FULL")
        with _immediate(connection):
            version = version_of(connection, self.path)
            if version == 0:
                create(connection)
            elif version < SCHEMA_VERSION:
                migrate(connection, version)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._reading() as connection, _immediate(connection):
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._translated():
            if self._connection is None:
                raise StoreError(f"{self.path}: the store is closed; open it again")
            if os.getpid() != self._process:
                raise StoreError(f"{self.path}: the store was opened before a fork; open one in each process")
            yield self._connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            remedy = _REMEDIES.get(_primary_code(error), "the file was left as it is")
            raise StoreError(f"{self.path}: {error}; {remedy}") from error
        except OSError as error:
            raise StoreError(f"{self.path}: {error.strerror or error}; check its folder") from error
        except OverflowError as error:
            raise DataError(f"{self.path}: {error}; a token count does not fit into 64 bits") from error
        except ValueError as error:
            raise StoreError(f"{self.path}: a row cannot be decoded ({error}); {_UNREADABLE}") from error


def _primary_code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


@contextmanager
def _immediate(connection: sqlite3.Connection) -> Iterator[None]:
    """Run a transaction that holds the write lock from its start, so that it cannot fail half way for being late."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # a full disk rolls back by itself
            connection.execute("ROLLBACK")
        raise
