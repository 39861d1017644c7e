"""Does the trial that sets an index promise what new prompts get? ``python -m benchmarks.index.trial``.

An index chooses its effort (how many inverted lists it looks into, how many candidates a graph search keeps) by trying
queries made of its own rows: moved by noise of their length (graphs), or as if their own list were not there (lists).
Here the recall of such queries, and of others, stands beside that of prompts the index does not hold. Writes
``trial.json`` and ``trial.md``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.index.data import chunks, embeddings
from benchmarks.learning._result_files import provenance, write_result
from benchmarks.quality.run import RESULTS
from benchmarks.quality.sets import POCKET
from llmrouter.encoders import encode_cached, load_encoder
from llmrouter.exceptions import DataError
from llmrouter.index import parse_kind
from llmrouter.index._structure import build
from llmrouter.index._trial import Trial
from llmrouter.outcomes import load_table
from llmrouter.types import FloatArray, IntArray

EFFORTS = {"ivf-flat": (4, 8, 16, 32, 64), "hnsw": (64, 160, 232, 464, 928)}
"""Lists, and candidates of a graph search (116 at least, for 100 neighbours)."""
NOISES = (0.3, 0.5, 0.7, 1.0, 1.5)
_QUERIES = 300
_LEAST_ROWS = 4_500
_REPLICATED = 100_000
_K = 100
_TIE = 1e-6


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
        for kind, efforts in EFFORTS.items():
            recalls = recall_by_effort(base, new, kind, efforts)
            rows += [
                {"index": kind, "set": name, "rows": len(base), "queries": asked, "recall": found}
                for asked, found in recalls.items()
            ]
            print(f"{name}, {kind}: {recalls}", flush=True)
    words = sys.argv[1:] if arguments is None else arguments
    document = {**provenance(" ".join(["python -m benchmarks.index.trial", *words])), "efforts": EFFORTS, "rows": rows}
    write_result(options.out, "trial", document, _page(rows))
    return 0


def _page(rows: Sequence[dict[str, Any]]) -> str:
    lines = ["# Recall of trial queries and of new prompts", "", (__doc__ or "").split("\n\n")[1].replace("\n", " ")]
    for kind, efforts in EFFORTS.items():
        lines += ["", f"## `{kind}`", "", f"| set | rows | queries | {' | '.join(map(str, efforts))} |"]
        lines += ["|---" * (3 + len(efforts)) + "|"]
        lines += [
            f"| {row['set']} | {row['rows']:,} | {row['queries']} | {' | '.join(f'{r:.3f}' for r in row['recall'])} |"
            for row in rows
            if row["index"] == kind
        ]
    return "\n".join(lines)


def recall_by_effort(rows: FloatArray, new: FloatArray, kind: str, efforts: Sequence[int]) -> dict[str, list[float]]:
    """Return recall@100 of one structure at several efforts: of the `new` queries, and of rows (n, d) moved."""
    generator = np.random.default_rng(5)
    base = rows[generator.choice(len(rows), min(_QUERIES, len(rows)), replace=False)]
    lengths = np.linalg.norm(base, axis=1, keepdims=True) / np.sqrt(rows.shape[1])
    queries = {"new prompts": new}
    for noise in NOISES:
        moved = base + noise * lengths * generator.standard_normal(base.shape)
        queries[f"rows, noise {noise:g}"] = moved.astype(np.float32)
    queries["half way between rows"] = base + base[generator.permutation(len(base))]
    structure = build(parse_kind(f"{kind}:effort=1", rows.shape[1]), rows)
    if structure is None:
        raise DataError(f"{len(rows)} rows are scanned; a structure is built over at least {_LEAST_ROWS}")
    found = {}
    trial = Trial.of_lists(structure.faiss, rows) if structure.kind.inverted else None
    if trial is not None:
        found["rows, own list left out, less a standard error"] = [
            trial.recall(rows, replace(structure, effort=effort + trial.lists_left_out).candidates, best_only=False)
            for effort in efforts
        ]
    for asked, points in queries.items():
        products = points @ rows.T
        least = np.partition(products, -_K, axis=1)[:, -_K]
        found[asked] = [
            float(_hits(replace(structure, effort=effort).candidates(points, _K, None), products, least).mean())
            for effort in efforts
        ]
    return found


def _hits(positions: IntArray, products: FloatArray, least: FloatArray) -> FloatArray:
    """Return the part of the K nearest found for each query, (q,); rows as near as the K-th count."""
    reached = np.take_along_axis(products, np.maximum(positions, 0), axis=1) >= least[:, None] - _TIE
    return np.asarray(np.minimum((reached & (positions >= 0)).sum(axis=1), _K) / _K)


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
