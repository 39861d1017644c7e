"""A decision beside a large index, by its parts: ``python -m benchmarks.decision_scale``.

Encoding of a prompt of about 40 tokens, search of its k nearest among N outcomes, the default stack's estimates of
quality and cost, policy and ranking; on one core. Writes ``decision_scale.json`` and ``decision_scale.md``.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

# read by the linear algebra libraries when they are loaded: one thread, as in the gateway
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np

from benchmarks.index.data import NOISE, chunks, outcomes, prompts
from benchmarks.learning._result_files import provenance, write_result
from benchmarks.quality.run import RESULTS
from llmrouter.encoders import Encoder, encode_cached, load_encoder
from llmrouter.engine import RoutingEngine, TrainedRouters
from llmrouter.index import VectorIndex, create_index
from llmrouter.outcomes import OutcomeTable
from llmrouter.policy import UtilityPolicy
from llmrouter.registry import create
from llmrouter.routers import StackRouter
from llmrouter.types import FloatArray, RoutingRequest

TARGETS_MS = {"static": (1.0, 3.0), "onnx": (5.0, None)}
"""Of p50 and p99, by the encoder's name up to a colon."""
_QUERIES = 200
_COST_ROUTER = "kernel-ridge"  # the stack's
_TOKENS = 40


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.decision_scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--encoder", default="static", help="static, or onnx:folder=DIR of an int8 export")
    parser.add_argument("--index", default="ivf-int8:recall=0.95")
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5, help="of all queries")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--name", default="decision_scale")
    options = parser.parse_args(arguments)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    encoder = load_encoder(options.encoder)
    source, base, asked = _texts(encoder)
    print(f"{source}; {options.rows:,} rows of {encoder.dimension} dimensions", flush=True)
    index, build_s = _filled(options.index, base, options.rows)
    print(f"built in {build_s:.0f} s", flush=True)
    queries = encoder.encode(asked)
    recall = _recall(index, base, options.rows, queries[:100], options.k)
    table = outcomes().split("train")
    engine, members = _engine(encoder, index, table)
    measured = _measure(engine, index, asked, k=options.k, rounds=options.rounds)
    words = sys.argv[1:] if arguments is None else arguments
    document = {
        **provenance(" ".join(["python -m benchmarks.decision_scale", *words])),
        "allocator": os.environ.get("GLIBC_TUNABLES", ""),
        "source": source,
        "rows": options.rows,
        "dimension": encoder.dimension,
        "encoder": options.encoder.split(":")[0],
        "index": options.index,
        "k": options.k,
        "build_s": build_s,
        "recall": recall,
        "members": members,
        "models": len(table.models),
        "trained_on": len(table.texts),
        "tokens": float(np.median([encoder.count_tokens(text) for text in asked])),
        "parts": measured,
        "bandwidth_gb_s": _bandwidth(),
    }
    write_result(options.out, options.name, document, page(document))
    return 0


