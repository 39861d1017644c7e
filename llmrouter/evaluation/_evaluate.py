"""Evaluate routers on a table: fit on train, replay on test, always beside the baselines and the bounds."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmrouter.evaluation._bounds import best_single_model, random_curve, single_model_curve, task_mean_curve
from llmrouter.evaluation._costs import UNITS, CostAxis, Evaluable, column_means, make_evaluable
from llmrouter.evaluation._crossfit import cross_fit
from llmrouter.evaluation._entry import Entry, Setting
from llmrouter.evaluation._fit import fit_and_estimate
from llmrouter.evaluation._measure import measure_all
from llmrouter.evaluation._policies import Below, flow_entry, policy_entry
from llmrouter.evaluation._prepare import Prepared, prepare
from llmrouter.evaluation._provenance import log_test_look, table_hash, versions
from llmrouter.evaluation._replay import Curve, cheapest_model, replay, sweep_weights
from llmrouter.evaluation._result import EvaluationResult
from llmrouter.evaluation._tune import guard_from
from llmrouter.exceptions import ConfigError, DataError, QualityFloorError
from llmrouter.outcomes import OutcomeTable
from llmrouter.registry import create, parse_spec, resolve
from llmrouter.types import FloatArray

logger = logging.getLogger(__name__)

BASELINES = ("best-single", "random", "cheapest")
BOUNDS = ("zero", "oracle")
TASK_MEAN = "task-mean"


def evaluate(
    table: OutcomeTable,
    embeddings: FloatArray | None,
    *,
    routers: Sequence[str] | Mapping[str, str] = (),
    policies: Sequence[str] = (),
    flows: Sequence[str] = (),
    below: str | None = None,
    against: Sequence[str] = (),
    cost: CostAxis = "usd",
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
    min_coverage: float = 0.9,
    context: Mapping[str, Any] | None = None,
    prepared: Mapping[str, Prepared] | None = None,
    look_log: Path | None = None,
) -> EvaluationResult:
    """Fit routers on the train split and replay them on the test split.

    Each router is a regressor of quality and of cost; its curve comes from sweeping the weight of cost (see
    `sweep_weights`) and adding the point "everything to the cheapest model". All AIQs are taken over the cost
    interval of the Zero router's hull on the evaluated prompts. The baselines ``best-single`` (chosen on train; its
    curve is its own point joined with the cheapest model's), ``random`` (exact expectation of a uniform choice) and
    ``cheapest``, and the bounds ``zero`` and ``oracle``, are always there; ``task-mean``, which knows the task label,
    where the table has task labels.

    Parameters
    ----------
    table : OutcomeTable
        n prompts with the splits ``train`` and ``test``.
    embeddings : array of shape (n, d) or None
        In the rows of `table`; None evaluates baselines and bounds only.
    routers : sequence of str, or mapping of str to str
        Registry specs such as ``knn:k=40``, or display names mapped to specs. ``knn`` without parameters is tuned on
        train by cross-validation; ``knn:k=40`` is the unweighted mean over the 40 nearest train prompts.
    policies, flows : sequence of str
        Registry specs of policies and flows to replay over a router's estimates, e.g. ``quality_floor:floor=0.97``,
        ``cascade``. What a spec leaves open (cost weight, budget) is swept.
    below : str, optional
        The router (as named in `routers`) whose estimates they use; by default the first.
    against : sequence of str
        Routers (as named in the result) to which all others are compared too: intervals ``aiq_minus_<name>``.
    cost : str
        ``usd`` (as logged), ``list_price`` or ``calls`` (share of the prompts sent to the strongest model).
    seed : int
        Of folds and resamples.
    resamples : int
        Bootstrap resamples of the test prompts; 0 for no intervals.
    level : float
        Coverage of the intervals.
    min_coverage : float
        Models observed on a smaller share of the test prompts are left out.
    context : mapping, optional
        More to record under `settings`, e.g. the encoder; must be JSON values.
    prepared : mapping of str to Prepared, optional
        Display name -> what was settled on this table's training prompts already (`prepare`).
    look_log : Path, optional
        File to which this look at the test split is appended, see `log_test_look`.

    Returns
    -------
    EvaluationResult

    Raises
    ------
    DataError
        If the table cannot be replayed on this cost axis, or the embeddings do not fit it.
    ConfigError
        If a router or a parameter is unknown.
    """
    specs = _parse_routers(routers)
    data = make_evaluable(table, cost, min_coverage=min_coverage)
    X = _check_embeddings(embeddings, table, needed=bool(specs))
    described = _describe_data(table, data)
    provenance = versions()
    settings = {"cost": cost, "seed": seed, "resamples": resamples, "level": level, "min_coverage": min_coverage}
    if look_log is not None:
        look = {"data": described["name"], "sha256": described["sha256"], "test_prompts": described["test_prompts"]}
        log_test_look(look_log, {**look, "routers": list(specs), **settings, "commit": provenance["commit"]})
    setting = _make_setting(data)
    ready = prepared or {}
    entries = []
    for name, spec in specs.items():
        started = time.perf_counter()
        entries.append(_fit_entry(name, spec, setting, X, seed=seed, prepared=ready.get(name)))
        logger.info("%s: %s tuned, fitted and replayed in %.1f s", table.name, name, time.perf_counter() - started)
    entries += _entries_above(entries, setting, X, policies=policies, flows=flows, below=below, seed=seed)
    entries += _reference_entries(setting)
    models = data.test.models
    return EvaluationResult(
        data=described,
        models=models,
        model_cost=data.test_cost.mean(axis=0),
        model_quality=data.test.quality.mean(axis=0),
        prompt_ids=data.test.prompt_ids,
        quality=data.test.quality,
        cost=data.test_cost,
        cost_axis=cost,
        cost_unit=UNITS[cost],
        cost_interval=setting.interval,
        reference_cost=setting.reference_cost,
        best_single=models[setting.best_single],
        cheapest=models[setting.cheapest],
        dearest=models[setting.dearest],
        routers=measure_all(entries, setting, resamples=resamples, seed=seed, level=level, against=against),
        settings={**dict(context or {}), **settings},
        versions=provenance,
        notes=_notes(data),
        tasks=data.test.tasks,
        train_quality_mean=column_means(data.train.quality),
    )


def _parse_routers(routers: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """Return display name -> spec, without the baselines and bounds that are always there."""
    if isinstance(routers, str):
        raise ConfigError(f"routers must be a list of specs or a mapping; got the string {routers!r}")
    named = dict(routers) if isinstance(routers, Mapping) else {spec.strip(): spec.strip() for spec in routers}
    specs: dict[str, str] = {}
    for name, spec in named.items():
        kind = parse_spec(spec)[0]
        if name in (*BASELINES, *BOUNDS, TASK_MEAN):
            if kind != name:
                raise ConfigError(f"the name {name!r} is taken by a baseline or bound; call {spec!r} something else")
            continue
        if kind in (*BASELINES, *BOUNDS):
            continue
        resolve("router", kind)  # raises for an unknown name before any work is done
        specs[name] = spec
    return specs


def _check_embeddings(embeddings: FloatArray | None, table: OutcomeTable, *, needed: bool) -> FloatArray:
    if embeddings is None:
        if needed:
            raise DataError(f"{table.name or 'the table'}: routers need embeddings; pass an array of {len(table)} rows")
        return np.empty((len(table), 0), dtype=np.float32)
    X = np.asarray(embeddings, dtype=np.float32)
    if X.ndim != 2 or len(X) != len(table):
        raise DataError(f"embeddings must be ({len(table)}, d), one row a prompt of the table; got {X.shape}")
    return X


def _make_setting(data: Evaluable) -> Setting:
    mean_cost = column_means(data.train_cost)
    known = np.nan_to_num(mean_cost, nan=-1.0)
    setting = Setting(
        data=data,
        weights=sweep_weights(data.train_cost),
        cheapest=cheapest_model(data.train_cost, data.train.quality),
        best_single=best_single_model(data.train.quality, data.train_cost),
        dearest=int(known.argmax()),
        reference_cost=float(known.max()) if known.max() > 0 else float("nan"),
        interval=(float("nan"), float("nan")),
    )
    hull = _bound_curve("zero", setting).hull
    return dataclasses.replace(setting, interval=(float(hull.cost[0]), float(hull.cost[-1])))


def _bound_curve(name: str, setting: Setting) -> Curve:
    bound = create("bound", name)
    curve: Curve = bound.curve(
        setting.data.test.quality, setting.data.test_cost, weights=setting.weights, cheapest=setting.cheapest
    )
    return curve


def _reference_entries(setting: Setting) -> list[Entry]:
    quality, cost, cheapest = setting.data.test.quality, setting.data.test_cost, setting.cheapest
    baselines: dict[str, Curve] = {
        "best-single": single_model_curve(setting.best_single, cheapest=cheapest, quality=quality, cost=cost),
        "random": random_curve(cheapest=cheapest, quality=quality, cost=cost),
        "cheapest": single_model_curve(cheapest, cheapest=cheapest, quality=quality, cost=cost),
    }
    entries = [Entry(name, "baseline", curve) for name, curve in baselines.items()]
    entries += [Entry(name, "bound", _bound_curve(name, setting)) for name in BOUNDS]
    data = setting.data
    if all(task is not None for task in (*data.train.tasks, *data.test.tasks)):
        told = task_mean_curve(
            data.train.tasks,
            data.test.tasks,
            train_quality=data.train.quality,
            train_cost=data.train_cost,
            quality=quality,
            cost=cost,
            weights=setting.weights,
            cheapest=cheapest,
        )
        notes = ("knows each prompt's task label, which no router is told",)
        entries.append(Entry(TASK_MEAN, "bound", told, notes=notes))
    return entries


def _fit_entry(
    name: str, spec: str, setting: Setting, X: FloatArray, *, seed: int, prepared: Prepared | None = None
) -> Entry:
    data = setting.data
    known_cost = data.train_cost if data.constant_cost else None
    ready = prepared or prepare(spec, data.train, X[data.train_rows], known_cost=known_cost, seed=seed)
    estimates = fit_and_estimate(data, X, name=ready.name, parameters=ready.parameters)
    guard = None if ready.guard is None else guard_from(ready.guard, data.train.quality, data.train_cost)
    curve = replay(
        estimates.quality,
        estimates.cost,
        quality=data.test.quality,
        cost=data.test_cost,
        weights=setting.weights,
        cheapest=setting.cheapest,
        guard=guard,
        expected_std=estimates.std,
    )
    return Entry(
        name, "router", curve, ready.parameters, ready.tuning, estimates, spec=spec, crossed=ready.crossed, guard=guard
    )


def _entries_above(
    entries: Sequence[Entry],
    setting: Setting,
    X: FloatArray,
    *,
    policies: Sequence[str],
    flows: Sequence[str],
    below: str | None,
    seed: int,
) -> list[Entry]:
    """Return the entries of policies and flows; one that the data cannot support is left out with a warning."""
    if not policies and not flows:
        return []
    names = [entry.name for entry in entries]
    if not names or (below is not None and below not in names):
        known = ", ".join(names) or "none"
        raise ConfigError(f"policies and flows need a router below them; {below!r} is not among the routers ({known})")
    entry = entries[0 if below is None else names.index(below)]
    data = setting.data
    kind = parse_spec(entry.spec)[0]
    known_cost = data.train_cost if data.constant_cost else None
    X_train = X[data.train_rows]
    crossed = entry.crossed or cross_fit(
        data.train, X_train, name=kind, parameters=entry.parameters, known_cost=known_cost, seed=seed
    )
    if entry.estimates is None:
        raise ConfigError(f"{entry.name!r} estimates nothing, so no policy can stand on it")
    base = Below(entry.name, crossed, entry.estimates, X_train, X[data.test_rows])
    above = []
    for spec in policies:
        try:
            above.append(policy_entry(spec, setting, base))
        except QualityFloorError as error:
            logger.warning("%s is left out: %s", spec, error)
    return above + [flow_entry(spec, setting, base, seed=seed) for spec in flows]


def _describe_data(table: OutcomeTable, data: Evaluable) -> dict[str, Any]:
    return {
        "name": table.name,
        "sha256": table_hash(table),
        "train_prompts": len(data.train),
        "test_prompts": len(data.test),
        "models": len(data.test.models),
        "left_out_models": list(data.left_out_models),
        "left_out_test_prompts": data.left_out_rows,
        "strongest_model": data.strongest,
    }


def _notes(data: Evaluable) -> tuple[str, ...]:
    notes = []
    if data.left_out_models:
        notes.append(
            f"left out, for lack of {data.axis} outcomes on the test prompts: {', '.join(data.left_out_models)}"
        )
    if data.left_out_rows:
        notes.append(f"{data.left_out_rows} test prompt(s) without an outcome of every model were dropped")
    seen = np.any(data.train.observed, axis=0)
    unseen = [model for model, was_seen in zip(data.train.models, seen.tolist(), strict=True) if not was_seen]
    if unseen:
        notes.append(f"never observed on train, so no router chooses them: {', '.join(unseen)}")
    return tuple(notes)
