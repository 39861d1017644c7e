"""The prompts that traffic is drawn from: every outcome, the embeddings, and what a router is worth on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llmrouter.encoders import encode_cached, load_encoder
from llmrouter.evaluation import ZeroRouter, aiq, replay, sweep_weights, table_hash
from llmrouter.learning import Missing, complete_arms, fit_completed
from llmrouter.outcomes import OutcomeTable, load_table
from llmrouter.registry import create, parse_spec
from llmrouter.routers import Router, fit_pair
from llmrouter.types import FloatArray, IntArray

COSTS = {"routerbench_subset": "usd", "routellm_pair": "calls"}
"""Data set -> what a call costs: the logged US dollars, or 1 for the strong model and 0 for the weak."""
UNKNOWN_QUALITY, UNKNOWN_STD = 0.0, 0.5
"""What is expected of a model that was never seen: nothing, and anything. Chance alone tries it."""
_BLOCK = 512


@dataclass(frozen=True)
class Population:
    """Prompts with an outcome of every model, and the prompts that routers are scored on.

    Attributes
    ----------
    name : str
        Of the data set.
    table : OutcomeTable
        n prompts that traffic is drawn from.
    X : array of shape (n, d)
        Their embeddings.
    cost : array of shape (n, m)
        Cost of every call, on the axis of the data set.
    scored : OutcomeTable
        Prompts that routers are scored on; none of them is in traffic.
    scored_embeddings, scored_cost : arrays of shape (t, d) and (t, m)
        Of these.
    reference : float
        The dearest model's mean cost over traffic: the unit of a cost weight.
    known_cost : bool
        Whether a model costs the same on every prompt, so that there is nothing to learn about cost.
    about : mapping
        What identifies data and encoder in the results.
    """

    name: str
    table: OutcomeTable
    X: FloatArray
    cost: FloatArray
    scored: OutcomeTable
    scored_embeddings: FloatArray
    scored_cost: FloatArray
    reference: float
    known_cost: bool
    about: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.table)

    @property
    def models(self) -> tuple[str, ...]:
        """The m models, in the order of the columns."""
        return self.table.models

    def utility(self, cost_weight: float) -> FloatArray:
        """Return ``quality - cost_weight * cost / reference`` of every prompt and model, shape (n, m)."""
        return np.asarray(self.table.quality - cost_weight * self.cost / self.reference)

    @cached_property
    def best_single(self) -> int:
        """Column of the model of highest mean quality, with which the loop starts."""
        return int(self.table.quality.mean(axis=0).argmax())

    @cached_property
    def mean_cost(self) -> FloatArray:
        """Mean cost of each model, shape (m,): what a price list tells before any traffic."""
        return np.asarray(self.cost.mean(axis=0))

    @cached_property
    def zero_curve(self) -> Any:
        """The Zero router's curve on the scored prompts: single models, mixed without a look at the prompt."""
        return ZeroRouter().curve(
            self.scored.quality, self.scored_cost, weights=np.zeros(1), cheapest=int(self.mean_cost.argmin())
        )

    @cached_property
    def zero_aiq(self) -> float:
        """AIQ of the Zero router."""
        return aiq(self.zero_curve.hull, self._interval)

    def aiq(self, estimates: Estimated) -> float:
        """Return AIQ of a router on the scored prompts, over the cost interval of the Zero router's hull."""
        curve = replay(
            estimates.quality,
            estimates.cost,
            quality=self.scored.quality,
            cost=self.scored_cost,
            weights=sweep_weights(self.cost),
            cheapest=int(self.mean_cost.argmin()),
        )
        return aiq(curve.hull, self._interval)

    @property
    def _interval(self) -> tuple[float, float]:
        hull = self.zero_curve.hull
        return float(hull.cost[0]), float(hull.cost[-1])


@dataclass(frozen=True)
class Estimated:
    """What a router expects of n prompts: quality, its standard error, cost; each of shape (n, m)."""

    quality: FloatArray
    std: FloatArray
    cost: FloatArray

    def choices(self, cost_weight: float, *, reference: float) -> IntArray:
        """Return the columns of highest utility, shape (n,), ties to the cheaper, as the utility policy ranks."""
        score = np.round(self.quality - cost_weight * self.cost / reference, 12)
        return np.lexsort((self.cost, -score), axis=1)[:, 0]


