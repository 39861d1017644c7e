"""How far an attacker gets who sends prompts and feedback, with and without the defences of `llmrouter.learning`.

``python -m benchmarks.learning poisoning --data DIR --out DIR``. The log is real outcomes played back as one-armed
traffic of 40 keys; see `_poison_world` and `_poison_attacks` for both sides.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning import _poison_report
from benchmarks.learning._poison_attacks import ATTACKS, EARNED, AttackKind, Standing, Target, find_target, poison
from benchmarks.learning._poison_world import Log, World, honest_log
from llmrouter.encoders import encode_cached, load_encoder
from llmrouter.evaluation import log_test_look
from llmrouter.evaluation._provenance import versions
from llmrouter.exceptions import DataError
from llmrouter.learning import TrustPolicy, TrustSettings
from llmrouter.outcomes import load_table
from llmrouter.registry import create, parse_spec
from llmrouter.types import FloatArray, IntArray

POCKET = Path(__file__).parents[2] / "llmrouter" / "assets" / "pocket" / "outcomes"
SETS = ("routerbench_subset", "pocket")
KNN = "knn:k=100,shrinkage=5.0"
STACK = "stack:folds=2"
"""The default router with two folds in place of five: its fit is most of the time of a trial."""
SHARES = (0.001, 0.01, 0.05)
Attacker = tuple[int, Standing]
ATTACKERS: tuple[Attacker, ...] = (
    (10, "new"),
    (3, "old"),
    (10, "old"),
    (10, "sparing"),
    (10, "masked"),
    (3, "stolen"),
)
"""Keys of the attacker, and which; how many new keys there are makes no difference (tests)."""
Predict = Callable[[FloatArray], FloatArray]
_LEAN: dict[str, Any] = {
    "kinds": ("trigger", "region", "down"),
    "shares": (0.05,),
    "attackers": ((3, "old"), (10, "sparing")),
}


@dataclass(frozen=True)
class Plan:
    """What is run for one router.

    Attributes
    ----------
    router : str
        Registry spec.
    seeds : int
        Repetitions, each with its own log, keys, victims and trigger.
    outcomes : int
        Honest ones in the log.
    kinds, shares, attackers
        Every combination is tried.
    clean_seeds : int
        Further repetitions without an attack, for what the defences cost.
    """

    router: str
    seeds: int
    outcomes: int
    kinds: tuple[AttackKind, ...] = tuple(ATTACKS)
    shares: tuple[float, ...] = SHARES
    attackers: tuple[Attacker, ...] = ATTACKERS
    clean_seeds: int = 0


def run_seed(world: World, plan: Plan, settings: TrustSettings, seed: int) -> list[dict[str, Any]]:
    """Return the rows of one repetition: one for the clean log, one for each attack."""
    policy = TrustPolicy(settings)
    log = honest_log(world, plan.outcomes, np.random.default_rng([seed, 0]))
    clean = _both(world, plan.router, log, policy)
    aiq = [world.aiq(predict(world.X_test)) for predict in clean]
    rows: list[dict[str, Any]] = [{"router": plan.router, "seed": seed, "kind": "none", "aiq": aiq}]
    for kind in plan.kinds if seed < plan.seeds else ():
        target = find_target(world, kind, np.random.default_rng([seed, 1]), predict=clean[0])
        before = [_routed(world, target, predict) for predict in clean]
        for share in plan.shares:
            undefended = None
            for keys, standing in plan.attackers:
                attacked = poison(
                    world,
                    log,
                    target,
                    np.random.default_rng([seed, 2]),
                    share=share,
                    keys=keys,
                    standing=standing,
                    settings=settings,
                )
                # Without defences it does not matter on how many keys the same outcomes lie.
                fitted = _both(
                    world, plan.router, attacked, policy, undefended=undefended if standing not in EARNED else None
                )
                undefended = undefended if standing in EARNED else fitted[0]
                after = [_routed(world, target, predict) for predict in fitted]
                success = [target.success(b, a) for b, a in zip(before, after, strict=True)]
                rows.append(
                    {
                        "router": plan.router,
                        "seed": seed,
                        "kind": kind,
                        "share": share,
                        "keys": keys,
                        "standing": standing,
                        "moved": None if kind == "degrade" else [moved for moved, _ in success],
                        "open": None if kind == "degrade" else [open_ for _, open_ in success],
                        "aiq": [world.aiq(predict(world.X_test)) for predict in fitted],
                    }
                )
    return rows


def _both(
    world: World, spec: str, log: Log, policy: TrustPolicy, *, undefended: Predict | None = None
) -> list[Predict]:
    """Return the predictions of the router without and with the defences; the first may be known."""
    name, parameters = parse_spec(spec)
    y = log.outcomes(len(world.train.models))
    found = [] if undefended is None else [undefended]
    for weight in (np.ones(len(y)), policy.weights(log.judged).weight)[len(found) :]:
        kept = weight > 0
        router = create("router", name, **parameters)
        router.fit(log.judged.X[kept], y[kept], weight[kept])
        found.append(router.predict)
    return found


def _routed(world: World, target: Target, predict: Predict) -> IntArray:
    return np.asarray(world.utility(predict(target.victims), target.cost).argmax(axis=1))


def load_world(name: str, data: Path, *, train_only: bool = False, seed: int = 0) -> World:
    """Return a data set; with `train_only` the victims are a part of its train split, for tuning."""
    table = load_table(POCKET if name == "pocket" else data / name)
    encoder = load_encoder("form")
    if train_only:
        table = table.split("train")
    texts = table.router_texts()
    X = encode_cached(encoder, texts)
    if train_only:
        held_out = np.random.default_rng(seed).random(len(table)) < 0.3
    else:
        held_out = np.array([split == "test" for split in table.splits])
    full = np.isfinite(table.quality).all(axis=1) & np.isfinite(table.cost_usd).all(axis=1)
    train, test = np.flatnonzero(~held_out & full), np.flatnonzero(held_out & full)
    return World.of(table.select(train), table.select(test), encoder, X=(X[train], X[test]))


def _job(
    name: str, data: Path, plan: Plan, settings: TrustSettings, seed: int, train_only: bool
) -> list[dict[str, Any]]:
    world = load_world(name, data, train_only=train_only)
    return [{"data": name, **row} for row in run_seed(world, plan, settings, seed)]


def plans(*, quick: bool) -> list[Plan]:
    """Return what is run; `quick` is a look at the machinery, not a measurement."""
    if quick:
        return [Plan(KNN, 1, 600, **_LEAN)]
    return [
        Plan(KNN, 12, 3000, clean_seeds=8),
        Plan(STACK, 2, 2000, clean_seeds=3, **_LEAN),
    ]


def _added(results: dict[str, Any], earlier: dict[str, Any]) -> dict[str, Any]:
    """Return the results with those of an earlier run, of other routers or data sets, before them."""
    ours = json.loads(json.dumps({name: results[name] for name in ("splits", "settings")}))
    theirs = {name: earlier[name] for name in ours}
    if ours != theirs:
        raise DataError(f"earlier results are of {theirs}, these of {ours}; run all again without --add")
    routers = {plan["router"] for plan in results["plans"]}
    measured = {(row["data"], row["router"]) for row in results["rows"]}
    plans = [plan for plan in earlier["plans"] if plan["router"] not in routers]
    rows = [row for row in earlier["rows"] if (row["data"], row["router"]) not in measured]
    return {
        **results,
        "plans": [*plans, *results["plans"]],
        "rows": [*rows, *results["rows"]],
        "seconds": round(results["seconds"] + earlier["seconds"], 1),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning poisoning", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds routerbench_subset")
    parser.add_argument("--out", type=Path, required=True, help="where results go")
    parser.add_argument("--sets", default=",".join(SETS), help="data sets, separated by commas")
    parser.add_argument("--routers", default="knn,stack", help="routers, separated by commas")
    parser.add_argument("--add", action="store_true", help="keep what OUT/poisoning.json has of other routers or sets")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--quick", action="store_true", help="a small version, of no worth as a measurement")
    parser.add_argument("--train-only", action="store_true", help="victims from the train split: for tuning")
    parser.add_argument("--look-log", type=Path, help="append this look at the test splits to that file")
    options = parser.parse_args(arguments)
    settings, started = TrustSettings(), time.time()
    names = [name for name in options.sets.split(",") if name]
    wanted = [plan for plan in plans(quick=options.quick) if parse_spec(plan.router)[0] in options.routers.split(",")]
    jobs = [
        (name, options.data, plan, settings, seed, options.train_only)
        for plan in wanted
        for name in names
        for seed in range(plan.seeds + plan.clean_seeds)
    ]
    if options.look_log is not None and not options.train_only:
        for name in names:
            log_test_look(
                options.look_log, {"data": name, "routers": [plan.router for plan in wanted], "poisoning": True}
            )
    if options.jobs > 1:
        with ProcessPoolExecutor(options.jobs) as pool:
            parts = list(pool.map(_job, *zip(*jobs, strict=True)))
    else:
        parts = [_job(*job) for job in jobs]
    results = {
        "command": "python -m benchmarks.learning poisoning",
        "splits": "train" if options.train_only else "test",
        "settings": dataclasses.asdict(settings),
        "plans": [dataclasses.asdict(plan) for plan in wanted],
        "versions": versions(),
        "seconds": round(time.time() - started, 1),
        "rows": [row for part in parts for row in part],
    }
    if options.add:
        results = _added(results, json.loads((options.out / "poisoning.json").read_text()))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "poisoning.json").write_text(json.dumps(results, indent=1) + "\n")
    page = _poison_report.page(results)
    (options.out / "poisoning.md").write_text(page)
    for path in _poison_report.plot(results, options.out):
        print(f"wrote {path}")
    print(page)
    return 0
