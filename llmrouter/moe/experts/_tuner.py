"""The offline tuner: which tiles are fastest for a shape and a number of tokens on the GPU at hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch

from llmrouter.moe.experts._fused import FusedExperts
from llmrouter.moe.experts._tiles import DECODE_TOKENS, Shape, Tiles, TileTable, candidates, rule
from llmrouter.moe.experts._timing import seconds_a_call
from llmrouter.moe.experts._weights import swiglu_weights

Measure = Callable[[Shape, int, Tiles], float]
_ROUTINGS = 4


def tune(shapes: Iterable[Shape], tokens: Sequence[int], measure: Measure) -> TileTable:
    """Return the table of the fastest tiles.

    Parameters
    ----------
    shapes : iterable of Shape
        Layers.
    tokens : sequence of int
        Numbers of tokens.
    measure : callable
        (shape, tokens, tiles) -> seconds; infinite if the tiles cannot run. `GpuMeasure` is the real one.

    Returns
    -------
    TileTable
        Without entries where nothing was faster than the rule.
    """
    entries: dict[str, dict[int, Tiles]] = {}
    for shape in shapes:
        for count in tokens:
            start = rule(shape, count)
            best = _best(shape, count, start, measure)
            if best != start:
                entries.setdefault(shape.key, {})[count] = best
    return TileTable(entries)


def _best(shape: Shape, tokens: int, start: Tiles, measure: Measure) -> Tiles:
    """Try both products' tiles in turn: first `up` with the same tile for `down`, then `down` beside the best `up`."""
    tried = list(candidates(decode=tokens <= DECODE_TOKENS))
    best, seconds = start, measure(shape, tokens, start)
    for tiles in tried:
        taken = measure(shape, tokens, tiles)
        if taken < seconds:
            best, seconds = tiles, taken
    for tiles in tried:
        if tiles.down.block_m == best.up.block_m and tiles.down != best.down:
            mixed = replace(best, down=tiles.down)
            taken = measure(shape, tokens, mixed)
            if taken < seconds:
                best, seconds = mixed, taken
    return best


class GpuMeasure:
    """Times the fused path on random bfloat16 experts, with uniform routing, under a CUDA graph."""

    def __init__(self, *, seed: int = 0) -> None:
        self._generator = torch.Generator("cuda").manual_seed(seed)
        self._fused = FusedExperts()
        self._shape: Shape | None = None

    def __call__(self, shape: Shape, tokens: int, tiles: Tiles) -> float:
        """Return the seconds of one layer; infinite where the GPU cannot run the tiles."""
        from triton.runtime.errors import OutOfResources

        if shape != self._shape:
            self._shape = shape
            self._experts = swiglu_weights(
                self._random(shape.experts, 2 * shape.inner, shape.hidden),
                self._random(shape.experts, shape.hidden, shape.inner),
            )
        hidden = self._random(tokens, shape.hidden)
        calls = []
        for _ in range(_ROUTINGS):
            scores = torch.rand(tokens, shape.experts, device="cuda", generator=self._generator)
            weights, index = scores.topk(shape.top_k)
            calls.append(lambda w=weights, i=index: self._fused(hidden, i, w, self._experts, tiles=tiles))
        try:
            return seconds_a_call(calls, "cuda")
        except OutOfResources:
            return math.inf

    def _random(self, *size: int) -> torch.Tensor:
        values = torch.empty(size, dtype=torch.bfloat16, device="cuda")
        return values.normal_(std=size[-1] ** -0.5, generator=self._generator)
