"""Indexes by name."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from llmrouter.index._base import VectorIndex
from llmrouter.index._faiss_check import check_faiss, faiss_available
from llmrouter.index._storage import stored_rows
from llmrouter.registry import create, resolve

# Below this many rows numpy answers in a few milliseconds and FAISS would only add its import.
AUTO_FAISS_ROWS = 50_000


def create_index(name: str, dimension: int, *, rows: int = 0) -> VectorIndex:
    """Return an empty index.

    Parameters
    ----------
    name : str
        A registered index (``exact``, ``faiss-flat``, ...), or ``auto``: FAISS where it is installed and many rows
        are to come, else exact. Both give the same neighbours.
    dimension : int
        Length d of the rows.
    rows : int
        About how many rows are to come; only ``auto`` looks at it.

    Raises
    ------
    ConfigError
        If the name is unknown, or FAISS is installed twice.
    MissingExtraError
        If FAISS was asked for and is not installed.
    """
    return cast(VectorIndex, create("index", _chosen(name, rows), dimension=dimension))


def load_index(folder: str | Path, name: str = "auto") -> VectorIndex:
    """Read a saved index as the index registered as `name`; any flat index reads what any other wrote.

    Raises
    ------
    ArtifactCorruptError
        If a file is missing or damaged; the message names it.
    """
    folder = Path(folder)
    return cast(VectorIndex, resolve("index", _chosen(name, stored_rows(folder))).load(folder))


def _chosen(name: str, rows: int) -> str:
    if name != "auto":
        return name
    check_faiss()
    return "faiss-flat" if rows >= AUTO_FAISS_ROWS and faiss_available() else "exact"
