"""Prompts of the pocket models' train split with the right answers, and how many a model gets right."""

from __future__ import annotations

import importlib.resources
import random
from pathlib import Path

POCKET = Path(str(importlib.resources.files("llmrouter"))) / "assets" / "pocket"
NUMBERS = frozenset({
    "add", "subtract", "multiply", "larger", "smaller", "maximum", "minimum", "sort_numbers", "parity", "next_number",
    "convert_units", "count_items",
})  # fmt: skip


def drawn_prompts(model, count, *, seed=0):
    """Return (prompt, answer) pairs of the domain that a model is for; the first ones are the same for any count."""
    import pyarrow.parquet as pq

    rows = pq.read_table(POCKET / "outcomes" / "prompts.parquet", filters=[("split", "=", "train")]).to_pylist()
    random.Random(seed).shuffle(rows)
    numbers = model == "pocket-numbers"
    chosen = [row for row in rows if model == "pocket-max" or (row["task"] in NUMBERS) is numbers]
    return [(row["prompt"], row["expected"]) for row in chosen[:count]]


def accuracy(engine, pairs):
    """Return the part of answers that are right to the letter."""
    from llmrouter.moe import GenerationRequest

    requests = [
        GenerationRequest(messages=[{"role": "user", "content": prompt}], max_tokens=40, temperature=0.0)
        for prompt, _ in pairs
    ]
    results = engine.run(requests)
    return sum(result.text == answer for result, (_, answer) in zip(results, pairs, strict=True)) / len(pairs)
