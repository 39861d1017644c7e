"""The ordered events of an outcome log in SQLite, and what pruning removes."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from llmrouter.outcomes._base import Event, Feedback
from llmrouter.outcomes._cursor import write_number
from llmrouter.outcomes._feedback import join_feedback
from llmrouter.outcomes._sqlite_rows import COLUMN_NAMES, from_row
from llmrouter.types import Outcome, is_missing

COLUMNS = ", ".join(f'"{name}"' for name in COLUMN_NAMES)

_STATE = (
    *("quality", "quality_source", "quality_weight", "quality_time", "quality_by"),
    *("cost_usd", "price_as_of", "overhead_cost_usd"),
)
_NOTE = f"INSERT INTO events (request_id, {', '.join(_STATE)}) VALUES ({', '.join('?' * (1 + len(_STATE)))})"  # noqa: S608
_READ = (
    f"SELECT event, {', '.join('events.' + name for name in _STATE)}, "  # noqa: S608 - constants
    f"{', '.join('outcomes.' + name for name in COLUMN_NAMES)} "
    "FROM events JOIN outcomes USING (request_id) WHERE event > ? ORDER BY event LIMIT ?"
)
_JUDGED_SINCE = (
    f"SELECT {COLUMNS} FROM outcomes WHERE rowid > ? AND (quality IS NOT NULL OR EXISTS "  # noqa: S608 - constants
    "(SELECT 1 FROM feedback WHERE feedback.request_id = outcomes.request_id)) ORDER BY rowid"
)
_OLDEST = "SELECT request_id FROM outcomes ORDER BY time, rowid LIMIT ?"
_AGED = "SELECT count(*) FROM (SELECT 1 FROM outcomes WHERE time < ? LIMIT ?)"


def last_row(connection: sqlite3.Connection) -> int:
    """Return the row after which the next outcomes are stored."""
    (row,) = connection.execute("SELECT max(rowid) FROM outcomes").fetchone()
    return row or 0


def note_judged_since(connection: sqlite3.Connection, row: int) -> None:
    """Add the events of the outcomes stored after a row, as far as they are judged."""
    note(connection, joined(connection, connection.execute(_JUDGED_SINCE, (row,)).fetchall()))


def note(connection: sqlite3.Connection, outcomes: Iterable[Outcome]) -> None:
    """Add an event for each outcome that is judged; they have their judgements joined."""
    connection.executemany(_NOTE, [(o.request_id, *_state_of(o)) for o in outcomes if not is_missing(o.quality)])


def read(connection: sqlite3.Connection, last: int, limit: int) -> list[Event]:
    """Return at most `limit` events after one, in order."""
    rows = connection.execute(_READ, (last, limit)).fetchall()
    return [Event(write_number(row[0]), _as_it_was(row[1 : 1 + len(_STATE)], row[1 + len(_STATE) :])) for row in rows]


def last_event(connection: sqlite3.Connection) -> str:
    """Return the cursor of the newest event there ever was, "" where there was none."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
    return write_number(row[0]) if row and row[0] else ""


def prune(connection: sqlite3.Connection, before: float, keep: int | None, limit: int) -> int:
    """Remove outcomes, oldest first, with their judgements and events; return how many."""
    (count,) = connection.execute(_AGED, (before, limit)).fetchone()
    if keep is not None and count < limit:
        (total,) = connection.execute("SELECT count(*) FROM outcomes").fetchone()
        count = min(max(count, total - keep), limit)
    if not count:
        return 0
    gone = connection.execute(_OLDEST, (count,)).fetchall()
    for table in ("events", "feedback", "outcomes"):
        connection.executemany(f"DELETE FROM {table} WHERE request_id = ?", gone)  # noqa: S608 - a constant
    return len(gone)


def joined(connection: sqlite3.Connection, rows: Sequence[Sequence[Any]]) -> list[Outcome]:
    """Return the outcomes of rows, with the judgements that the log holds of them."""
    outcomes = [from_row(row) for row in rows]
    judgements: dict[str, list[Feedback]] = {}
    marks = ", ".join("?" * len(outcomes))
    found = connection.execute(
        f"SELECT request_id, quality, source, weight, time, given_by, cost_usd FROM feedback "  # noqa: S608
        f"WHERE request_id IN ({marks})",
        [outcome.request_id for outcome in outcomes],
    )
    for row in found:
        judgements.setdefault(row[0], []).append(Feedback(*row))
    return [join_feedback(outcome, judgements.get(outcome.request_id, ())) for outcome in outcomes]


def _state_of(outcome: Outcome) -> list[Any]:
    state = {name: getattr(outcome, name) for name in _STATE}
    state["quality_by"] = orjson.dumps(list(outcome.quality_by)).decode()
    return list(state.values())


def _as_it_was(state: Sequence[Any], row: Sequence[Any]) -> Outcome:
    changed = dict(zip(_STATE, state, strict=True))
    changed["quality_by"] = tuple(orjson.loads(changed["quality_by"]))
    return dataclasses.replace(from_row(row), **changed)
