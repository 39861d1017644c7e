"""Cursors of events: numbers as texts that sort as the numbers do."""

from __future__ import annotations

import re

from llmrouter.exceptions import DataError

_DIGITS = 18  # less than 64 bits
_ENTRY = re.compile(r"[0-9]{16}-[0-9]{10}")


def write_number(number: int) -> str:
    """Return a number as a cursor."""
    return f"{number:0{_DIGITS}d}"


def parse_number(cursor: str) -> int:
    """Return the number of a cursor, 0 for "".

    Raises
    ------
    DataError
        If it is no cursor of this store.
    """
    if not cursor:
        return 0
    if len(cursor) != _DIGITS or not (cursor.isascii() and cursor.isdecimal()):
        raise bad_cursor(cursor)
    return int(cursor)


def bad_cursor(cursor: str) -> DataError:
    """Return the error for a cursor that another store, or nobody, gave out."""
    return DataError(f"events after {cursor[:64]!r}: that is no cursor of this store; give one of its events, or ''")


def write_entry(entry: str) -> str:
    """Return the cursor of an entry of a Redis stream: milliseconds and a number, both of fixed width."""
    moment, number = entry.split("-")
    return f"{int(moment):016d}-{int(number):010d}"


def parse_entry(cursor: str) -> str:
    """Return the entry of a cursor, ``0-0`` for "".

    Raises
    ------
    DataError
        If it is no cursor of this store.
    """
    if not cursor:
        return "0-0"
    if not _ENTRY.fullmatch(cursor):
        raise bad_cursor(cursor)
    moment, number = cursor.split("-")
    return f"{int(moment)}-{int(number)}"
