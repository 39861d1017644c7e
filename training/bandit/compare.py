"""LLM Bandit beside other routers, on one cost-quality plane.

::

    python -m training.bandit compare --data DIR --out FILE           cross-validation on the train split
    python -m training.bandit compare --data DIR --out FILE --test    one look at the test split, with intervals

What is compared of one run: the response model under the utility policy of the gateway (its expectations less the
weight times the predicted cost of the prompt), the same with each model's mean cost, the learned policy itself (the
most probable model at every weight of cost), and the policy's logits read as quality, each after the supervised stage
and after PPO. Every look at a test split is appended to ``test_looks.jsonl`` beside the results.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmrouter import artifact
from llmrouter._files import write_atomically
from llmrouter.evaluation import (
    Curve,
    ZeroRouter,
    aiq,
    bootstrap_aiq,
    log_test_look,
    percentile_interval,
    prepare,
    qnc,
    replay,
    sweep_weights,
    table_hash,
)
from llmrouter.evaluation._crossfit import make_folds
from llmrouter.evaluation._provenance import versions
from llmrouter.evaluation._replay import cheapest_model, curve_of_choices
from llmrouter.outcomes import OutcomeTable
from llmrouter.registry import parse_spec
from llmrouter.routers import LLMBanditRouter, fit_pair, weighted_mean
from llmrouter.types import FloatArray
from training.bandit._stages import BanditSettings, train_bandit

BASELINES = ("mirt:rank=8,penalty=14.0", "ridge")
"""In cross-validation; the folds are those of ``training.contrastive.ablation``, which has the other routers."""
TUNED = (
    "llm-bandit", "mirt:rank=8,penalty=14.0", "carrot:estimator=knn", "carrot:estimator=linear", "uniroute:clusters=10",
    "cscr:start=random,hidden=64,tau_min=0.2", "routerdc:best=4,worst=4", "knn:k=100,shrinkage=20.0", "ridge",
)  # fmt: skip
"""What a look compares with: parameters are those that cross-validation on train chose for the same encoder and data in
``benchmarks/results`` (``quality``, ``contrastive``); a name alone is tuned now."""
RUNS: Mapping[str, Mapping[str, Any]] = {
    "trained": {},
    "as in the paper": {"preferences": "paper", "sharpness": 0.0},
}
"""Names of runs and what differs from the default settings."""


@dataclass(frozen=True)
class Plane:
    """Where curves are drawn: what is learned from and what is judged by, with their embeddings."""

    train: OutcomeTable
    X: FloatArray
    judged: OutcomeTable
    X_judged: FloatArray

    @property
    def weights(self) -> FloatArray:
        """Return the swept weights of a dollar."""
        return sweep_weights(self.train.cost_usd)

    @property
    def cheapest(self) -> int:
        """Return the cheapest model on train."""
        return cheapest_model(self.train.cost_usd, self.train.quality)

    @property
    def zero(self) -> Curve:
        """Return the Zero router's curve on the judged prompts."""
        quality, cost = self.judged.quality, self.judged.cost_usd
        return ZeroRouter().curve(quality, cost, weights=self.weights, cheapest=self.cheapest)

    def replayed(self, expected: FloatArray, cost: FloatArray) -> Curve:
        """Return the curve of the utility policy over expectations and expected costs, (n, m) each."""
        return replay(
            expected, cost, quality=self.judged.quality, cost=self.judged.cost_usd, weights=self.weights,
            cheapest=self.cheapest,
        )  # fmt: skip

    def chosen(
        self, router: LLMBanditRouter, *, costs: FloatArray | None = None, reference: float | None = None
    ) -> Curve:
        """Return the curve of a policy that is told every swept weight, and everything to the cheapest model.

        `costs` (m,) and their unit, the `reference` in dollars, are those of the training where they are not given.
        """
        if reference is None:
            reference = float(np.nanmax(weighted_mean(self.train.cost_usd, np.ones(len(self.train)))))
        told = [
            router.preferences(self.X_judged, weight * reference, costs=costs).argmax(axis=1)
            for weight in self.weights.tolist()
        ]
        cheap = np.full((1, len(self.judged)), self.cheapest)
        choices = np.concatenate([np.array(told), cheap]).astype(np.int16)
        return curve_of_choices(
            choices, np.append(self.weights, np.inf), quality=self.judged.quality, cost=self.judged.cost_usd
        )

    def aiq(self, curve: Curve) -> float:
        """Return the AIQ over the Zero router's cost interval."""
        hull = self.zero.hull
        return aiq(curve.hull, (float(hull.cost[0]), float(hull.cost[-1])))


def curves_of_run(
    plane: Plane, out: Path, encoder: artifact.EncoderSpec, settings: BanditSettings, cost: FloatArray, *, name: str
) -> dict[str, Curve]:
    """Train under `out` and return the curves of what came out; `cost` (n, m) is what the judged prompts may cost."""
    means = weighted_mean(plane.train.cost_usd, np.ones(len(plane.train)))
    curves: dict[str, Curve] = {}
    for stage, ppo in (("PPO", True), ("supervised", False)):  # the latter reads the former's checkpoints
        made = train_bandit(
            plane.train, plane.X, out, encoder=encoder, settings=dataclasses.replace(settings, ppo=ppo), say=_silent
        )
        if ppo:
            expected = made.response.predict(plane.X_judged)
            curves[f"{name}: response"] = plane.replayed(expected, cost)
            curves[f"{name}: response, mean costs"] = plane.replayed(expected, np.tile(means, (len(expected), 1)))
        curves[f"{name}: policy, {stage}"] = plane.chosen(made.policy)
        curves[f"{name}: policy as quality, {stage}"] = plane.replayed(made.policy.predict(plane.X_judged), cost)
    return curves


