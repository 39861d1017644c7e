"""Flat indexes on disk: one file of ids and rows, and ``index.json`` with its hash. The same for every flat index."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Self

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from llmrouter._files import check_files, json_bytes, read_json_object, write_atomically
from llmrouter.exceptions import ArtifactCorruptError, VectorIndexError
from llmrouter.index._checks import checked_addition, checked_dimension
from llmrouter.index._disk import disk_error
from llmrouter.types import FloatArray, IntArray

_LAYOUT = 1
_HEADER = "index.json"
_ROWS = re.compile(r"vectors-[0-9a-f]{16}\.safetensors")


class FlatFiles(ABC):
    """An index that is made by its dimension alone and reads what any flat index wrote."""

    @abstractmethod
    def __init__(self, dimension: int) -> None: ...

    @abstractmethod
    def add(self, ids: IntArray, vectors: FloatArray, /) -> None:
        """Add rows: `ids` of shape (n,), `vectors` of shape (n, d)."""

    @classmethod
    def load(cls, folder: Path, /) -> Self:
        """Read what `save` of any flat index wrote; structures are built anew.

        Raises
        ------
        ArtifactCorruptError
            If a file is missing or damaged; the message names it.
        """
        ids, vectors = load_flat(Path(folder))
        index = cls(vectors.shape[1])
        index.add(ids, vectors)
        return index


def save_flat(folder: Path, *, ids: IntArray, vectors: FloatArray) -> None:
    """Write ids (n,) and vectors (n, d) into `folder`; what was there stays whole until the new index is.

    The rows' file carries its hash in its name, so it never overwrites the one that ``index.json`` still points to.

    Raises
    ------
    VectorIndexError
        If the folder cannot be written.
    """
    content = save({"ids": np.ascontiguousarray(ids), "vectors": np.ascontiguousarray(vectors)})
    digest = hashlib.sha256(content).hexdigest()
    name = f"vectors-{digest[:16]}.safetensors"
    header = {
        "kind": "flat",
        "layout": _LAYOUT,
        "dimension": int(vectors.shape[1]),
        "rows": len(ids),
        "files": {name: digest},
    }
    try:
        write_atomically(folder / name, content)
        write_atomically(folder / _HEADER, json_bytes(header))
        for stale in folder.iterdir():
            if stale.name != name and _ROWS.fullmatch(stale.name):
                stale.unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(folder, error) from error


def load_flat(folder: Path) -> tuple[IntArray, FloatArray]:
    """Read what `save_flat` wrote: ids (n,) and vectors (n, d).

    Raises
    ------
    ArtifactCorruptError
        If a file is missing, truncated, altered or of another layout; the message names it.
    """
    header_path = folder / _HEADER
    header = _read_header(header_path)
    (name, *more) = check_files(folder, header.get("files"))
    if more:
        raise ArtifactCorruptError(f"{header_path} lists {len(more) + 1} files; a flat index has one")
    path = folder / name
    try:
        arrays = load(path.read_bytes())
        dimension = checked_dimension(header.get("dimension", 0))
        ids, vectors = checked_addition(
            arrays["ids"], arrays["vectors"], dimension=dimension, stored=np.empty(0, dtype=np.int64)
        )
    except (SafetensorError, OSError, KeyError, VectorIndexError) as error:
        raise ArtifactCorruptError(f"cannot read {path}: {error}; restore or rebuild the index") from error
    if len(ids) != header["rows"]:
        raise ArtifactCorruptError(f"{path} has {len(ids)} rows, {_HEADER} says {header['rows']}")
    return ids, vectors


def stored_rows(folder: Path) -> int:
    """Return how many rows a saved index has, by its header alone.

    Raises
    ------
    ArtifactCorruptError
        If ``index.json`` is missing, damaged or of another layout.
    """
    rows: int = _read_header(folder / _HEADER)["rows"]
    return rows


def _read_header(path: Path) -> dict[str, Any]:
    if not path.exists():
        stored = (path.parent / "manifest.json").exists()
        remedy = "open what is there with StoredIndex.open" if stored else "write one with save()"
        raise ArtifactCorruptError(f"there is no {path}: restore it if it is lost, or {remedy}")
    header = read_json_object(path)
    if header.get("kind") != "flat" or header.get("layout") != _LAYOUT:
        raise ArtifactCorruptError(
            f"{path}: kind {header.get('kind')!r}, layout {header.get('layout')!r}; "
            f"this version reads kind 'flat', layout {_LAYOUT}"
        )
    if not isinstance(header.get("rows"), int):
        raise ArtifactCorruptError(f"{path}: rows must be an integer, not {header.get('rows')!r}")
    return header
