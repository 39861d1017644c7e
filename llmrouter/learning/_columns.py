"""Models that come and go in trained routers, nothing else being fitted again."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from llmrouter.engine import TrainedRouters
from llmrouter.exceptions import ArtifactError, DataError, UnknownModelError
from llmrouter.learning._card_prior import CardPrior
from llmrouter.policy import Calibration
from llmrouter.routers import BaseRouter, CSCRRouter, Router
from llmrouter.routers.descriptors import ModelDescriptor
from llmrouter.types import FloatArray, Price

MOST_EVEN_PROMPTS = 1000
"""Prompts over which a column's mean is taken."""
_PRIOR_ROWS = 4
_STD_OF_COST = 0.5
_BLOCK = 512


@dataclass(frozen=True)
class ScoredPrompts:
    """What is known of a new model: N prompts that it answered, and how well.

    Attributes
    ----------
    X : array of shape (N, d)
        Embeddings.
    quality : array of shape (N,)
        In [0, 1].
    output_tokens, input_tokens, cost_usd : array of shape (N,)
        As counted; NaN = unknown.
    estimated_tokens : array of shape (N,)
        Prompt tokens as they are estimated from the text.
    known_quality, known_output_tokens, known_cost_usd : array of shape (N, m)
        The same of the present models, in the order of the artifact's columns; NaN = not observed.
    weight : array of shape (N,) or None
        How much each counts; None = 1.
    """

    X: FloatArray
    quality: FloatArray
    output_tokens: FloatArray
    input_tokens: FloatArray
    cost_usd: FloatArray
    estimated_tokens: FloatArray
    known_quality: FloatArray
    known_output_tokens: FloatArray
    known_cost_usd: FloatArray
    weight: FloatArray | None = None

    def __len__(self) -> int:
        """Return N."""
        return len(self.quality)


def with_scored(
    trained: TrainedRouters, name: str, scored: ScoredPrompts, X: FloatArray, *, prior: CardPrior | None = None
) -> TrainedRouters:
    """Return routers that know one more model, from its scored prompts.

    Each router takes it in by its own `add_column`, with the present models' outcomes on the same prompts as control
    variates. With a `prior` its expectation counts as a few scored prompts.

    Parameters
    ----------
    trained : TrainedRouters
        Left as it is.
    name : str
        Pool name.
    scored : ScoredPrompts
        At least one with a quality.
    X : array of shape (n, d)
        Prompts of the traffic, for the model's means.
    prior : CardPrior, optional
        What was expected of it before.

    Raises
    ------
    DataError
        If the name is taken, nothing was scored, or a router cannot take in models.
    """
    _check_new(trained, name)
    if not np.isfinite(scored.quality).any():
        raise DataError(f"no prompt of {name!r} has a score; nothing can be learned of it")
    target, known = (
        (scored.output_tokens, scored.known_output_tokens)
        if trained.cost_unit == "output_tokens"
        else (scored.cost_usd, scored.known_cost_usd)
    )
    if not np.isfinite(target).any():
        what = "output tokens" if trained.cost_unit == "output_tokens" else "costs"
        raise DataError(f"the answers of {name!r} have no {what}, from which the artifact estimates costs")
    extended = _copied(trained)
    prior_quality = prior_cost = None
    if prior is not None and len(X):
        believed = with_prior(trained, name, prior, X)
        rows = np.linspace(0, len(X) - 1, min(len(X), _PRIOR_ROWS)).astype(np.int64)
        prior_quality = (X[rows], predicted(believed.quality, X[rows])[:, -1])
        prior_cost = (X[rows], predicted(believed.cost, X[rows])[:, -1])
    _add(extended.quality, scored.X, scored.quality, scored.known_quality, scored.weight, prior_quality)
    _add(extended.cost, scored.X, target, known, scored.weight, prior_cost)
    return _described(extended, name, X, scored=scored)