def cross_validate(
    table: OutcomeTable, X: FloatArray, encoder: artifact.EncoderSpec, runs: Mapping[str, BanditSettings], *,
    baselines: Sequence[str] = BASELINES, folds: int = 5, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Return AIQ of every curve on every fold of a train split, with paired differences to the first baseline."""
    found: dict[str, list[float]] = {}
    for number, fold in enumerate(make_folds(X, np.ones(len(X), dtype=bool), seed=seed, folds=folds)):
        plane = Plane(table.select(fold.rest), X[fold.rest], table.select(fold.held_out), X[fold.held_out])
        pair = fit_pair(plane.train, plane.X, name="ridge")
        cost = pair.cost.predict(plane.X_judged)
        curves = {spec: _baseline(plane, spec) for spec in baselines}
        for name, settings in runs.items():
            with tempfile.TemporaryDirectory() as folder:
                curves |= curves_of_run(plane, Path(folder) / "run", encoder, settings, cost, name=name)
        for name, curve in curves.items():
            found.setdefault(name, []).append(plane.aiq(curve))
        print(
            f"fold {number + 1}/{folds}: " + ", ".join(f"{name} {of[-1]:.4f}" for name, of in found.items()), flush=True
        )
    first = np.array(found[baselines[0]])
    rows = {}
    for name, values in found.items():
        difference = np.array(values) - first
        rows[name] = {
            "aiq": round(float(np.mean(values)), 5),
            f"minus {baselines[0]}": round(float(difference.mean()), 5),
            "standard_error": round(float(difference.std(ddof=1) / np.sqrt(folds)), 5) if folds > 1 else None,
        }
    return rows


def _baseline(plane: Plane, spec: str) -> Curve:
    name, parameters = parse_spec(spec)
    pair = fit_pair(plane.train, plane.X, name=name, parameters=parameters)
    return plane.replayed(pair.quality.predict(plane.X_judged), pair.cost.predict(plane.X_judged))


def look(
    table: OutcomeTable, X: FloatArray, encoder: artifact.EncoderSpec, runs: Mapping[str, BanditSettings], *,
    work: Path, look_log: Path, tuned: Sequence[str] = TUNED, resamples: int = 1000, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Return figures of all curves on the test split, with paired bootstrap intervals; the look is logged first."""
    splits = np.asarray(table.splits)
    rows = [np.flatnonzero(splits == name) for name in ("train", "test")]
    plane = Plane(table.select(rows[0]), X[rows[0]], table.select(rows[1]), X[rows[1]])
    provenance = versions()
    log_test_look(
        look_log,
        {
            "data": table.name, "sha256": table_hash(table), "test_prompts": len(rows[1]), "routers": list(tuned),
            "runs": list(runs), "seed": seed, "resamples": resamples, "commit": provenance["commit"],
        },
    )  # fmt: skip
    curves: dict[str, Curve] = {}
    parameters: dict[str, Any] = {}
    for spec in tuned:
        ready = prepare(spec, plane.train, plane.X, seed=seed)
        pair = fit_pair(plane.train, plane.X, name=ready.name, parameters=ready.parameters)
        curves[spec] = plane.replayed(pair.quality.predict(plane.X_judged), pair.cost.predict(plane.X_judged))
        parameters[spec] = dict(ready.parameters)
        print(f"{spec}: {plane.aiq(curves[spec]):.4f}", flush=True)
    cost = fit_pair(plane.train, plane.X, name="ridge").cost.predict(plane.X_judged)
    for name, settings in runs.items():
        curves |= curves_of_run(plane, work / name.replace(" ", "-"), encoder, settings, cost, name=name)
    samples = bootstrap_aiq({**curves, "zero": plane.zero}, plane.zero, resamples=resamples, seed=seed)
    estimates = {name: plane.aiq(curve) for name, curve in {**curves, "zero": plane.zero}.items()}
    means = plane.judged.cost_usd.mean(axis=0), plane.judged.quality.mean(axis=0)
    found: dict[str, Any] = {}
    for name, curve in {**curves, "zero": plane.zero}.items():
        against = {
            other: _interval(samples[name] - samples[other], estimates[name] - estimates[other])
            for other in ("zero", *tuned)
            if other != name
        }
        found[name] = {
            "aiq": estimates[name], "interval": _interval(samples[name], estimates[name])[1:],
            "qnc": qnc(curve.hull, *means), "minus": against,
        }  # fmt: skip
    return {"parameters": parameters, "results": found, "versions": provenance, "train_prompts": len(rows[0])}


def _interval(samples: FloatArray, estimate: float) -> list[float]:
    made = percentile_interval(samples, estimate)
    return [estimate, made.low, made.high]


def _silent(line: str) -> None:
    del line


def write_results(path: Path, about: Mapping[str, Any], results: Any, started: float) -> None:
    """Write figures with six significant digits."""
    document = {**about, "results": results, "wall_s": round(time.perf_counter() - started, 1)}
    write_atomically(path, (json.dumps(_rounded(document), indent=1) + "\n").encode())


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return value
