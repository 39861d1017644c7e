"""The loop on real data: ``python -m benchmarks.learning simulate --data DIR --out DIR``.

Plays full-information tables back as one-armed traffic and compares the learning loop with never exploring, always
exploring and full-information training. Writes ``simulation.json``, and from that file alone ``simulation.md`` and
``simulation.svg``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.learning._loop import STRATEGIES, Settings, Strategy, full_information, run
from benchmarks.learning._population import COSTS, Population, load_population
from benchmarks.learning._simulation_page import write_page
from llmrouter.evaluation import log_test_look
from llmrouter.evaluation._provenance import git_commit

LOOKS = Path(__file__).parents[1] / "results" / "test_looks.jsonl"
COST_WEIGHTS = {"routerbench_subset": 0.3, "routellm_pair": 0.15}
"""Weight of the live policy. Where a call of the strong model costs 1, 0.15 is where neither model wins alone."""
ROUTER = "logistic:penalty=10.0,sharing=4.0"
OTHER_ROUTER = "mf"
_DIGITS = 6


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = _parser().parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / ("simulation.json" if options.inner is None else f"simulation-train-{options.inner}.json")
    if not options.render_only:
        document = simulate(options, command=" ".join(["python -m benchmarks.learning simulate", *_named(options)]))
        path.write_text(json.dumps(rounded(document), allow_nan=False) + "\n", encoding="utf-8")
    for written in write_page(path):
        print(f"wrote {written}")
    return 0


def simulate(options: argparse.Namespace, *, command: str) -> dict[str, Any]:
    """Run every strategy on every data set and return the document of the results."""
    started = time.time()
    sets: dict[str, Any] = {}
    for name in options.sets:
        population = load_population(options.data, name, encoder=options.encoder, inner=options.inner)
        base = Settings(
            router=options.router,
            cost_weight=COST_WEIGHTS[name],
            requests=options.requests,
            trainings=options.trainings,
            early=tuple(options.early),
        )
        if options.inner is None:
            log_test_look(
                LOOKS,
                {
                    "benchmark": "learning simulate",
                    "data": name,
                    "sha256": population.about["sha256"],
                    "routers": [options.router, options.other_router],
                    "seeds": options.seeds,
                    "commit": git_commit(),
                },
            )
        runs = []
        for strategy, settings, seeds in _plan(base, options):
            full = full_information(population, settings)
            for seed in seeds:
                figures = run(population, strategy, settings, seed=seed, full=full)
                runs.append(figures)
                print(
                    f"{name}, {strategy}, {settings.router}, {settings.method}, seed {seed}: "
                    f"closed {figures['share_closed']:.2f}, explored {figures['explored']:.2%}, "
                    f"{figures['promotions']} promoted, {figures['seconds']:.0f} s",
                    flush=True,
                )
        sets[name] = {"about": dict(population.about), "reference": _reference(population, base), "runs": runs}
    return {
        "command": command,
        "started": started,
        "took_s": time.time() - started,
        "machine": {
            "architecture": platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "load_average": os.getloadavg()[0],
        },
        "commit": git_commit(),
        "strategies": dict(STRATEGIES),
        "sets": sets,
    }


def _plan(base: Settings, options: argparse.Namespace) -> list[tuple[Strategy, Settings, list[int]]]:
    """Return what is run: strategy, settings, seeds."""
    few, first = options.seeds[: options.other_seeds], options.seeds[:1]
    plan: list[tuple[Strategy, Settings, list[int]]] = [("loop", base, options.seeds)]
    plan += [(name, base, few) for name in ("no-trial", "no-gate", "always")]
    plan += [(name, base, first) for name in ("never", "full")]
    plan += [("loop", replace(base, method=method), few) for method in options.methods if method != base.method]
    if options.other_router:
        plan.append(("loop", replace(base, router=options.other_router), few))
    return plan


def _reference(population: Population, settings: Settings) -> dict[str, Any]:
    utility = population.utility(settings.cost_weight)
    return {
        "settings": asdict(settings),
        "best_single": population.models[population.best_single],
        "cost_reference": population.reference,
        "single_model_utility": dict(zip(population.models, utility.mean(axis=0).tolist(), strict=True)),
        "oracle_utility": float(utility.max(axis=1).mean()),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.learning simulate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--sets", nargs="*", default=list(COSTS), choices=list(COSTS))
    parser.add_argument("--encoder", default="form")
    parser.add_argument("--router", default=ROUTER)
    parser.add_argument("--other-router", default=OTHER_ROUTER, help="run the loop with it too; '' for none")
    parser.add_argument("--methods", nargs="*", default=[], choices=["epsilon", "thompson", "uncertainty"])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument(
        "--other-seeds", type=int, default=3, help="how many of them for what the loop is compared with"
    )
    parser.add_argument("--requests", type=int, default=50_000)
    parser.add_argument("--trainings", type=int, default=10)
    parser.add_argument("--early", nargs="*", type=float, default=[3.0, 2.0], help="see the page")
    parser.add_argument(
        "--inner", type=int, metavar="SEED", help="leave the test split alone and score on a quarter of train"
    )
    parser.add_argument(
        "--render-only", action="store_true", help="write page and plot from the results that are there"
    )
    return parser


def _named(options: argparse.Namespace) -> list[str]:
    """Return the options that were not left at their defaults, as typed; folders by name only."""
    defaults = _parser().parse_args(["--data", ".", "--out", "."])
    named = ["--data DIR", "--out DIR"]
    for name, value in vars(options).items():
        if name in ("data", "out", "render_only") or value == getattr(defaults, name):
            continue
        values = value if isinstance(value, list) else [value]
        named.append(" ".join([f"--{name.replace('_', '-')}", *map(str, values)]))
    return named


def rounded(value: Any) -> Any:
    """Return JSON values with six significant digits; what is not finite becomes None."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        # Seconds since 1970 stay whole.
        return float(round(value)) if abs(value) >= 10**_DIGITS else float(f"{value:.{_DIGITS}g}")
    return value


if __name__ == "__main__":
    sys.exit(main())
