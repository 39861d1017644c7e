"""Indexes by name."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from llmrouter.exceptions import ConfigError
from llmrouter.index._base import VectorIndex
from llmrouter.index._checks import checked_dimension
from llmrouter.index._devices import gpu_kind
from llmrouter.index._faiss_check import check_faiss, faiss_available
from llmrouter.index._kinds import KINDS, IndexKind, parse_kind
from llmrouter.index._segmented import SegmentedIndex
from llmrouter.index._storage import load_flat, stored_rows
from llmrouter.registry import available, create, parse_spec, resolve

# Below this many rows numpy answers in a few milliseconds and FAISS would only add its import.
AUTO_FAISS_ROWS = 50_000
GPU = "gpu"


def create_index(name: str, dimension: int, *, rows: int = 0) -> VectorIndex:
    """Return an empty index.

    Parameters
    ----------
    name : str
        A registered index (``exact``, ``faiss-flat``, ...); a kind of `SegmentedIndex` with its parameters
        (``hnsw:m=32,recall=0.98``; see `IndexKind`); or ``auto``: exact, by FAISS where it is installed and many rows
        are to come. ``auto:recall=0.95,memory_gib=4`` may choose an approximate kind (see `choose_kind`). ``gpu`` is
        exact search on a GPU, by FAISS or by torch, whichever has one; without, on the CPU, which a warning tells.
    dimension : int
        Length d of the rows.
    rows : int
        About how many rows are to come; only ``auto`` looks at it.

    Raises
    ------
    ConfigError
        If the name or a parameter is unknown or out of range, or FAISS is installed twice.
    VectorIndexError
        If `dimension` is not an integer >= 1.
    MissingExtraError
        If FAISS was asked for and is not installed.
    """
    dimension = checked_dimension(dimension)
    kind = _segmented_kind(name, dimension, rows)
    if kind is not None:
        return SegmentedIndex(dimension, kind)
    base, parameters = parse_spec(name)
    if "dimension" in parameters:
        raise ConfigError(f"{name!r}: the dimension is that of the rows, here {dimension}; leave it out")
    return cast(VectorIndex, create("index", _registered(base, rows), dimension=dimension, **parameters))


def load_index(folder: str | Path, name: str = "auto") -> VectorIndex:
    """Read a saved index as the index that `name` gives (see `create_index`); any reads what any other wrote.

    Raises
    ------
    ArtifactCorruptError
        If a file is missing or damaged; the message names it.
    """
    folder = Path(folder)
    rows = stored_rows(folder)
    base, parameters = parse_spec(name)
    if not parameters and base not in (*KINDS, GPU):
        return cast(VectorIndex, resolve("index", _registered(base, rows)).load(folder))
    ids, vectors = load_flat(folder)
    index = create_index(name, vectors.shape[1], rows=rows)
    index.add(ids, vectors)
    return index


def _segmented_kind(spec: str, dimension: int, rows: int) -> IndexKind | None:
    base, parameters = parse_spec(spec)
    if base == GPU:
        return gpu_kind(parameters)
    if base in KINDS or (base == "auto" and parameters):
        return parse_kind(spec, dimension, rows=rows)
    return None


def _registered(name: str, rows: int) -> str:
    if name == "auto":
        check_faiss()
        return "faiss-flat" if rows >= AUTO_FAISS_ROWS and faiss_available() else "exact"
    if name not in available("index"):
        raise ConfigError(
            f"unknown index {name!r}; one of {', '.join(sorted({'auto', GPU, *KINDS, *available('index')}))}"
        )
    return name
