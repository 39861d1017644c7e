"""The log of changes since the last snapshot: appended, checksummed record by record.

A file header (magic, dimension, first sequence number, CRC-32), then records: a header (magic, operation, number of
rows, sequence number, CRC-32 of the header), ids, times and rows, and a CRC-32 of all of it. Little-endian.
"""

from __future__ import annotations

import logging
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from llmrouter.exceptions import ArtifactCorruptError, VectorIndexError
from llmrouter.index._disk import disk_error, write_all, write_file
from llmrouter.types import FloatArray, IntArray

logger = logging.getLogger(__name__)

OPERATIONS = ("add", "update", "remove")
_FILE = struct.Struct("<8sIQ")
_FILE_MAGIC = b"LLMRIDX1"
_RECORD = struct.Struct("<4sIIQ")
_RECORD_MAGIC = b"CHNG"
_CRC = struct.Struct("<I")
EMPTY_LOG_BYTES = _FILE.size + _CRC.size


@dataclass(frozen=True, slots=True)
class Change:
    """One record: rows added or updated, or ids removed.

    Attributes
    ----------
    operation : str
        ``add``, ``update`` or ``remove``.
    ids : array of shape (n,), int64
        Of the rows.
    rows : tuple of arrays
        Times (n,) and rows (n, d); empty for ``remove``.
    """

    operation: str
    ids: IntArray
    rows: tuple[FloatArray, ...] = ()


class ChangeLog:
    """A log open for appending.

    A record counts once `keep` was called: what interrupts the change it stands for, a signal for instance, may come
    at any moment between.

    Parameters
    ----------
    path : Path
        The file.
    dimension : int
        Length d of the rows.
    end : int
        Bytes of it that are whole.
    sequence : int
        Number of its last record.
    """

    def __init__(self, path: Path, dimension: int, *, end: int, sequence: int) -> None:
        self.path = path
        self._place = (end, sequence)
        self._next: tuple[int, int] | None = None
        self.loose = False
        self._dimension = dimension
        self._failed = ""
        self._handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            left_over = os.fstat(self._handle).st_size - end
            if left_over:
                logger.warning("%s: its last %d bytes, a change that was cut off, are dropped", path, left_over)
                os.ftruncate(self._handle, end)  # what a crash cut off was never acknowledged
                os.fsync(self._handle)
            os.lseek(self._handle, end, os.SEEK_SET)
        except BaseException:
            os.close(self._handle)
            raise

    @classmethod
    def begin(cls, path: Path, dimension: int, *, sequence: int) -> Self:
        """Write an empty log whose first record will be number `sequence` + 1."""
        head = _FILE.pack(_FILE_MAGIC, dimension, sequence)
        written = write_file(path, [memoryview(head + _CRC.pack(zlib.crc32(head)))])
        return cls(path, dimension, end=written["bytes"], sequence=sequence)

    @property
    def end(self) -> int:
        """How many bytes count."""
        return self._place[0]

    @property
    def sequence(self) -> int:
        """Number of the last record that counts."""
        return self._place[1]

    def append(self, operation: str, ids: IntArray, *rows: FloatArray) -> None:
        """Append a record; it is on disk when this returns, and counts from the next `keep` on.

        Raises
        ------
        VectorIndexError
            If it cannot be written; the log is then as before.
        """
        if self._failed:
            raise VectorIndexError(f"{self.path} could not be written before ({self._failed}); open the index again")
        head = _RECORD.pack(_RECORD_MAGIC, OPERATIONS.index(operation), len(ids), self.sequence + 1)
        head += _CRC.pack(zlib.crc32(head))
        body = b"".join([head, ids.tobytes(), *(array.tobytes() for array in rows)])
        record = body + _CRC.pack(zlib.crc32(body))
        self.loose = True
        try:
            write_all(self._handle, memoryview(record))
            os.fsync(self._handle)
        except OSError as error:
            self._cut_back(error)
            raise disk_error(self.path, error) from error
        end, sequence = self._place
        self._next = (end + len(record), sequence + 1)

    def keep(self) -> None:
        """Let the record that was appended count."""
        if self._next is not None:
            self._place = self._next
            self._next = None
        self.loose = False

    def drop(self) -> None:
        """Take off what was appended and not kept, whole or in part.

        Raises
        ------
        VectorIndexError
            If that cannot be done; nothing can be appended then.
        """
        self._next = None
        try:
            self._take_off()
        except OSError as error:
            self._failed = error.strerror or str(error)
            raise disk_error(self.path, error) from error
        self.loose = False

    def close(self) -> None:
        """Close the file; what was appended is on disk already."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
            self._failed = "closed"

    def _cut_back(self, error: OSError) -> None:
        """Take a half-written record off; where that fails, write nothing more behind it."""
        try:
            self._take_off()
            self.loose = False
        except OSError:
            self._failed = error.strerror or str(error)

    def _take_off(self) -> None:
        os.ftruncate(self._handle, self.end)
        os.lseek(self._handle, self.end, os.SEEK_SET)
        os.fsync(self._handle)


def read_log(path: Path, dimension: int, *, sequence: int) -> tuple[list[Change], int]:
    """Return the records of a log and how many bytes of it are whole.

    A record that the file ends in was cut off by a crash before it was acknowledged, and is left out.

    Raises
    ------
    ArtifactCorruptError
        If a checksum does not match, or the log is another index's; the message names file and place.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactCorruptError(f"cannot read {path}: {error.strerror or error}") from error
    at = _FILE.size + _CRC.size
    head, checksum = content[: _FILE.size], content[_FILE.size : at]
    if len(content) < at or zlib.crc32(head) != _CRC.unpack(checksum)[0]:
        raise _corrupt(path, 0, min(len(content), at))
    magic, length, first = _FILE.unpack(head)
    if (magic, length, first) != (_FILE_MAGIC, dimension, sequence):
        raise ArtifactCorruptError(
            f"{path} has dimension {length} and starts after change {first}; the manifest says {dimension} and "
            f"{sequence}; restore or rebuild the index"
        )
    changes: list[Change] = []
    while at < len(content):
        read = _record(path, content, at, dimension, sequence + len(changes) + 1)
        if read is None:
            break
        change, at = read
        changes.append(change)
    return changes, at


