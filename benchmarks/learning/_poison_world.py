"""The log that is attacked: real outcomes played back as one-armed traffic of many keys."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmrouter.encoders import Encoder
from llmrouter.evaluation import aiq, replay, sweep_weights
from llmrouter.evaluation._bounds import ZeroRouter
from llmrouter.evaluation._replay import cheapest_model
from llmrouter.learning import Judgements
from llmrouter.outcomes import OutcomeTable
from llmrouter.routers import KNNRouter
from llmrouter.types import FloatArray, IntArray

DAY_S = 86_400.0
SPAN_DAYS = 60.0
KEYS = 40
CLUSTERS = 8
NEW_SHARE = 0.1
"""Share of the honest keys that came in the last days: the defences are to cost something too."""
COST_WEIGHT = 0.3
_COST_NEIGHBOURS = 100


@dataclass(frozen=True)
class World:
    """What router and attacker have before them.

    Attributes
    ----------
    train, test : OutcomeTable
        Full-information prompts: the log is drawn from the first, the second are the victims.
    X_train, X_test : arrays of shape (n, d), (t, d)
        Their embeddings.
    cost_test : array of shape (t, m)
        Expected cost of the test prompts, US dollars; costs are not attacked.
    encoder : Encoder
        Known to the attacker, weights and all.
    """

    train: OutcomeTable
    test: OutcomeTable
    X_train: FloatArray
    X_test: FloatArray
    cost_test: FloatArray
    cost_router: KNNRouter
    encoder: Encoder

    @classmethod
    def of(
        cls, train: OutcomeTable, test: OutcomeTable, encoder: Encoder, *, X: tuple[FloatArray, FloatArray]
    ) -> World:
        """Build it from two tables and their embeddings."""
        cost = KNNRouter(k=_COST_NEIGHBOURS, shrinkage=5.0).fit(X[0], train.cost_usd)
        return cls(train, test, X[0], X[1], cost.predict(X[1]), cost, encoder)

    @property
    def reference_cost_usd(self) -> float:
        """The dearest model's mean cost."""
        return float(np.nanmean(self.train.cost_usd, axis=0).max())

    def utility(self, quality: FloatArray, cost: FloatArray) -> FloatArray:
        """Return the utility that the gateway's default policy ranks by."""
        return np.asarray(quality - COST_WEIGHT * cost / self.reference_cost_usd)

    def aiq(self, expected: FloatArray) -> float:
        """Return the AIQ of expected qualities (t, m) on the test prompts."""
        weights = sweep_weights(self.train.cost_usd)
        cheapest = cheapest_model(self.train.cost_usd, self.train.quality)
        quality, cost = self.test.quality, self.test.cost_usd
        zero = ZeroRouter().curve(quality, cost, weights=weights, cheapest=cheapest).hull
        curve = replay(expected, self.cost_test, quality=quality, cost=cost, weights=weights, cheapest=cheapest)
        return aiq(curve.hull, (float(zero.cost[0]), float(zero.cost[-1])))


@dataclass(frozen=True)
class Log:
    """n judged outcomes, one model each: `judged`, and `honest` (n,) which the router cannot see."""

    judged: Judgements
    honest: FloatArray

    def outcomes(self, models: int) -> FloatArray:
        """Return the qualities as a table, (n, m), NaN where not observed."""
        y = np.full((len(self.judged), models), np.nan)
        y[np.arange(len(y)), self.judged.model] = self.judged.quality
        return y


def honest_log(world: World, n: int, rng: np.random.Generator) -> Log:
    """Draw n outcomes with replacement; every model alike; 40 keys of very unequal traffic, each with its own mix.

    Traffic of a key falls as one over its rank; its prompts come from a Dirichlet(0.3) mix of eight clusters of the
    embedding space. One key in ten came within the last week.
    """
    rows = rng.integers(len(world.train), size=n)
    model = rng.integers(len(world.train.models), size=n)
    cluster = _clusters(world.X_train, rng)[rows]
    volume = 1.0 / np.arange(1, KEYS + 1)
    mix = rng.dirichlet(np.full(CLUSTERS, 0.3), size=KEYS) * volume[:, None]
    share = np.cumsum(mix / mix.sum(axis=0), axis=0)
    source = np.minimum((rng.random(n)[:, None] > share.T[cluster]).sum(axis=1), KEYS - 1)
    late = rng.random(KEYS) < NEW_SHARE
    start = np.where(late, SPAN_DAYS - 7.0 * rng.random(KEYS), 0.5 * SPAN_DAYS * rng.random(KEYS))
    time = start[source] + (SPAN_DAYS - start[source]) * rng.random(n)
    judged = Judgements(
        X=world.X_train[rows],
        model=model.astype(np.int64),
        source=source.astype(np.int64),
        quality=world.train.quality[rows, model],
        time=time * DAY_S,
        weight=np.ones(n),
        names=tuple(f"key-{i}" for i in range(KEYS)),
    )
    seen = np.isfinite(judged.quality)
    return Log(_rows(judged, np.flatnonzero(seen)), np.ones(int(seen.sum())))


def _rows(judged: Judgements, rows: IntArray) -> Judgements:
    return Judgements(
        X=judged.X[rows],
        model=judged.model[rows],
        source=judged.source[rows],
        quality=judged.quality[rows],
        time=judged.time[rows],
        weight=judged.weight[rows],
        names=judged.names,
    )


def _clusters(X: FloatArray, rng: np.random.Generator) -> IntArray:
    """Return the nearest of a few centres, (n,): ten rounds of k-means."""
    centres = X[rng.choice(len(X), size=CLUSTERS, replace=False)]
    for _ in range(10):
        label = (X @ centres.T).argmax(axis=1)
        centres = np.stack([X[label == i].mean(axis=0) if (label == i).any() else centres[i] for i in range(CLUSTERS)])
    return np.asarray((X @ centres.T).argmax(axis=1))
