"""What was spent, on disk: a restart forgets no budget."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from llmrouter.exceptions import ConfigError, StoreError
from service.limits.ledger import Account, Ledger

_SCHEMA = """
CREATE TABLE IF NOT EXISTS spend (
    subject TEXT PRIMARY KEY,
    period TEXT NOT NULL,
    usd REAL NOT NULL,
    largest_usd REAL NOT NULL,
    largest_before_usd REAL NOT NULL
)
"""
_UPSERT = "INSERT OR REPLACE INTO spend VALUES (?, ?, ?, ?, ?)"

Row = tuple[str, str, float, float, float]


class SpendJournal:
    """A SQLite file that one process holds for itself.

    Parameters
    ----------
    path : Path
        The file; made when it is opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None

    @property
    def is_open(self) -> bool:
        """Whether the file is open."""
        return self._connection is not None

    def open(self) -> list[Row]:
        """Take the file, and return what it says.

        Raises
        ------
        ConfigError
            If another process has it, or it cannot be used.
        """
        connection = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, timeout=0.5, isolation_level=None, check_same_thread=False)
            # Held until the connection closes: two processes that each counted by themselves would both be wrong.
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute(_SCHEMA)
            rows: list[Row] = connection.execute("SELECT * FROM spend").fetchall()
            connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            if connection is not None:
                connection.close()
            busy = "locked" in str(error)
            remedy = "another gateway uses it: give each its own file, or let them share Redis" if busy else str(error)
            raise ConfigError(f"cannot use {self.path}: {remedy}", path="limits.state") from error
        self._connection = connection
        return rows

    def write(self, rows: Iterable[Row]) -> None:
        """Store rows, all or none.

        Raises
        ------
        StoreError
            If that is not possible now.
        """
        if self._connection is None:
            raise StoreError(f"{self.path} is not open")
        try:
            self._connection.execute("BEGIN")
            self._connection.executemany(_UPSERT, rows)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise StoreError(f"cannot write {self.path}: {error}") from error

    def close(self) -> None:
        """Give the file back."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def dirty_rows(ledger: Ledger) -> list[Row]:
    """Return the accounts whose money has changed, and take them off the list of those.

    What requests under way have reserved counts as spent, for a process that ends in between.
    """
    rows = []
    for name in list(ledger.dirty):
        ledger.dirty.discard(name)
        account = ledger.accounts[name]
        usd = account.spent + account.reserved
        rows.append((name, account.period, usd, account.largest, account.largest_before))
    return rows


def restore(ledger: Ledger, rows: Iterable[Row]) -> None:
    """Put what a journal says into a ledger; what is reserved there already stays."""
    for name, period, usd, largest, largest_before in rows:
        account = ledger.accounts.setdefault(name, Account())
        account.period, account.spent = period, usd
        account.largest, account.largest_before = largest, largest_before
