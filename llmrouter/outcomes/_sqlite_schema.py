"""The tables of an outcome log in SQLite, and how a log of an older version gets them."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from llmrouter.exceptions import StoreError
from llmrouter.outcomes._sqlite_rows import ADDED_COLUMNS, COLUMN_DEFINITIONS

SCHEMA_VERSION = 3

# Version 3 also says who judged, and keeps the order in which judgements came.
_JUDGES_VERSION = 3

# The state of a judged outcome as it was at the event; what else there is to an outcome does not change.
_CREATE_EVENTS = (
    """CREATE TABLE events (event INTEGER PRIMARY KEY AUTOINCREMENT, request_id TEXT NOT NULL, quality REAL NOT NULL,
    quality_source TEXT, quality_weight REAL, quality_time REAL, quality_by TEXT NOT NULL, cost_usd REAL,
    price_as_of TEXT, overhead_cost_usd REAL)""",
    "CREATE INDEX events_of_outcome ON events (request_id)",
)
_CREATE = (
    "CREATE TABLE llmrouter_schema (version INTEGER NOT NULL)",
    f"INSERT INTO llmrouter_schema (version) VALUES ({SCHEMA_VERSION:d})",  # noqa: S608 - a constant
    f"CREATE TABLE outcomes ({COLUMN_DEFINITIONS})",
    "CREATE INDEX outcomes_by_time ON outcomes (time)",
    """CREATE TABLE feedback (request_id TEXT NOT NULL, source TEXT NOT NULL, quality REAL NOT NULL,
    weight REAL NOT NULL, time REAL NOT NULL, received REAL NOT NULL, pending INTEGER NOT NULL,
    given_by TEXT NOT NULL DEFAULT '', cost_usd REAL NOT NULL DEFAULT 0, PRIMARY KEY (request_id, source))""",
    "CREATE INDEX feedback_pending ON feedback (received) WHERE pending = 1",
    *_CREATE_EVENTS,
)


def create(connection: sqlite3.Connection) -> None:
    """Create the tables of an empty file, within the caller's transaction."""
    for statement in _CREATE:
        connection.execute(statement)


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Add what later versions added; rows keep what they have, and processes of the old version can go on.

    What was judged before the migration has no events: it is for training, not for adapting between trainings.
    """
    for later in range(version + 1, SCHEMA_VERSION + 1):
        for definition in ADDED_COLUMNS[later]:
            connection.execute(f"ALTER TABLE outcomes ADD COLUMN {definition}")
        if later == _JUDGES_VERSION:
            connection.execute("ALTER TABLE feedback ADD COLUMN given_by TEXT NOT NULL DEFAULT ''")
            connection.execute("ALTER TABLE feedback ADD COLUMN cost_usd REAL NOT NULL DEFAULT 0")
            for statement in _CREATE_EVENTS:
                connection.execute(statement)
    connection.execute("UPDATE llmrouter_schema SET version = ?", (SCHEMA_VERSION,))


def version_of(connection: sqlite3.Connection, path: Path) -> int:
    """Return the schema version of the log in the file, 0 if it is empty; refuse anything else.

    Raises
    ------
    StoreError
        If the file belongs to another program or to a newer llmrouter.
    """
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    if not tables:
        return 0
    if "llmrouter_schema" not in tables:
        raise StoreError(
            f"{path} is the database of another program (tables {', '.join(sorted(tables))}); it was left as it "
            "is. Name another file"
        )
    (version,) = connection.execute("SELECT max(version) FROM llmrouter_schema").fetchone()
    if not isinstance(version, int) or not 1 <= version <= SCHEMA_VERSION:
        raise StoreError(
            f"{path} has schema version {version}, this llmrouter knows {SCHEMA_VERSION}; it was left as it "
            "is. Upgrade llmrouter, or name another file"
        )
    return version
