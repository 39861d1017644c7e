"""Does the trial that sets an index promise what new prompts get? ``python -m benchmarks.index.trial``.

An index of inverted lists chooses how many of them it looks into by trying queries made of its own rows: with noise of
their length, and half way between two of them; the worse of the two counts. Here the recall of such queries stands
beside that of prompts the index does not hold. Writes ``trial.json``
and ``trial.md``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.index.data import chunks, embeddings
from benchmarks.learning._result_files import provenance, write_result
from benchmarks.quality.run import RESULTS
from benchmarks.quality.sets import POCKET
from llmrouter.encoders import encode_cached, load_encoder
from llmrouter.exceptions import DataError
from llmrouter.index import SegmentedIndex, parse_kind
from llmrouter.outcomes import load_table
from llmrouter.types import FloatArray

LISTS = (4, 8, 16, 32, 64)
NOISES = (0.3, 0.5, 0.7, 1.0, 1.5)
_QUERIES = 300
_LEAST_ROWS = 4_500
_REPLICATED = 300_000
_K = 100


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.index.trial",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--replicated", type=int, default=_REPLICATED, help="rows of the set with noisy copies")
    parser.add_argument("--out", type=Path, default=RESULTS / "index")
    options = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    for name, base, new in _sets(options.replicated):
        recalls = recall_by_noise(base, new)
        rows += [{"set": name, "rows": len(base), "queries": kind, "recall": found} for kind, found in recalls.items()]
        print(f"{name}: {recalls}", flush=True)
    words = sys.argv[1:] if arguments is None else arguments
    document = {**provenance(" ".join(["python -m benchmarks.index.trial", *words])), "lists": LISTS, "rows": rows}
    heads = ["set", "rows", "queries", *(f"{count} lists" for count in LISTS)]
    lines = ["# Recall of trial queries and of new prompts", "", __doc__.split("\n\n")[1].replace("\n", " "), ""]
    lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    lines += [
        f"| {row['set']} | {row['rows']:,} | {row['queries']} | {' | '.join(f'{r:.3f}' for r in row['recall'])} |"
        for row in rows
    ]
    write_result(options.out, "trial", document, "\n".join(lines))
    return 0


def recall_by_noise(rows: FloatArray, new: FloatArray) -> dict[str, list[float]]:
    """Return recall@100 by how many lists are looked into: of the `new` queries, and of rows (n, d) with noise."""
    generator = np.random.default_rng(5)
    base = rows[generator.choice(len(rows), min(_QUERIES, len(rows)), replace=False)]
    lengths = np.linalg.norm(base, axis=1, keepdims=True) / np.sqrt(rows.shape[1])
    queries = {"new prompts": new}
    for noise in NOISES:
        moved = base + noise * lengths * generator.standard_normal(base.shape)
        queries[f"rows, noise {noise:g}"] = moved.astype(np.float32)
    queries["half way between rows"] = base + base[generator.permutation(len(base))]
    found: dict[str, list[float]] = {kind: [] for kind in queries}
    exact = {kind: rows @ asked.T for kind, asked in queries.items()}
    for count in LISTS:
        index = SegmentedIndex(rows.shape[1], parse_kind(f"ivf-flat:effort={count}", rows.shape[1]))
        index.add(np.arange(len(rows)), rows)
        for kind, asked in queries.items():
            ids = index.search(asked, _K).ids
            products = exact[kind]
            least = np.partition(products, len(rows) - _K, axis=0)[len(rows) - _K]
            hits = np.take_along_axis(products, ids.T, axis=0) >= least - 1e-6
            found[kind].append(float(hits.mean()))
    return found


def _sets(replicated: int) -> Iterator[tuple[str, FloatArray, FloatArray]]:
    """Yield name, rows and new prompts' embeddings of each set with enough prompts, and of all together."""
    source, base, new = embeddings(256)
    yield f"{source}, with noise", np.concatenate(list(chunks(base, replicated, seed=0))), new
    place = os.environ.get("LLMROUTER_DATA")
    folders = sorted(Path(place).iterdir()) if place else [POCKET]
    encoder, every = load_encoder("static"), []
    for folder in folders:
        try:
            texts = sorted({text for text in load_table(folder).texts if text})
        except DataError:
            continue  # not a set of outcomes
        if len(texts) > _QUERIES:
            encoded = encode_cached(encoder, texts)
            every.append(encoded[np.random.default_rng(0).permutation(len(encoded))])
            if len(texts) >= _LEAST_ROWS:
                yield folder.name, every[-1][_QUERIES:], every[-1][:_QUERIES]
    if len(every) > 1:
        mixed = np.random.default_rng(1).permutation(np.concatenate(every))
        yield "all", mixed[_QUERIES:], mixed[:_QUERIES]


if __name__ == "__main__":
    sys.exit(main())
