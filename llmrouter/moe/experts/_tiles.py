"""How the fused kernels cut their work: a static table by shape and tokens, and the rule where the table has no entry.

Autotuning while serving would make latency jump and results depend on what was tuned first; so tiles are chosen by a
lookup, and the table is written offline (``python -m llmrouter.moe.experts --out tiles.json``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

DECODE_TOKENS = 16
SHARED_MEMORY = 227 * 1024  # bytes a program may use on Hopper
_LAYOUT = 1


@dataclass(frozen=True, slots=True)
class Tile:
    """Tile of one product: rows, columns and depth of a step, blocks that share columns, warps, pipeline stages."""

    block_m: int
    block_n: int
    block_k: int
    group_m: int = 1
    warps: int = 4
    stages: int = 3

    def __post_init__(self) -> None:
        for name in ("block_m", "block_n", "block_k"):
            value = getattr(self, name)
            if value < 16 or value & (value - 1):
                raise ValueError(f"{name} is {value}; it must be a power of two of at least 16")
        if self.warps not in (1, 2, 4, 8, 16) or self.stages < 1 or self.group_m < 1:
            raise ValueError(
                f"warps is {self.warps} (a power of two up to 16), stages {self.stages} and group_m {self.group_m} "
                "(at least 1)"
            )

    def shared_memory(self, itemsize: int, matrices: int) -> int:
        """Return the bytes that the pipeline keeps of the rows and of `matrices` weight tiles."""
        return self.stages * self.block_k * (self.block_m + matrices * self.block_n) * itemsize


@dataclass(frozen=True, slots=True)
class Tiles:
    """Tiles of both products of a layer; both have the same number of rows, as they share their blocks."""

    up: Tile
    down: Tile

    def __post_init__(self) -> None:
        if self.up.block_m != self.down.block_m:
            raise ValueError(
                f"up.block_m is {self.up.block_m} and down.block_m {self.down.block_m}; they must be the same"
            )


@dataclass(frozen=True, slots=True)
class Shape:
    """A layer of experts: E experts, hidden size H, inner size I of one expert, k experts a token."""

    experts: int
    hidden: int
    inner: int
    top_k: int

    @property
    def key(self) -> str:
        """The shape in words, the table's key."""
        return f"E={self.experts},H={self.hidden},I={self.inner},k={self.top_k}"


class TileTable:
    """Tuned tiles by shape and number of tokens; a number between two tuned ones takes the lower one's.

    Parameters
    ----------
    entries : mapping
        `Shape.key` -> tokens -> `Tiles`.
    """

    def __init__(self, entries: Mapping[str, Mapping[int, Tiles]] | None = None) -> None:
        self._entries = {key: dict(sorted(rows.items())) for key, rows in (entries or {}).items()}

    def tiles(self, shape: Shape, tokens: int, itemsize: int) -> Tiles:
        """Return the tiles for `tokens` tokens of `itemsize` bytes a value."""
        rows = self._entries.get(shape.key, {}) if itemsize == 2 else {}
        found = None
        for tuned, tiles in rows.items():
            # A decode tile has at most 16 tokens in a block; it is no good for more.
            if tuned <= tokens and (tuned <= DECODE_TOKENS) == (tokens <= DECODE_TOKENS):
                found = tiles
        return found or rule(shape, tokens, itemsize)

    @classmethod
    def load(cls, path: Path) -> TileTable:
        """Read a table that the tuner wrote.

        Raises
        ------
        ValueError
            If the file is not such a table; the message names the entry.
        """
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: not JSON ({error}); write it with python -m llmrouter.moe.experts") from error
        if not isinstance(document, dict) or document.get("layout") != _LAYOUT:
            raise ValueError(f"{path}: layout must be {_LAYOUT}; write it anew with python -m llmrouter.moe.experts")
        entries: dict[str, dict[int, Tiles]] = {}
        for key, rows in document["tiles"].items():
            for tokens, tiles in rows.items():
                try:
                    read = Tiles(up=Tile(**tiles["up"]), down=Tile(**tiles["down"]))
                except (TypeError, KeyError, ValueError) as error:
                    raise ValueError(f"{path}: tiles[{key!r}][{tokens!r}]: {error}; tune this shape anew") from error
                entries.setdefault(key, {})[int(tokens)] = read
        return cls(entries)

    def document(self) -> dict[str, Any]:
        """Return the table as `load` reads it."""
        tiles = {
            key: {str(tokens): {"up": asdict(entry.up), "down": asdict(entry.down)} for tokens, entry in rows.items()}
            for key, rows in self._entries.items()
        }
        return {"layout": _LAYOUT, "tiles": tiles}


def rule(shape: Shape, tokens: int, itemsize: int = 2) -> Tiles:
    """Return tiles by the mean number of rows an expert gets: thin for reading weights, wide for arithmetic.

    A rule of thumb from the memory that the tiles take, not from measurements.
    """
    rows = tokens * shape.top_k / shape.experts
    if tokens <= DECODE_TOKENS or rows <= 16:
        return _fitting(Tiles(up=Tile(16, 32, 128, 1, 4, 4), down=Tile(16, 32, 128, 1, 4, 4)), itemsize)
    if rows <= 32:
        return _fitting(Tiles(up=Tile(32, 64, 64, 1, 4, 4), down=Tile(32, 64, 128, 1, 4, 4)), itemsize)
    if rows <= 96:
        return _fitting(Tiles(up=Tile(64, 64, 64, 4, 4, 4), down=Tile(64, 128, 64, 4, 4, 4)), itemsize)
    return _fitting(Tiles(up=Tile(128, 64, 64, 8, 8, 4), down=Tile(128, 128, 64, 8, 8, 4)), itemsize)


def invariant(itemsize: int = 2) -> Tiles:
    """Return the tiles of the deterministic option: the same for any number of tokens."""
    return _fitting(Tiles(up=Tile(64, 64, 64, 4, 4, 3), down=Tile(64, 64, 64, 4, 4, 3)), itemsize)


def candidates(*, decode: bool, itemsize: int = 2) -> Iterator[Tiles]:
    """Yield what the tuner tries, all within shared memory."""
    for block_m in (16,) if decode else (16, 32, 64, 128):
        for block_n in (32, 64, 128):
            for block_k in (64, 128):
                for warps in (4, 8):
                    for stages in (3, 4):
                        group = 1 if block_m == 16 else 8
                        tile = Tile(block_m, block_n, block_k, group, warps, stages)
                        if tile.shared_memory(itemsize, 2) <= SHARED_MEMORY:
                            yield Tiles(up=tile, down=tile)


def _fitting(tiles: Tiles, itemsize: int) -> Tiles:
    """Shorten the pipelines until they fit the shared memory, as wide types need."""
    return Tiles(up=_fit(tiles.up, itemsize, 2), down=_fit(tiles.down, itemsize, 1))


def _fit(tile: Tile, itemsize: int, matrices: int) -> Tile:
    while tile.stages > 1 and tile.shared_memory(itemsize, matrices) > SHARED_MEMORY:
        tile = replace(tile, stages=tile.stages - 1)
    return tile