def with_prior(
    trained: TrainedRouters,
    name: str,
    prior: CardPrior,
    X: FloatArray,
    *,
    descriptor: ModelDescriptor | None = None,
) -> TrainedRouters:
    """Return routers that know one more model of which nothing was observed, with a wide error.

    Parameters
    ----------
    trained : TrainedRouters
        Left as it is.
    name : str
        Pool name.
    prior : CardPrior
        What its card says; see `card_prior`.
    X : array of shape (n, d)
        Prompts of the traffic.
    descriptor : ModelDescriptor, optional
        Says where the model is good, in place of the prior's likeness; for a `CSCRRouter` of measured ones. Other
        routers leave it aside (`llmrouter.routers.descriptors.likeness` is what they can take from one).

    Raises
    ------
    DataError
        If the name is taken, there are no prompts, or a router cannot take in models.
    FingerprintError
        If the descriptor cannot be compared with those the router was fitted with.
    """
    _check_new(trained, name)
    if not len(X):
        raise DataError("a prior is spread over prompts, and there are none; give a log or a table (--data)")
    extended = _copied(trained)
    weights = np.array([prior.likeness.get(model, 0.0) for model in trained.models])
    likeness = weights if weights.sum() > 0 else None
    quality, cost = _base(extended.quality), _base(extended.cost)
    level = min(max(prior.quality, quality.lower_), quality.upper_)
    amount = prior.output_tokens if trained.cost_unit == "output_tokens" else prior.cost_usd
    if descriptor is not None and isinstance(quality, CSCRRouter):
        quality.add_described(descriptor, level=level, std=prior.std)
    else:
        quality.add_prior_column(X, level=level, std=prior.std, weights=likeness)
    cost.add_prior_column(X, level=amount, std=max(_STD_OF_COST * amount, 1e-12), weights=likeness)
    return _described(extended, name, X, prior=prior)


def replaced(trained: TrainedRouters, old: str, new: str, *, std: float, X: FloatArray) -> TrainedRouters:
    """Return routers in which `new` stands where `old` stood: a version upgrade that nothing was observed of yet.

    The new model is expected to do on every prompt what the old one did, with an error wider by `std`.

    Raises
    ------
    UnknownModelError
        If the artifact does not know `old`.
    DataError
        If `new` is taken, or there are no prompts.
    """
    column = _column(trained, old)
    _check_new(trained, new)
    if not len(X):
        raise DataError("a prior is spread over prompts, and there are none; give a log or a table (--data)")
    quality, error = _base(trained.quality).estimate(np.asarray(X, dtype=np.float32))
    prior = CardPrior(
        quality=float(np.nanmean(quality[:, column])),
        std=math.hypot(std, float(np.nanmean(error[:, column]))),
        output_tokens=trained.mean_output_tokens.get(old, 1.0),
        cost_usd=trained.mean_cost_usd.get(old, trained.reference_cost_usd),
        token_ratio=trained.token_ratio.get(old, 1.0),
        likeness={old: 1.0},
        evidence=(f"the column of {old}",),
    )
    return without_model(with_prior(trained, new, prior, X), old)


def without_model(trained: TrainedRouters, name: str) -> TrainedRouters:
    """Return routers that have forgotten one model.

    Raises
    ------
    UnknownModelError
        If the artifact does not know it.
    DataError
        If it is the only one.
    """
    column = _column(trained, name)
    if len(trained.models) == 1:
        raise DataError(f"{name!r} is the only model that the artifact knows; add another one first")
    shrunk = _copied(trained)
    for router in (shrunk.quality, shrunk.cost):
        _base(router).drop_column(column)
    models = tuple(model for model in trained.models if model != name)
    means: dict[str, Any] = {
        field: {model: value for model, value in getattr(trained, field).items() if model != name}
        for field in ("token_ratio", "mean_quality", "mean_output_tokens", "mean_cost_usd")
    }
    best = trained.best_single
    if best == name:
        best = max(models, key=lambda model: means["mean_quality"].get(model, -math.inf))
    calibration = trained.calibration
    if calibration is not None and name in calibration.models:
        calibration = _without_column(calibration, calibration.models.index(name))
    return replace(shrunk, models=models, best_single=best, calibration=calibration, **means)