def _record(path: Path, content: bytes, at: int, dimension: int, sequence: int) -> tuple[Change, int] | None:
    """Return the record at byte `at` and where it ends; None if the file ends in it."""
    body = at + _RECORD.size + _CRC.size
    if len(content) < body:
        return None
    head = content[at : at + _RECORD.size]
    if zlib.crc32(head) != _CRC.unpack_from(content, at + _RECORD.size)[0]:
        if not any(content[at:]):  # room the file system gave before the data came
            return None
        raise _corrupt(path, at, body)
    magic, operation, count, number = _RECORD.unpack(head)
    if magic != _RECORD_MAGIC or operation >= len(OPERATIONS) or number != sequence:
        raise _corrupt(path, at, body)
    removal = OPERATIONS[operation] == "remove"
    end = body + 8 * count + (0 if removal else (8 + 4 * dimension) * count)
    if len(content) < end + _CRC.size:
        return None
    if zlib.crc32(memoryview(content)[at:end]) != _CRC.unpack_from(content, end)[0]:
        if not any(content[body:]):
            return None
        raise _corrupt(path, at, end + _CRC.size)
    ids = np.frombuffer(content, "<i8", count, body)
    if removal:
        return Change("remove", ids), end + _CRC.size
    times = np.frombuffer(content, "<f8", count, body + 8 * count)
    rows = np.frombuffer(content, "<f4", count * dimension, body + 16 * count).reshape(count, dimension)
    return Change(OPERATIONS[operation], ids, (times, rows)), end + _CRC.size


def _corrupt(path: Path, start: int, end: int) -> ArtifactCorruptError:
    return ArtifactCorruptError(
        f"{path} is corrupt: the checksum of bytes {start} to {end - 1} does not match; restore or rebuild the index"
    )
