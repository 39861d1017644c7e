"""A file that takes outcomes and judgements while the store cannot: one JSON line each, replayed later."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import orjson

from llmrouter.exceptions import DataError
from llmrouter.outcomes import Feedback, outcome_from_json, outcome_to_json
from llmrouter.types import Outcome

_FEEDBACK = b'{"feedback":'
_FIELDS = frozenset(field.name for field in dataclasses.fields(Feedback))


class Spool:
    """Append outcomes and judgements to a file, and read them back.

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

    def append(self, items: Sequence[Outcome | Feedback]) -> None:
        """Write outcomes or judgements; they are on disk when this returns.

        Raises
        ------
        OSError
            If they cannot be written.
        """
        _append_lines(self.path, [_line(item) for item in items])

    def reject(self, items: Sequence[Outcome | Feedback]) -> None:
        """Put aside what the store refuses as wrong; never replayed."""
        _append_lines(self.rejected_path, [_line(item) for item in items])

    def batches(self, size: int) -> Iterator[list[Outcome] | list[Feedback]]:
        """Yield what was spooled, in order, each batch of one kind.

        A line that cannot be read (cut off by a crash) goes to `rejected_path`.
        """
        bad: list[bytes] = []
        with self.path.open("rb") as file:
            for _, items in itertools.groupby(_read(file, bad), type):
                while batch := list(itertools.islice(items, size)):
                    yield batch  # type: ignore[misc] # one kind: grouped by it
        if bad:
            _append_lines(self.rejected_path, bad)

    def clear(self) -> None:
        """Delete the file: everything in it is in the store."""
        self.path.unlink(missing_ok=True)


def _line(item: Outcome | Feedback) -> bytes:
    if isinstance(item, Feedback):
        try:
            return orjson.dumps({"feedback": item})
        except TypeError:  # half a surrogate pair
            texts = (item.request_id, item.source, item.by)
            request_id, source, by = (text.encode("utf-8", "replace").decode() for text in texts)
            return _line(dataclasses.replace(item, request_id=request_id, source=source, by=by))
    try:
        return outcome_to_json(item)
    except DataError:  # an upstream's usage that JSON can be read from and not written to
        return outcome_to_json(
            dataclasses.replace(
                item, usage=None, input_tokens=None, cached_tokens=None, output_tokens=None, reasoning_tokens=None
            )
        )


def _append_lines(path: Path, lines: Sequence[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "ab") as file:
        # A line cut off by a crash must not run into the first one of ours.
        start = b"\n" if file.tell() and not _ends_with_newline(path) else b""
        file.write(start + b"\n".join(lines) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    if new:  # its name must be on disk too
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _read(lines: Iterable[bytes], bad: list[bytes]) -> Iterator[Outcome | Feedback]:
    for line in lines:
        item = _parsed(line)
        if item is None:
            bad.append(line.rstrip(b"\n"))
        else:
            yield item


def _parsed(line: bytes) -> Outcome | Feedback | None:
    try:
        if line.startswith(_FEEDBACK):
            given = orjson.loads(line)["feedback"]
            return Feedback(**{name: value for name, value in given.items() if name in _FIELDS})
        return outcome_from_json(line)
    except (DataError, orjson.JSONDecodeError, TypeError, AttributeError):
        return None
