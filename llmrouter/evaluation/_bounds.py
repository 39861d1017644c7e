"""Bounds: what no router can beat (the oracle), and what needs no router at all (the Zero router, single models)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from llmrouter.evaluation._costs import column_means
from llmrouter.evaluation._replay import Curve, curve_of_choices, replay
from llmrouter.types import FloatArray


class Bound(Protocol):
    """Something drawn on the cost-quality plane that sees the outcomes themselves."""

    def curve(self, quality: FloatArray, cost: FloatArray, /, *, weights: FloatArray, cheapest: int) -> Curve:
        """Return its curve on outcomes of shape (n, m) without NaN, for the swept weights of cost."""
        ...


class Oracle:
    """Knows every outcome beforehand: the best model for each prompt, the cheapest of equals.

    Its first point (weight 0) is the oracle of RouterBench; the sweep goes on to give the curve no router can beat.
    Outcomes are single draws as a rule, and the oracle picks whichever draw came out well: it is inflated by chance
    (arXiv:2607.03436), see `independent_oracle`.
    """

    def curve(self, quality: FloatArray, cost: FloatArray, /, *, weights: FloatArray, cheapest: int) -> Curve:
        """Return the curve of choosing by the true quality and the true cost."""
        return replay(quality, cost, quality=quality, cost=cost, weights=weights, cheapest=cheapest)


class ZeroRouter:
    """Mixes single models without looking at the prompt: the hull of the models' own (mean cost, mean quality).

    Its cost interval is the one over which every AIQ is taken. It is chosen with the evaluated prompts in sight,
    which makes it a slightly harder bar than anything that could be deployed.
    """

    def curve(self, quality: FloatArray, cost: FloatArray, /, *, weights: FloatArray, cheapest: int) -> Curve:
        """Return one point a model, in column order; weights and the cheapest model play no part."""
        del weights, cheapest
        n, m = quality.shape
        choices = np.repeat(np.arange(m, dtype=np.int16)[:, None], n, axis=1)
        return curve_of_choices(choices, np.full(m, np.nan), quality=quality, cost=cost)


def best_single_model(train_quality: FloatArray, train_cost: FloatArray) -> int:
    """Return the column of the highest mean train quality, the cheaper of equals."""
    quality = np.nan_to_num(column_means(train_quality), nan=-1.0)
    cost = np.nan_to_num(column_means(train_cost), nan=np.inf)
    return int(np.lexsort((cost, -quality))[0])


def single_model_curve(model: int, *, cheapest: int, quality: FloatArray, cost: FloatArray) -> Curve:
    """Return the curve of one fixed model: its point, and the point of the cheapest model that every curve has.

    By mixing, that is the straight line between the two, flat from the dearer one on; its `peak_quality` is the
    better of the two. For the cheapest model itself the two points are one.
    """
    pair = [model] if model == cheapest else [model, cheapest]
    choices = np.repeat(np.array(pair, dtype=np.int16)[:, None], len(quality), axis=1)
    weights = np.array([np.inf if column == cheapest else np.nan for column in pair])
    return curve_of_choices(choices, weights, quality=quality, cost=cost)


def task_mean_curve(
    train_tasks: Sequence[str | None],
    test_tasks: Sequence[str | None],
    *,
    train_quality: FloatArray,
    train_cost: FloatArray,
    quality: FloatArray,
    cost: FloatArray,
    weights: FloatArray,
    cheapest: int,
) -> Curve:
    """Return the curve of expecting of each model its train mean on the prompt's task, which a router is not told.

    A task without train prompts stands at the means over all of them.
    """
    expected_quality = np.tile(column_means(train_quality), (len(quality), 1))
    expected_cost = np.tile(column_means(train_cost), (len(cost), 1))
    train, test = np.array(train_tasks, dtype=object), np.array(test_tasks, dtype=object)
    for task in set(test_tasks) & set(train_tasks):
        rows, known = test == task, train == task
        for expected, outcomes in ((expected_quality, train_quality), (expected_cost, train_cost)):
            means = column_means(outcomes[known])
            expected[rows] = np.where(np.isfinite(means), means, expected[rows])
    return replay(expected_quality, expected_cost, quality=quality, cost=cost, weights=weights, cheapest=cheapest)


def random_curve(*, cheapest: int, quality: FloatArray, cost: FloatArray) -> Curve:
    """Return the curve of a uniformly random model, in exact expectation, and the point of the cheapest model."""
    return Curve(
        cost=np.stack([cost.mean(axis=1), cost[:, cheapest]]),
        quality=np.stack([quality.mean(axis=1), quality[:, cheapest]]),
        weights=np.array([np.nan, np.inf]),
        choices=None,
    )


def independent_oracle(quality: FloatArray, tasks: Sequence[str | None]) -> float:
    """Return the oracle of a pool as accurate as this one in which being right is luck alone.

    Each model's outcomes are shuffled within each task, independently of the other models, which keeps every model's
    mean on every task and destroys all else: whoever reads the prompt learns nothing beyond the task. The mean of the
    best outcome over such shuffles is given exactly, by products of distribution functions. Where it is as high as the
    oracle itself, the oracle's lead over the best single model is no evidence that there is something to route on.

    Parameters
    ----------
    quality : array of shape (n, m)
        Outcomes; a NaN is left out of its model's distribution.
    tasks : sequence of str or None, length n
        Task of each prompt; prompts without one are one task.

    Returns
    -------
    float
        In the unit of quality; NaN if nothing was observed.
    """
    names = np.array(["" if task is None else f"={task}" for task in tasks])
    total, count = 0.0, 0
    for name in np.unique(names):
        columns = [np.sort(column[np.isfinite(column)]) for column in quality[names == name].T]
        columns = [column for column in columns if column.size]
        if columns:
            values = np.unique(np.concatenate(columns))
            below = np.prod([np.searchsorted(column, values, side="right") / column.size for column in columns], axis=0)
            total += int((names == name).sum()) * float((values * np.diff(below, prepend=0.0)).sum())
            count += int((names == name).sum())
    return total / count if count else float("nan")
