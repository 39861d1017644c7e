"""A small trained pool for tests of models that come and go."""

import numpy as np
from contracts.router_kit import topics

from llmrouter.engine import TrainedRouters
from llmrouter.learning import ScoredPrompts
from llmrouter.outcomes import OutcomeTable
from llmrouter.policy import Calibration
from llmrouter.routers import KNNRouter
from llmrouter.types import Price

MODELS = ("small", "middle", "large")
PRICES = {"small": Price(0.1, 0.2), "middle": Price(1.0, 2.0), "large": Price(5.0, 10.0)}


def table(n=120, *, seed=0, texts=True, sparse=False):
    """A table over topics, whose qualities and tokens are of the right kind, and its embeddings."""
    X, quality, truth = topics(n, seed=seed, m=3)
    tokens = np.array([10.0, 40.0, 80.0]) * (0.5 + truth)
    read = np.full((n, 3), 30.0)
    rates = np.array([[PRICES[name].input, PRICES[name].output] for name in MODELS])
    cost = (read * rates[:, 0] + tokens * rates[:, 1]) / 1e6
    quality = quality.copy()
    if sparse:
        keep = np.random.default_rng(seed).integers(0, 3, size=n)
        hidden = np.ones_like(quality, dtype=bool)
        hidden[np.arange(n), keep] = False
        for values in (quality, tokens, read, cost):
            values[hidden] = np.nan
    found = OutcomeTable(
        prompt_ids=tuple(f"p{i}" for i in range(n)),
        models=MODELS,
        texts=tuple(f"question number {i} of topic {i % 4}" if texts else None for i in range(n)),
        tasks=(None,) * n,
        splits=("train",) * n,
        quality=quality,
        cost_usd=cost,
        input_tokens=read,
        output_tokens=tokens,
        propensity=np.ones((n, 3)),
        prices=tuple(PRICES[name] for name in MODELS),
        name="topics",
    )
    return found, X


def trained(*, calibrated=True, cost_unit="output_tokens", n=120):
    """Routers fitted on that table, with their means; kNN, so that both share one index."""
    data, X = table(n)
    quality = KNNRouter(k=10).fit(X, data.quality)
    target = data.output_tokens if cost_unit == "output_tokens" else data.cost_usd
    cost = KNNRouter(k=10).fit_shared(quality.index_, target)
    means = {
        name: dict(zip(MODELS, values.mean(axis=0).tolist(), strict=True))
        for name, values in (("q", data.quality), ("t", data.output_tokens), ("c", data.cost_usd))
    }
    calibration = None
    if calibrated:
        expected, std = quality.estimate(X)
        calibration = Calibration(
            models=MODELS,
            embeddings=X,
            expected_quality=expected,
            expected_std=std,
            expected_cost_usd=data.cost_usd,
            quality=data.quality,
            cost_usd=data.cost_usd,
            tasks=(None,) * n,
        )
    return TrainedRouters(
        models=MODELS,
        quality=quality,
        cost=cost,
        cost_unit=cost_unit,
        reference_cost_usd=max(means["c"].values()),
        router_name="knn",
        cost_router_name="knn",
        best_single=max(means["q"], key=means["q"].get),
        token_ratio=dict.fromkeys(MODELS, 1.5),
        mean_quality=means["q"],
        mean_output_tokens=means["t"],
        mean_cost_usd=means["c"],
        prompt_ids=data.prompt_ids,
        calibration=calibration,
    )


def scored(n=50, *, level=0.9, seed=1, known=True):
    """Scores of a model that is right with probability `level`, on n prompts of other draws."""
    data, X = table(n, seed=seed)
    chance = np.random.default_rng(seed)
    tokens = np.full(n, 20.0)
    empty = np.full((n, 3), np.nan)
    return ScoredPrompts(
        X=X,
        quality=(chance.random(n) < level).astype(float),
        output_tokens=tokens,
        input_tokens=np.full(n, 33.0),
        cost_usd=np.full(n, 4e-5),
        estimated_tokens=np.full(n, 11.0),
        known_quality=data.quality if known else empty,
        known_output_tokens=data.output_tokens if known else empty,
        known_cost_usd=data.cost_usd if known else empty,
    )