@dataclass(frozen=True)
class FittedRouter:
    """A router of quality and cost; `cost` is None where every model's cost is known (`mean_cost`)."""

    quality: Router
    cost: Router | None
    mean_cost: FloatArray

    @classmethod
    def fit(
        cls, table: OutcomeTable, X: FloatArray, *, spec: str, population: Population, missing: Missing = "none"
    ) -> FittedRouter:
        """Fit the router of a registry spec on a table with NaN where a model was not seen.

        `missing` is what the quality router learns of the gaps, as in `llmrouter.learning.complete_arms`.
        """
        name, parameters = parse_spec(spec)
        pair = None if population.known_cost else fit_pair(table, X, name=name, parameters=parameters)
        if missing != "none":
            completed = complete_arms(table, X, method=missing)
            quality = fit_completed(create("router", name, **dict(parameters)), X, completed)
        elif pair is not None:
            quality = pair.quality
        else:
            quality = create("router", name, **dict(parameters)).fit(X, table.quality)
        return cls(quality, None if pair is None else pair.cost, population.mean_cost)

    def estimate(self, X: FloatArray) -> Estimated:
        """Return what it expects of embeddings X (n, d); of a model never seen, nothing and anything."""
        blocks = [X[start : start + _BLOCK] for start in range(0, len(X), _BLOCK)]
        quality = np.concatenate([self.quality.predict(block) for block in blocks])
        std = np.concatenate([self.quality.predict_std(block) for block in blocks])
        if self.cost is None:
            cost = np.tile(self.mean_cost, (len(X), 1))
        else:
            cost = np.concatenate([self.cost.predict(block) for block in blocks])
        unknown = ~np.isfinite(quality) | ~np.isfinite(std)
        return Estimated(
            np.where(unknown, UNKNOWN_QUALITY, quality),
            np.where(unknown, UNKNOWN_STD, std),
            np.where(np.isfinite(cost), cost, self.mean_cost),
        )


def best_single_estimates(population: Population, n: int) -> Estimated:
    """Return what a gateway expects that knows its best single model's mean quality, and of the others their prices."""
    quality = np.full((n, len(population.models)), UNKNOWN_QUALITY)
    quality[:, population.best_single] = population.table.quality[:, population.best_single].mean()
    std = np.where(np.arange(len(population.models)) == population.best_single, 0.01, UNKNOWN_STD)
    return Estimated(quality, np.tile(std, (n, 1)), np.tile(population.mean_cost, (n, 1)))


def load_population(data: Path, name: str, *, encoder: str, inner: int | None = None) -> Population:
    """Read a data set of the folder `data` and embed its prompts.

    Parameters
    ----------
    data : Path
        Folder of the data sets.
    name : str
        One of `COSTS`.
    encoder : str
        Registry name or spec.
    inner : int, optional
        Leave the test split alone: a random quarter of the train split, drawn with this seed, is scored in its place.

    Raises
    ------
    DataError
        If a model was not observed on a prompt.
    """
    table = load_table(data / name)
    splits = np.array(table.splits)
    traffic, scored = np.flatnonzero(splits == "train"), np.flatnonzero(splits == "test")
    if inner is not None:
        shuffled = np.random.default_rng([inner, 75]).permutation(traffic)
        traffic, scored = np.sort(shuffled[len(shuffled) // 4 :]), np.sort(shuffled[: len(shuffled) // 4])
    loaded = load_encoder(encoder)
    texts = table.router_texts()
    X = encode_cached(loaded, texts)
    about = {
        "data": name,
        "sha256": table_hash(table),
        "encoder": encoder,
        "encoder_fingerprint": loaded.fingerprint,
        "traffic_prompts": len(traffic),
        "scored_prompts": len(scored),
        "scored_split": "test" if inner is None else f"a quarter of train (seed {inner})",
        "models": list(table.models),
        "cost": COSTS[name],
    }
    return population_of(table, X, traffic=traffic, scored=scored, axis=COSTS[name], about=about)


def population_of(
    table: OutcomeTable, X: FloatArray, *, traffic: IntArray, scored: IntArray, axis: str, about: Mapping[str, Any]
) -> Population:
    """Make a population of rows of a table; `axis` is ``usd`` or ``calls``."""
    # Without list prices the cost router learns the dollars of a call, which is what the table has.
    table = dataclasses.replace(table, prices=(None,) * len(table.models))
    cost = table.cost_usd
    if axis == "calls":
        strong = int(table.quality[traffic].mean(axis=0).argmax())
        cost = np.tile((np.arange(len(table.models)) == strong).astype(np.float64), (len(table), 1))
    return Population(
        name=str(about.get("data", table.name)),
        table=table.select(traffic),
        X=X[traffic],
        cost=cost[traffic],
        scored=table.select(scored),
        scored_embeddings=X[scored],
        scored_cost=cost[scored],
        reference=float(cost[traffic].mean(axis=0).max()),
        known_cost=axis == "calls",
        about=about,
    )
