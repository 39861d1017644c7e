"""What to train on where only one answer was seen: ``python -m benchmarks.learning missing-arms --data DIR``.

A full-information table is played back as one-armed traffic: a policy picks a model for each prompt, a share of the
picks is made at random, and only the picked model's outcome is kept. Routers are trained on that log with every method
of `llmrouter.learning.complete_arms`, and scored by AIQ on prompts that no log holds. Prompts of the train split alone
are used, in random halves: the choice of a default must not see the test split.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning._off_policy_population import Traffic, load_traffic
from benchmarks.quality.run import machine
from llmrouter.evaluation import aiq, non_decreasing_hull, replay, sweep_weights
from llmrouter.learning import DEFAULT_REWARD_ROUTER, MISSING, complete_arms, fit_completed
from llmrouter.registry import create, parse_spec
from llmrouter.types import FloatArray

ROUTERS = ("ridge", "linear-bandit", "knn:k=100", "kernel-ridge")
SHARES = (0.05, 0.2)


@dataclass(frozen=True)
class Trial:
    """One log, one router, one method."""

    router: str
    method: str
    share: float
    base: str
    seed: int
    aiq: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning missing-arms", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the data sets")
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR")
    parser.add_argument("--routers", nargs="*", default=list(ROUTERS), metavar="SPEC")
    parser.add_argument("--rows", type=int, default=4000, help="logged requests")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument(
        "--fill", default=DEFAULT_REWARD_ROUTER, metavar="SPEC", help="the regressor that expects what was not seen"
    )
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    traffic = load_traffic(options.data, "routerbench_subset")
    trials = [
        trial
        for seed in range(options.seeds)
        for base in ("best-single", "router")
        for share in SHARES
        for trial in run(
            traffic, options.routers, rows=options.rows, share=share, base=base, seed=seed, fill=options.fill
        )
    ]
    document = {
        "command": f"python -m benchmarks.learning missing-arms --rows {options.rows} --seeds {options.seeds} "
        f"--routers {' '.join(options.routers)} --fill {options.fill}",
        "machine": machine(),
        "wall_s": round(time.perf_counter() - started, 1),
        "rows": options.rows,
        "trials": [vars(trial) for trial in trials],
        "summary": summary(trials),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "missing_arms.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    text = as_text(document)
    (options.out / "missing_arms.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def run(
    traffic: Traffic, routers: Sequence[str], *, rows: int, share: float, base: str, seed: int, fill: str
) -> list[Trial]:
    """Make one log and train every router on it with every method."""
    random = np.random.default_rng([seed, 11])
    order = random.permutation(len(traffic))
    half = len(order) // 2
    logged, scored = order[:half], order[half:]
    live = traffic.policy(logged[: half // 3], base)
    table, X = traffic.played(logged, live, rows=rows, share=share, random=random)
    trials = []
    for router in routers:
        for method in MISSING:
            completed = complete_arms(table, X, method=method, router=fill, seed=seed)
            name, parameters = parse_spec(router)
            fitted = fit_completed(create("router", name, **parameters), X, completed)
            trials.append(
                Trial(router, method, share, base, seed, _score(traffic, scored, fitted.predict(traffic.X[scored])))
            )
    return trials


def _score(traffic: Traffic, scored: Any, expected: FloatArray) -> float:
    """Return AIQ over the cost interval of the scored prompts' single models; costs are each model's mean."""
    quality, cost = traffic.quality[scored], traffic.cost[scored]
    mean = np.broadcast_to(traffic.cost.mean(axis=0), cost.shape)
    curve = replay(
        np.nan_to_num(expected, nan=0.0),
        mean,
        quality=quality,
        cost=cost,
        weights=sweep_weights(traffic.cost),
        cheapest=int(traffic.cost.mean(axis=0).argmin()),
    )
    zero = non_decreasing_hull(cost.mean(axis=0), quality.mean(axis=0))
    return aiq(curve.hull, (float(zero.cost[0]), float(zero.cost[-1])))


def summary(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Return the mean AIQ of each router and method, and its difference to "none" with a standard error over logs."""
    found: list[dict[str, Any]] = []
    for router in dict.fromkeys(trial.router for trial in trials):
        for method in MISSING:
            pairs = {(t.base, t.share, t.seed): t.aiq for t in trials if (t.router, t.method) == (router, method)}
            plain = {(t.base, t.share, t.seed): t.aiq for t in trials if (t.router, t.method) == (router, "none")}
            gains = np.array([pairs[key] - plain[key] for key in pairs])
            found.append(
                {
                    "router": router,
                    "method": method,
                    "aiq": float(np.mean(list(pairs.values()))),
                    "gain": float(gains.mean()),
                    "standard_error": float(gains.std(ddof=1) / np.sqrt(len(gains))) if len(gains) > 1 else 0.0,
                    "logs": len(gains),
                }
            )
    return found


def as_text(document: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        "# Training on one-sided logs: what to do about answers that nobody saw",
        "",
        f"`{document['command']}`; {document['machine']}; {document['wall_s']:.0f} s.",
        f"{document['rows']} logged requests of a random half of routerbench_subset's train split; AIQ on the other.",
        "",
        "| router | missing | AIQ | gain over none | logs |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['router']} | {row['method']} | {row['aiq']:.4f} | {row['gain']:+.4f} +- {row['standard_error']:.4f} | "
        f"{row['logs']} |"
        for row in document["summary"]
    ]
    return "\n".join(lines) + "\n"