def repriced(trained: TrainedRouters, name: str, *, old: Price, new: Price) -> TrainedRouters:
    """Return routers for a model at another price: its mean cost is worked out anew, token estimates stay.

    Raises
    ------
    UnknownModelError
        If the artifact does not know it.
    ArtifactError
        If the artifact estimates dollars, not tokens: then a price is learned, not looked up.
    """
    column = _column(trained, name)
    if trained.cost_unit != "output_tokens":
        raise ArtifactError(
            "the artifact estimates costs in dollars, so the old price is in what it learned; train it again with "
            "token counts in the log, and prices can change without training"
        )
    if name not in trained.mean_cost_usd:
        return trained
    before, tokens = trained.mean_cost_usd[name], trained.mean_output_tokens.get(name, 0.0)
    rest = max(before - old.cost_usd(0.0, tokens), 0.0)
    read = rest * 1e6 / old.input if old.input > 0 else 0.0
    after = new.cost_usd(read, tokens)
    calibration = trained.calibration
    if calibration is not None and name in calibration.models and before > 0:
        own = calibration.models.index(name)
        expected, paid = calibration.expected_cost_usd.copy(), calibration.cost_usd.copy()
        expected[:, own] *= after / before
        paid[:, own] *= after / before
        calibration = replace(calibration, expected_cost_usd=expected, cost_usd=paid)
    del column
    return replace(trained, mean_cost_usd={**trained.mean_cost_usd, name: after}, calibration=calibration)


def predicted(router: Router, X: FloatArray) -> FloatArray:
    """Return `router.predict(X)`, shape (n, m), computed in blocks that bound memory."""
    X = np.asarray(X, dtype=np.float32)
    return np.concatenate([router.predict(X[start : start + _BLOCK]) for start in range(0, len(X), _BLOCK)])


def _add(
    router: Router,
    X: FloatArray,
    y: FloatArray,
    known: FloatArray,
    weight: FloatArray | None,
    prior: tuple[FloatArray, FloatArray] | None,
) -> None:
    base = _base(router)
    weight = np.ones(len(y)) if weight is None else weight
    if prior is not None:
        X = np.concatenate([np.asarray(X, dtype=np.float32), prior[0]])
        y = np.concatenate([y, np.clip(prior[1], base.lower_, base.upper_)])
        known = np.concatenate([known, np.full((len(prior[0]), known.shape[1]), np.nan)])
        weight = np.concatenate([weight, np.ones(len(prior[0]))])
    base.add_column(X, y, weight, known=known)


def _described(
    trained: TrainedRouters,
    name: str,
    X: FloatArray,
    *,
    scored: ScoredPrompts | None = None,
    prior: CardPrior | None = None,
) -> TrainedRouters:
    """Return the routers with what is said of the model beside its columns: name, means, ratio, calibration."""
    even = X[np.linspace(0, len(X) - 1, min(len(X), MOST_EVEN_PROMPTS)).astype(np.int64)] if len(X) else X
    if len(even):
        quality = float(np.mean(predicted(trained.quality, even)[:, -1]))
        amount = float(np.mean(predicted(trained.cost, even)[:, -1]))
    elif scored is not None:
        quality = float(np.nanmean(scored.quality))
        amount = float(np.nanmean(scored.output_tokens if trained.cost_unit == "output_tokens" else scored.cost_usd))
    else:
        raise DataError("the means of a model are taken over prompts, and there are none")
    tokens, cost = dict(trained.mean_output_tokens), dict(trained.mean_cost_usd)
    if trained.cost_unit == "output_tokens":
        tokens[name] = amount
    elif scored is not None and np.isfinite(scored.output_tokens).any():
        tokens[name] = float(np.nanmean(scored.output_tokens))
    if scored is not None and np.isfinite(scored.cost_usd).any():
        cost[name] = float(np.nanmean(scored.cost_usd))
    elif prior is not None:
        cost[name] = prior.cost_usd
    ratio = dict(trained.token_ratio)
    if scored is not None:
        both = np.isfinite(scored.input_tokens) & (scored.estimated_tokens > 0)
        if both.any():
            ratio[name] = float(scored.input_tokens[both].sum() / scored.estimated_tokens[both].sum())
    elif prior is not None:
        ratio[name] = prior.token_ratio
    means = {**trained.mean_quality, name: quality}
    models = (*trained.models, name)
    calibration = trained.calibration
    if calibration is not None:
        calibration = _with_column(calibration, name, trained, mean_cost=cost.get(name, trained.reference_cost_usd))
    best = trained.best_single
    # A prior is no evidence: the best single model, which guards rest on, stays until something was observed.
    if scored is not None and quality > means.get(best, -math.inf):
        best = name
    return replace(
        trained,
        models=models,
        best_single=best,
        mean_quality=means,
        mean_output_tokens=tokens,
        mean_cost_usd=cost,
        token_ratio=ratio,
        calibration=calibration,
    )


