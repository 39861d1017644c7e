"""How long a decision takes after encoding, on one core: ``python -m benchmarks.decision``.

Fits routers on N outcomes (embeddings of the pocket prompts repeated with noise, 11 made-up models), puts each into an
engine whose encoder hands out ready vectors, and times `RoutingEngine.route`: quality and cost estimates with standard
errors, completion by the pool's prices, eligibility, policy, ranking. Writes ``benchmarks/results/decision.json`` and
``decision.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# read by the linear algebra libraries when they are loaded: one thread, as in the gateway
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import numpy as np

from benchmarks.quality.run import RESULTS, machine
from benchmarks.quality.sets import POCKET
from llmrouter.encoders import encode_cached, load_encoder
from llmrouter.engine import RoutingEngine, TrainedRouters
from llmrouter.evaluation._provenance import versions
from llmrouter.outcomes import load_table
from llmrouter.policy import UtilityPolicy
from llmrouter.registry import create, parse_spec
from llmrouter.routers import NeighbourRouter
from llmrouter.types import FloatArray, ModelCard, Price, RoutingRequest

MODELS = 11
ROUTERS = ("stack", "forest", "kernel-ridge", "ridge", "logistic", "mlp", "uniroute", "knn:k=100")
_NOISE = 0.02
_ROUNDS, _REQUESTS = 7, 400


class ReadyVectors:
    """An encoder whose texts are numbers of rows."""

    fingerprint = "ready-vectors"

    def __init__(self, rows: FloatArray) -> None:
        self.rows = rows
        self.dimension = rows.shape[1]

    def encode(self, texts: Sequence[str], /) -> FloatArray:
        """Return the rows, shape (n, d)."""
        return self.rows[[int(text) for text in texts]]

    def count_tokens(self, text: str, /) -> int:
        """Return a made-up count."""
        return len(text)


def outcomes(n: int, *, seed: int) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return embeddings (n, d), qualities and output tokens (n, 11), and query embeddings."""
    rng = np.random.default_rng(seed)
    table = load_table(POCKET)
    base = encode_cached(load_encoder("form"), table.router_texts())
    X = base[rng.integers(0, len(base), n)] + _NOISE * rng.standard_normal((n, base.shape[1])).astype(np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    skill = 1.0 / (1.0 + np.exp(-8.0 * X @ rng.standard_normal((X.shape[1], MODELS)) * 0.3))
    tokens = rng.lognormal(4.0 + 2.0 * X @ rng.standard_normal((X.shape[1], MODELS)) * 0.2, 0.3)
    return X, (rng.random(skill.shape) < skill).astype(float), tokens, base[:200]


def engine_of(spec: str, n: int, *, seed: int) -> tuple[RoutingEngine, float]:
    """Return an engine over N outcomes, and the seconds its fit took."""
    X, quality, tokens, queries = outcomes(n, seed=seed)
    name, parameters = parse_spec(spec)
    started = time.perf_counter()
    router = create("router", name, **parameters).fit(X, quality)
    cost_name = router.cost_router or name
    if isinstance(router, NeighbourRouter):
        cost: Any = type(router)(**router.get_params()).fit_shared(router.index_, tokens)
    else:
        cost = create("router", cost_name, **({} if router.cost_router else parameters)).fit(X, tokens)
    fitted = time.perf_counter() - started
    names = tuple(f"model-{j}" for j in range(MODELS))
    cards = [ModelCard(model, Price(0.1 * (j + 1), 0.4 * (j + 1))) for j, model in enumerate(names)]
    means = dict(zip(names, quality.mean(axis=0).tolist(), strict=True))
    trained = TrainedRouters(
        models=names,
        quality=router,
        cost=cost,
        cost_unit="output_tokens",
        reference_cost_usd=0.001,
        router_name=name,
        cost_router_name=cost_name,
        best_single=max(means, key=lambda model: means[model]),
        mean_quality=means,
        mean_cost_usd=dict.fromkeys(names, 0.0005),
        guard=0.1,
    )
    return RoutingEngine(cards, ReadyVectors(queries), trained=trained, policy=UtilityPolicy()), fitted


def timed(engine: RoutingEngine) -> dict[str, float]:
    """Return microseconds a decision: the median and 99th percentile of the quietest of some rounds."""
    requests = [RoutingRequest(str(i % 200), prompt_tokens=50) for i in range(_REQUESTS)]
    for request in requests[:50]:
        engine.route(request)
    rounds = []
    for _ in range(_ROUNDS):
        taken = np.empty(_REQUESTS)
        for i, request in enumerate(requests):
            started = time.perf_counter()
            engine.route(request)
            taken[i] = time.perf_counter() - started
        rounds.append(taken * 1e6)
    quietest = min(rounds, key=lambda taken: float(np.median(taken)))
    return {"median_us": float(np.median(quietest)), "p99_us": float(np.quantile(quietest, 0.99))}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[1_000, 10_000, 50_000])
    parser.add_argument("--routers", nargs="*", default=list(ROUTERS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    rows = []
    for n in options.sizes:
        for spec in options.routers:
            engine, fit_s = engine_of(spec, n, seed=options.seed)
            rows.append({"outcomes": n, "router": spec, "fit_s": fit_s, **timed(engine)})
            print(rows[-1], flush=True)
    document = {"machine": machine(), "versions": versions(), "models": MODELS, "seed": options.seed, "rows": rows}
    (options.out / "decision.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (options.out / "decision.md").write_text(page(document), encoding="utf-8")
    return 0


def page(document: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        "# Time of a decision",
        "",
        "Made by `python -m benchmarks.decision` from `decision.json`: `RoutingEngine.route` after encoding, 11",
        f"models, one thread; the quietest of {_ROUNDS} rounds of {_REQUESTS} requests. {document['machine']}, commit",
        f"{(document['versions']['commit'] or 'unknown')[:12]}.",
        "",
        "| outcomes | router | median, µs | 99th percentile, µs | fit, s |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['outcomes']:,} | `{row['router']}` | {row['median_us']:.0f} | {row['p99_us']:.0f} "
        f"| {row['fit_s']:.1f} |"
        for row in document["rows"]
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
