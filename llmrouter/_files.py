"""Files that must be whole or not there: hashing, checked JSON, atomic writes."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmrouter.exceptions import ArtifactCorruptError


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that a reader (or a crash) sees the old file or the whole new one.

    The data is on disk before it takes the name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: its files are private, these are to be as readable as any other file of their owner.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Have what the file `path` holds, or the names in the folder `path`, on disk before this returns."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def json_bytes(value: Mapping[str, Any]) -> bytes:
    """Return `value` as indented JSON, the same bytes for the same content."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    ArtifactCorruptError
        If the file is missing, is not JSON, or holds something else than an object; the message names the file.
    """
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise ArtifactCorruptError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ArtifactCorruptError(f"{path} is not JSON ({error}); restore or rebuild it") from error
    if not isinstance(value, dict):
        raise ArtifactCorruptError(f"{path} must hold a JSON object, not {type(value).__name__}; restore or rebuild it")
    return value


def check_files(folder: Path, expected: object) -> dict[str, str]:
    """Check files of `folder` against their recorded SHA-256 and return the record.

    Parameters
    ----------
    folder : Path
        Where the files are.
    expected : mapping of str to str
        File name -> SHA-256 in hex, as read from a JSON file.

    Raises
    ------
    ArtifactCorruptError
        If the record is not such a mapping, or a file is missing or has another hash; the message names the file.
    """
    if not isinstance(expected, dict) or not expected:
        raise ArtifactCorruptError(f"{folder}: the recorded file hashes are missing; restore or rebuild the folder")
    for name, digest in expected.items():
        path = folder / str(name)
        if path.parent != folder:
            raise ArtifactCorruptError(f"{folder}: recorded file name {name!r} leads out of the folder")
        try:
            found = sha256_of(path)
        except OSError as error:
            raise ArtifactCorruptError(f"cannot read {path}: {error.strerror or error}") from error
        if found != digest:
            raise ArtifactCorruptError(
                f"{path} is corrupt: its SHA-256 is {found}, recorded is {digest}; restore or rebuild it"
            )
    return {str(name): str(digest) for name, digest in expected.items()}
