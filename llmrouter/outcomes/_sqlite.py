"""The outcome log in one SQLite file."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from llmrouter.exceptions import ConfigError, DataError, StoreError
from llmrouter.outcomes._base import Feedback
from llmrouter.outcomes._feedback import check_feedback, check_outcome, join_feedback
from llmrouter.outcomes._sqlite_rows import (
    ADDED_COLUMNS,
    COLUMN_DEFINITIONS,
    COLUMN_NAMES,
    from_row,
    storable_text,
    to_checked_row,
    to_row,
)
from llmrouter.types import Outcome

SCHEMA_VERSION = 3
SECONDS_PER_DAY = 86_400.0

_FEEDBACK_BY_VERSION = 3

_PAGE = 500
_COLUMNS = ", ".join(f'"{name}"' for name in COLUMN_NAMES)

_CREATE = (
    "CREATE TABLE llmrouter_schema (version INTEGER NOT NULL)",
    f"INSERT INTO llmrouter_schema (version) VALUES ({SCHEMA_VERSION:d})",  # noqa: S608 - a constant
    f"CREATE TABLE outcomes ({COLUMN_DEFINITIONS})",
    "CREATE INDEX outcomes_by_time ON outcomes (time)",
    """CREATE TABLE feedback (request_id TEXT NOT NULL, source TEXT NOT NULL, quality REAL NOT NULL,
    weight REAL NOT NULL, time REAL NOT NULL, received REAL NOT NULL, pending INTEGER NOT NULL,
    given_by TEXT NOT NULL DEFAULT '', PRIMARY KEY (request_id, source))""",
    "CREATE INDEX feedback_pending ON feedback (received) WHERE pending = 1",
)
_APPEND = (
    f"INSERT INTO outcomes ({_COLUMNS}) VALUES ({', '.join('?' * len(COLUMN_NAMES))}) "  # noqa: S608 - constants
    "ON CONFLICT (request_id) DO NOTHING"
)
_WAITING = "SELECT 1 FROM feedback WHERE pending = 1 LIMIT 1"
_FOUND = "UPDATE feedback SET pending = 0 WHERE request_id = ? AND pending = 1"
_REPRICE = "UPDATE outcomes SET cost_usd = ?, price_as_of = ? WHERE request_id = ?"
_GET = f"SELECT {_COLUMNS} FROM outcomes WHERE request_id = ?"  # noqa: S608 - constants
_SCAN = (
    f"SELECT rowid, {_COLUMNS} FROM outcomes "  # noqa: S608 - constants
    "WHERE (time, rowid) > (?, ?) ORDER BY time, rowid LIMIT ?"
)
_JUDGE = (
    "INSERT INTO feedback (request_id, source, quality, weight, time, given_by, received, pending) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (request_id, source) DO UPDATE SET quality = excluded.quality, weight = excluded.weight, "
    "time = excluded.time, received = excluded.received, given_by = excluded.given_by "
    "WHERE quality <> excluded.quality OR weight <> excluded.weight"
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
            try:
                connection.executemany(_APPEND, rows)
            except (UnicodeEncodeError, sqlite3.ProgrammingError):
                # A value that SQLite does not take. What is in already stays: the same row again changes nothing.
                rows = [to_checked_row(outcome) for outcome in outcomes]
                connection.executemany(_APPEND, rows)
            if connection.execute(_WAITING).fetchone() is not None:
                connection.executemany(_FOUND, [(row[0],) for row in rows])

    def feedback(self, feedback: Feedback, /) -> bool:
        """Store a judgement; return whether its request is known already (else it waits for it).

        The same judgement again changes nothing; another one of the same source takes its place.

        Raises
        ------
        DataError
            If request_id or source is empty, or quality or weight is out of range.
        StoreError
            If it cannot be written.
        """
        check_feedback(feedback)
        now = time.time()
        request_id, source = storable_text(feedback.request_id), storable_text(feedback.source)
        with self._transaction() as connection:
            known = connection.execute("SELECT 1 FROM outcomes WHERE request_id = ?", (request_id,)).fetchone()
            if known is None:
                expired = now - self.pending_s
                connection.execute("DELETE FROM feedback WHERE pending = 1 AND received < ?", (expired,))
            judged = (feedback.quality, feedback.weight, feedback.time or now, storable_text(feedback.by))
            connection.execute(_JUDGE, (request_id, source, *judged, now, int(known is None)))
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
            return None if row is None else _joined(connection, [row])[0]

    def scan(self, since: float = 0.0) -> Iterator[Outcome]:
        """Yield outcomes with ``time >= since``, oldest first, feedback joined.

        Read page by page, so that a slow reader holds up neither writers nor checkpoints.
        """
        last_time, last_row = since, -1
        while True:
            with self._reading() as connection:
                rows = connection.execute(_SCAN, (last_time, last_row, _PAGE)).fetchall()
                outcomes = _joined(connection, [row[1:] for row in rows])
            yield from outcomes
            if len(rows) < _PAGE:
                return
            last_time, last_row = outcomes[-1].time, rows[-1][0]

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
                self._version(connection)  # before anything is written: the file may be somebody else's
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
            version = self._version(connection)
            if version == 0:
                for statement in _CREATE:
                    connection.execute(statement)
            elif version < SCHEMA_VERSION:
                _migrate(connection, version)

    def _version(self, connection: sqlite3.Connection) -> int:
        """Return the schema version of the log in the file, 0 if it is empty; refuse anything else."""
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        if not tables:
            return 0
        if "llmrouter_schema" not in tables:
            raise StoreError(
                f"{self.path} is the database of another program (tables {', '.join(sorted(tables))}); it was left as "
                "it is. Name another file"
            )
        (version,) = connection.execute("SELECT max(version) FROM llmrouter_schema").fetchone()
        if not isinstance(version, int) or not 1 <= version <= SCHEMA_VERSION:
            raise StoreError(
                f"{self.path} has schema version {version}, this llmrouter knows {SCHEMA_VERSION}; it was left as it "
                "is. Upgrade llmrouter, or name another file"
            )
        return version

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


def _migrate(connection: sqlite3.Connection, version: int) -> None:
    """Add the columns of later versions; rows keep what they have, and processes of the old version can go on."""
    for later in range(version + 1, SCHEMA_VERSION + 1):
        for definition in ADDED_COLUMNS[later]:
            connection.execute(f"ALTER TABLE outcomes ADD COLUMN {definition}")
        if later == _FEEDBACK_BY_VERSION:
            connection.execute("ALTER TABLE feedback ADD COLUMN given_by TEXT NOT NULL DEFAULT ''")
    connection.execute("UPDATE llmrouter_schema SET version = ?", (SCHEMA_VERSION,))


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


def _joined(connection: sqlite3.Connection, rows: Sequence[Sequence[Any]]) -> list[Outcome]:
    outcomes = [from_row(row) for row in rows]
    judgements: dict[str, list[Feedback]] = {}
    marks = ", ".join("?" * len(outcomes))
    found = connection.execute(
        f"SELECT request_id, quality, source, weight, time, given_by FROM feedback WHERE request_id IN ({marks})",  # noqa: S608
        [outcome.request_id for outcome in outcomes],
    )
    for row in found:
        judgements.setdefault(row[0], []).append(Feedback(*row))
    return [join_feedback(outcome, judgements.get(outcome.request_id, ())) for outcome in outcomes]
