"""The contract of vector indexes: cosine similarity over unit rows, ids of the caller's choice."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol, Self, runtime_checkable

from llmrouter.types import FloatArray, IntArray


class Neighbors(NamedTuple):
    """Result of a search for n queries.

    Attributes
    ----------
    ids : array of shape (n, k), int64
        Ids of the rows, most similar first, ties by smaller id.
    similarities : array of shape (n, k), float32
        Cosine similarities.
    """

    ids: IntArray
    similarities: FloatArray


@runtime_checkable
class VectorIndex(Protocol):
    """Rows of unit length under integer ids.

    Every method raises `llmrouter.exceptions.VectorIndexError` on a wrong dimension, NaN, duplicate or unknown ids, and
    leaves the index unchanged then. `k` larger than the number of rows is cut to it.
    """

    @property
    def dimension(self) -> int:
        """Length d of the rows."""
        ...

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    def add(self, ids: IntArray, vectors: FloatArray, /) -> None:
        """Add rows: `ids` of shape (n,), `vectors` of shape (n, d)."""
        ...

    def remove(self, ids: IntArray, /) -> None:
        """Remove rows by id."""
        ...

    def search(self, queries: FloatArray, k: int, /) -> Neighbors:
        """Return the `k` most similar rows of each of the (n, d) queries."""
        ...

    def save(self, folder: Path, /) -> None:
        """Write the index into `folder` (arrays and JSON only)."""
        ...

    @classmethod
    def load(cls, folder: Path, /) -> Self:
        """Read what `save` wrote."""
        ...
