"""Rows to index: embeddings of real prompts, repeated with noise; queries: prompts that are not among them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.quality.sets import POCKET
from llmrouter.encoders import encode_cached, load_encoder
from llmrouter.outcomes import OutcomeTable, load_table
from llmrouter.types import FloatArray

ENCODERS = {256: "static", 384: "minilm"}
"""Dimension -> encoder whose embeddings have it."""
QUERIES = 200
NOISE = 0.4
"""Length of the noise relative to that of a row, before the sum is made a unit row."""
CHUNK = 1_000_000
_MOST_PROMPTS = 4_000
_PUBLIC_SET = "routerbench_subset"


def outcomes() -> OutcomeTable:
    """Return the data set at hand: RouterBench's under LLMROUTER_DATA, else the pocket's."""
    place = os.environ.get("LLMROUTER_DATA")
    folder = Path(place) / _PUBLIC_SET if place else None
    return load_table(folder if folder is not None and folder.is_dir() else POCKET)


def prompts() -> tuple[str, list[str]]:
    """Return the name of the data set at hand and its prompts, 4,000 at most."""
    table = outcomes()
    texts = sorted(set(table.router_texts()))
    picked = np.random.default_rng(0).permutation(len(texts))[:_MOST_PROMPTS]
    return table.name, [texts[place] for place in picked]


def embeddings(dimension: int) -> tuple[str, FloatArray, FloatArray]:
    """Return where they come from, the base rows (m, d), and the held-out queries (200, d)."""
    name, texts = prompts()
    encoded = encode_cached(load_encoder(ENCODERS[dimension]), texts)
    held_out = min(QUERIES, len(encoded) // 5)
    return f"{len(encoded) - held_out} prompts of {name}", encoded[held_out:], encoded[:held_out]


def chunks(base: FloatArray, count: int, *, seed: int) -> Iterator[FloatArray]:
    """Yield `count` unit rows around `base` (m, d), at most a million at a time; the same for the same seed."""
    for start in range(0, count, CHUNK):
        generator = np.random.default_rng([seed, start])
        size = min(CHUNK, count - start)
        rows = base[generator.integers(0, len(base), size)]
        for at in range(0, size, 50_000):  # noise in double precision a piece at a time
            part = rows[at : at + 50_000]
            part += (NOISE / np.sqrt(base.shape[1]) * generator.standard_normal(part.shape)).astype(np.float32)
            part /= np.linalg.norm(part, axis=1, keepdims=True)
        yield rows
