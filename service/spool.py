"""A file that takes outcomes while the store cannot: one JSON line each, replayed later."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson

from llmrouter.types import Outcome

_FIELDS = frozenset(field.name for field in dataclasses.fields(Outcome))


class Spool:
    """Append outcomes to a file, and read them back.

    Parameters
    ----------
    path : Path
        The file; absent while nothing is spooled.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def rejected_path(self) -> Path:
        """The file beside it for lines and outcomes that no store takes."""
        return self.path.with_suffix(".rejected.jsonl")

    def exists(self) -> bool:
        """Return whether anything waits in the file."""
        return self.path.exists()

    def append(self, outcomes: Sequence[Outcome]) -> None:
        """Write outcomes; they are on disk when this returns.

        Raises
        ------
        OSError
            If they cannot be written.
        """
        _append_lines(self.path, [_line(outcome) for outcome in outcomes])

    def reject(self, outcomes: Sequence[Outcome]) -> None:
        """Put aside outcomes that the store refuses as wrong; never replayed."""
        _append_lines(self.rejected_path, [_line(outcome) for outcome in outcomes])

    def batches(self, size: int) -> Iterator[list[Outcome]]:
        """Yield what was spooled, in order; a line that cannot be read (cut off by a crash) goes to `rejected_path`."""
        batch: list[Outcome] = []
        bad: list[bytes] = []
        with self.path.open("rb") as file:
            for line in file:
                outcome = _parsed(line)
                if outcome is None:
                    bad.append(line.rstrip(b"\n"))
                    continue
                batch.append(outcome)
                if len(batch) == size:
                    yield batch
                    batch = []
        if batch:
            yield batch
        if bad:
            _append_lines(self.rejected_path, bad)

    def clear(self) -> None:
        """Delete the file: everything in it is in the store."""
        self.path.unlink(missing_ok=True)


def _line(outcome: Outcome) -> bytes:
    try:
        return orjson.dumps(outcome, default=dict)
    except TypeError:  # an upstream's usage that JSON can be read from and not written to
        return orjson.dumps(
            dataclasses.replace(
                outcome, usage=None, input_tokens=None, cached_tokens=None, output_tokens=None, reasoning_tokens=None
            ),
            default=dict,
        )


def _append_lines(path: Path, lines: Sequence[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "ab") as file:
        # A line cut off by a crash must not run into the first one of ours.
        start = b"\n" if file.tell() and not _ends_with_newline(path) else b""
        file.write(start + b"\n".join(lines) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _parsed(line: bytes) -> Outcome | None:
    try:
        fields = orjson.loads(line)
        if not isinstance(fields, dict):
            return None
        known = {name: value for name, value in fields.items() if name in _FIELDS}
        sequences = {name: tuple(known.get(name) or ()) for name in ("fallbacks", "attempts")}
        return Outcome(**{**known, **sequences})
    except (orjson.JSONDecodeError, TypeError):
        return None