def _with_column(
    calibration: Calibration, name: str, trained: TrainedRouters, *, mean_cost: float
) -> Calibration | None:
    """Return the calibration with one more model: estimates, and nothing observed.

    None where its columns are not the artifact's, so that no policy promises anything on it.
    """
    if calibration.models != trained.models:
        return None
    X = np.asarray(calibration.embeddings, dtype=np.float32)
    quality, std = _base(trained.quality).estimate(X)
    amount = predicted(trained.cost, X)[:, -1]
    # The calibration has no texts to count tokens of, so the cost of a prompt follows the amount that is estimated.
    usd = amount if trained.cost_unit == "usd" else mean_cost * amount / max(float(amount.mean()), 1e-12)
    unseen = np.full(len(X), np.nan)
    columns = {
        "expected_quality": quality[:, -1],
        "expected_std": std[:, -1],
        "expected_cost_usd": np.maximum(usd, 0.0),
        "quality": unseen,
        "cost_usd": unseen,
    }
    wider: dict[str, Any] = {
        field: np.column_stack([getattr(calibration, field), column]) for field, column in columns.items()
    }
    return replace(calibration, models=(*calibration.models, name), **wider)


def _without_column(calibration: Calibration, column: int) -> Calibration:
    fields = ("expected_quality", "expected_std", "expected_cost_usd", "quality", "cost_usd")
    narrower: dict[str, Any] = {field: np.delete(getattr(calibration, field), column, axis=1) for field in fields}
    models = tuple(model for i, model in enumerate(calibration.models) if i != column)
    return replace(calibration, models=models, **narrower)


def _copied(trained: TrainedRouters) -> TrainedRouters:
    """Return copies of the routers; the index, which no column changes, is shared."""
    memo: dict[int, object] = {}
    for router in (trained.quality, trained.cost):
        index = getattr(router, "index_", None)
        if index is not None:
            memo[id(index)] = index
    quality, cost = copy.deepcopy(trained.quality, memo), copy.deepcopy(trained.cost, memo)
    if isinstance(cost, BaseRouter):
        # Dollars below 1 look like qualities, whose models differ by an offset; costs differ by a factor.
        cost.upper_ = math.inf
    return replace(trained, quality=quality, cost=cost)


def _base(router: Router) -> BaseRouter:
    if not isinstance(router, BaseRouter):
        raise DataError(f"{type(router).__name__} cannot take in or forget a model: it is no BaseRouter")
    return router


def _check_new(trained: TrainedRouters, name: str) -> None:
    if name in trained.models:
        raise DataError(f"the artifact knows {name!r} already; remove it first, or use replace or another name")


def _column(trained: TrainedRouters, name: str) -> int:
    if name not in trained.models:
        raise UnknownModelError(name, known=trained.models)
    return trained.models.index(name)