def page(document: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    whole = document["parts"]["decision"]
    scanned = 4.0 * document["rows"] * document["dimension"]
    speed = document["bandwidth_gb_s"] * 1e9
    members = ", ".join(f"{name} {weight:.2f}" for name, weight in document["members"].items())
    p50_target, p99_target = TARGETS_MS.get(document["encoder"], (None, None))
    lines = [
        f"# A decision beside {document['rows']:,} outcomes",
        "",
        f"`{document['command']}`; {document['machine']}, commit {(document['versions']['commit'] or 'unknown')[:12]}.",
        "",
        (
            f"Prompts of {document['tokens']:.0f} tokens (median), encoder `{document['encoder']}`, "
            f"{document['dimension']} dimensions; rows: {document['source']}, repeated with noise of {NOISE:g} of "
            f"their length; index `{document['index']}`, built in {document['build_s']:,.0f} s; k = {document['k']}, "
            f"recall {document['recall']:.3f}. The stack was trained on the outcomes of {document['models']} models on "
            f"{document['trained_on']:,} prompts ({members}): its decision does not grow with the log. One core, one "
            "request at a time."
            + (f" Run with GLIBC_TUNABLES={document['allocator']}." if document.get("allocator") else "")
        ),
        "",
        "| part | p50, ms | p99, ms |",
        "|---|---|---|",
        *(f"| {name} | {part['p50_ms']:.3f} | {part['p99_ms']:.3f} |" for name, part in document["parts"].items()),
        "",
    ]
    for name, target, measured in (("p50", p50_target, whole["p50_ms"]), ("p99", p99_target, whole["p99_ms"])):
        if target is not None:
            verdict = "met" if measured < target else "missed"
            lines.append(
                f"- {name} of a whole decision: {measured:.2f} ms (target: under {target:g} ms): **{verdict}**"
            )
    lines += [
        (
            f"- recall at {document['k']}: {document['recall']:.3f} (target: at least 0.95): "
            f"**{'met' if document['recall'] >= 0.95 else 'missed'}**"
        ),
        (
            f"- the floor of an exact scan: {scanned / 1e9:.2f} GB of rows over "
            f"{document['bandwidth_gb_s']:.1f} GB/s, read by one core in this run, is {1e3 * scanned / speed:.0f} ms; "
            "the index looks at less."
        ),
    ]
    return "\n".join(lines)


def _texts(encoder: Encoder) -> tuple[str, FloatArray, list[str]]:
    """Return where the prompts come from, their embeddings (m, d), and held-out prompts cut to about 40 tokens."""
    name, texts = prompts()
    held_out = min(_QUERIES, len(texts) // 5)
    asked = []
    for text in texts[:held_out]:
        words = text.split()
        while len(words) > 1 and encoder.count_tokens(" ".join(words)) > _TOKENS:
            words = words[: max(1, int(0.9 * len(words)))]
        asked.append(" ".join(words))
    return f"{len(texts) - held_out} prompts of {name}", encode_cached(encoder, texts)[held_out:], asked


def _filled(spec: str, base: FloatArray, rows: int) -> tuple[VectorIndex, float]:
    index = create_index(spec, base.shape[1], rows=rows)
    started, known = time.perf_counter(), 0
    for part in chunks(base, rows, seed=0):
        index.add(np.arange(known, known + len(part), dtype=np.int64), part)
        known += len(part)
    return index, time.perf_counter() - started


def _recall(index: VectorIndex, base: FloatArray, rows: int, queries: FloatArray, k: int) -> float:
    """Return the share of the exact k nearest that the index finds."""
    best = np.full((len(queries), k), -np.inf, dtype=np.float32)
    ids = np.zeros((len(queries), k), dtype=np.int64)
    known = 0
    for part in chunks(base, rows, seed=0):
        for at in range(0, len(part), 100_000):
            piece = part[at : at + 100_000]
            scores = np.concatenate([best, queries @ piece.T], axis=1)
            numbers = np.concatenate(
                [ids, np.broadcast_to(np.arange(known, known + len(piece)), (len(queries), len(piece)))], axis=1
            )
            top = np.argpartition(-scores, k - 1, axis=1)[:, :k]
            best, ids = np.take_along_axis(scores, top, axis=1), np.take_along_axis(numbers, top, axis=1)
            known += len(piece)
    found = index.search(queries, k).ids
    return float(np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(found, ids, strict=True)]))


def _engine(encoder: Encoder, index: VectorIndex, table: OutcomeTable) -> tuple[RoutingEngine, dict[str, float]]:
    """Return an engine with the default stack, trained on a table, beside the index, and the weights of its members."""
    X = encode_cached(encoder, table.router_texts())
    router: StackRouter = create("router", "stack").fit(X, table.quality)
    dollars = table.cost_usd
    costs = dict(zip(table.models, np.nanmean(dollars, axis=0).tolist(), strict=True))
    means = dict(zip(table.models, np.nanmean(table.quality, axis=0).tolist(), strict=True))
    trained = TrainedRouters(
        models=table.models,
        quality=router,
        cost=create("router", _COST_ROUTER).fit(X, dollars),
        cost_unit="usd",
        reference_cost_usd=max(costs.values()),
        router_name="stack",
        cost_router_name=_COST_ROUTER,
        best_single=max(means, key=lambda name: means[name]),
        mean_quality=means,
        mean_cost_usd=costs,
        guard=0.1,
    )
    engine = RoutingEngine(table.cards(), encoder, trained=replace(trained, index=index), policy=UtilityPolicy())
    return engine, dict(router.weights_)


def _measure(
    engine: RoutingEngine, index: VectorIndex, asked: Sequence[str], *, k: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Return p50 and p99 of a whole decision and of its parts, each timed apart, in turns."""
    requests = [RoutingRequest(text, prompt_tokens=_TOKENS) for text in asked]
    embedded = [engine.encoder.encode([text]) for text in asked]
    work: dict[str, Callable[[int], Any]] = {
        "encoding": lambda at: engine.encoder.encode([asked[at]]),
        "search": lambda at: index.search(embedded[at], k),
        "stack, policy": lambda at: engine.route_embedded([requests[at]], embedded[at]),
        "decision": lambda at: engine.route(requests[at], neighbours=k),
    }
    taken: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(rounds + 1):
        for at in range(len(asked)):
            for name, job in work.items():
                started = time.perf_counter()
                job(at)
                if turn:  # the first round warms up
                    taken[name].append(time.perf_counter() - started)
    return {
        name: {"p50_ms": 1e3 * float(np.median(times)), "p99_ms": 1e3 * float(np.quantile(times, 0.99))}
        for name, times in taken.items()
    }


def _bandwidth() -> float:
    """Return how fast one core reads memory, in GB/s: the best of some sums over 512 MB."""
    block = np.ones(128_000_000, dtype=np.float32)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        float(block.max())
        best = min(best, time.perf_counter() - started)
    return block.nbytes / best / 1e9


if __name__ == "__main__":
    sys.exit(main())
