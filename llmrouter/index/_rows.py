"""Where the rows of a segment are: in memory, mapped from a checked file, or in codes only."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from llmrouter.exceptions import ArtifactCorruptError
from llmrouter.index._structure import Structure
from llmrouter.types import FloatArray, IntArray

_BLOCK_BYTES = 65_536


class Rows(Protocol):
    """Rows (n, d) of a segment."""

    def take(self, positions: IntArray, /) -> FloatArray:
        """Return the rows at `positions`, shape (len(positions), d)."""
        ...

    def all(self) -> FloatArray:
        """Return all rows, shape (n, d); not to be written to."""
        ...


@dataclass(frozen=True, slots=True)
class MemoryRows:
    """Rows in an array."""

    array: FloatArray

    def take(self, positions: IntArray, /) -> FloatArray:
        """Return the rows at `positions`, shape (len(positions), d)."""
        return self.array[positions]

    def all(self) -> FloatArray:
        """Return all rows, shape (n, d)."""
        return self.array


@dataclass(frozen=True, slots=True)
class DecodedRows:
    """Rows as the codes of a structure say them."""

    structure: Structure

    def take(self, positions: IntArray, /) -> FloatArray:
        """Return the decoded rows at `positions`, shape (len(positions), d)."""
        return self.structure.decode(positions)

    def all(self) -> FloatArray:
        """Return all rows decoded, shape (n, d): they take memory for the time they are used."""
        return self.structure.decode(np.arange(self.structure.faiss.ntotal, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class MappedRows:
    """Rows mapped from a file, each block checked against its checksum when it is first read.

    Reading a file of many gigabytes only to check it would make opening slow; what no search reads does no harm.
    Two threads may check one block twice, to the same result.

    Parameters
    ----------
    path : Path
        The file, named where a block is damaged.
    array : array of shape (n, d), float32
        The mapped rows.
    sums : array of uint32
        CRC-32 of each block of `block_rows(d)` rows.
    """

    path: Path
    array: FloatArray
    sums: npt.NDArray[np.uint32]
    checked: npt.NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "checked", np.zeros(len(self.sums), dtype=np.bool_))

    def take(self, positions: IntArray, /) -> FloatArray:
        """Return the rows at `positions`, shape (len(positions), d).

        Raises
        ------
        ArtifactCorruptError
            If a block of them is damaged; the message names file and place.
        """
        blocks = positions // block_rows(self.array.shape[1])
        fresh = ~self.checked[blocks]
        if fresh.any():
            self._check(np.unique(blocks[fresh]))
        return self.array[positions]

    def all(self) -> FloatArray:
        """Return all rows, shape (n, d), checked.

        Raises
        ------
        ArtifactCorruptError
            If a block is damaged; the message names file and place.
        """
        self._check(np.flatnonzero(~self.checked))
        return self.array

    def _check(self, blocks: IntArray) -> None:
        size = block_rows(self.array.shape[1])
        for block in blocks.tolist():
            part = self.array[block * size : (block + 1) * size]
            if zlib.crc32(part.data) != self.sums[block]:
                first = block * size * self.array.shape[1] * 4
                raise ArtifactCorruptError(
                    f"{self.path} is corrupt: the checksum of bytes {first} to {first + part.nbytes - 1} does not "
                    "match; restore or rebuild the index"
                )
            self.checked[block] = True


def block_rows(dimension: int) -> int:
    """Return how many rows of `dimension` float32 values one checksum covers."""
    return max(1, _BLOCK_BYTES // (4 * dimension))


def block_sums(rows: FloatArray) -> npt.NDArray[np.uint32]:
    """Return the CRC-32 of each block of `rows` (n, d), which must be C-ordered."""
    size = block_rows(rows.shape[1])
    return np.array([zlib.crc32(rows[at : at + size].data) for at in range(0, len(rows), size)], dtype=np.uint32)
