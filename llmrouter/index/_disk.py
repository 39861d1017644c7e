"""Writing that survives a crash: data first, then the name, then the folder."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from pathlib import Path

from llmrouter._files import sync
from llmrouter.exceptions import VectorIndexError

_CHUNK = 1 << 24  # bytes handed to one write


def write_file(path: Path, parts: Iterable[memoryview]) -> dict[str, int]:
    """Write a new file of `parts`, on disk when this returns, and return its length and CRC-32.

    A file left by an earlier attempt is replaced: nothing refers to it yet.
    """
    length, checksum = 0, 0
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        for part in parts:
            flat = part.cast("B") if part.nbytes else memoryview(b"")
            write_all(handle, flat)
            checksum = zlib.crc32(flat, checksum)
            length += flat.nbytes
        os.fsync(handle)
    finally:
        os.close(handle)
    return {"bytes": length, "crc32": checksum}


def write_all(handle: int, content: memoryview) -> None:
    """Write all of `content`, however little the system takes at once."""
    done = 0
    while done < content.nbytes:
        done += os.write(handle, content[done : done + _CHUNK])


def replace_file(path: Path, content: bytes) -> None:
    """Give `path` new content: a reader, or a crash, sees the old or the new whole."""
    fresh = path.with_name(path.name + ".new")
    write_file(fresh, [memoryview(content)])
    os.replace(fresh, path)  # noqa: PTH105 -- with the other calls that change a disk
    sync(path.parent)


def locked(path: Path) -> int:
    """Lock the file `path` for this process and return its handle, to be closed; -1 where another has it."""
    import fcntl  # not on Windows, where indexes in memory still work

    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return -1
    except BaseException:
        os.close(handle)
        raise
    return handle


def disk_error(path: Path, error: OSError) -> VectorIndexError:
    """Return the error for the caller of an index whose files cannot be written."""
    return VectorIndexError(
        f"cannot write {error.filename or path}: {error.strerror or error}; the index is unchanged. Free space or make "
        "the folder writable, then try again"
    )
