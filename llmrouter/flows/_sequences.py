"""Learn the sequences and thresholds of a cascade on held-out acceptance scores."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmrouter.exceptions import DataError
from llmrouter.types import FloatArray

# Thresholds tried at each place of a sequence: so many quantiles of the scores there.
_QUANTILES = 19
_LEAST_PROMPTS = 20
_UTILITY_DIGITS = 12

# Held-out scores (n,) of the answers of one model, given the models called up to and with it.
Scorer = Callable[[tuple[int, ...]], FloatArray]


@dataclass(frozen=True)
class Plans:
    """The best sequence of models and its thresholds, for each of p weights of cost.

    Attributes
    ----------
    weights : array of shape (p,)
        Of a unit of cost, ascending.
    sequences : array of shape (p, k), int16
        Columns in the order of the calls; -1 where a sequence is shorter.
    thresholds : array of shape (p, k)
        The answer at that place is accepted from this score on; -inf at the last place.
    quality, cost : array of shape (p,)
        Mean over the training prompts.
    """

    weights: FloatArray
    sequences: npt.NDArray[np.int16]
    thresholds: FloatArray
    quality: FloatArray
    cost: FloatArray

    def nearest(self, weight: float) -> int:
        """Return the plan whose weight is nearest on a logarithmic scale; weight 0 has its own where it was fitted."""
        if weight <= 0 or self.weights.max() <= 0:
            return int(self.weights.argmin())
        positive = self.weights > 0
        distance = np.abs(np.log(np.where(positive, self.weights, 1.0)) - np.log(weight))
        return int(np.where(positive, distance, np.inf).argmin())

    def within(self, mean_cost: float) -> int:
        """Return the plan of highest training quality among those within a mean cost, or the cheapest if none is."""
        affordable = self.cost <= mean_cost
        if not affordable.any():
            return int(self.cost.argmin())
        quality = np.where(affordable, self.quality, -np.inf)
        best = np.flatnonzero(quality >= quality.max())
        return int(best[self.cost[best].argmin()])

    def sequence(self, plan: int) -> list[tuple[int, float]]:
        """Return (column, threshold) of each call of a plan."""
        columns, thresholds = self.sequences[plan].tolist(), self.thresholds[plan].tolist()
        return [(j, t) for j, t in zip(columns, thresholds, strict=True) if j >= 0]


@dataclass(frozen=True)
class _Options:
    """Sequences and thresholds with their means on the training prompts, all of one length."""

    sequences: npt.NDArray[np.int16]
    thresholds: FloatArray
    quality: FloatArray
    cost: FloatArray


def learn_plans(
    quality: FloatArray,
    cost: FloatArray,
    *,
    scorer: Scorer,
    columns: Sequence[int],
    weights: FloatArray,
    max_calls: int,
) -> Plans:
    """Return for each weight the sequence and thresholds of highest mean(quality - weight x cost) on train.

    Sequences of every order are tried.

    Parameters
    ----------
    quality, cost : array of shape (n, m)
        Training outcomes; prompts that lack one of `columns` are left out.
    scorer : callable
        Gives the held-out scores (n,) of the last model of a tuple of calls.
    columns : sequence of int
        Models that may be used.
    weights : array of shape (p,)
        Of a unit of cost.
    max_calls : int
        Longest sequence, at most 3.

    Raises
    ------
    DataError
        If fewer than 20 prompts have an outcome of every model.
    """
    complete = np.isfinite(quality[:, list(columns)]).all(axis=1) & np.isfinite(cost[:, list(columns)]).all(axis=1)
    rows = np.flatnonzero(complete)
    if len(rows) < _LEAST_PROMPTS:
        raise DataError(
            f"learning a cascade needs at least {_LEAST_PROMPTS} training prompts with quality and cost of every "
            f"model; {len(rows)} have them. Score more prompts with all models, or lower max_models"
        )
    quality, cost = quality[rows], cost[rows]
    scores = _Scores(scorer, rows)
    options = [_singles(quality, cost, columns)]
    if max_calls >= 2 and len(columns) >= 2:
        options.append(_pairs(quality, cost, scores, columns))
    if max_calls >= 3 and len(columns) >= 3:
        options.append(_triples(quality, cost, scores, columns, weights))
    return _best(options, np.sort(weights), quality=quality, cost=cost, scores=scores)


class _Scores:
    """Scores of the last model of a tuple of calls on some prompts, with the thresholds tried there."""

    def __init__(self, scorer: Scorer, rows: npt.NDArray[np.int64]) -> None:
        self._scorer = scorer
        self._rows = rows
        self._known: dict[tuple[int, ...], FloatArray] = {}

    def of(self, calls: tuple[int, ...]) -> FloatArray:
        """Return the scores (n,) of the last of the calls."""
        if calls not in self._known:
            self._known[calls] = self._scorer(calls)[self._rows]
        return self._known[calls]

    def accepted(self, calls: tuple[int, ...]) -> tuple[FloatArray, FloatArray]:
        """Return the thresholds (t,) and whether each accepts each prompt, (t, n) as 0 and 1."""
        score = self.of(calls)
        inner = np.linspace(0, 1, _QUANTILES + 2)[1:-1]
        thresholds = np.unique(np.quantile(score, inner, method="higher"))
        return thresholds, (score[None] >= thresholds[:, None]).astype(np.float64)


def _singles(quality: FloatArray, cost: FloatArray, columns: Sequence[int]) -> _Options:
    chosen = np.array(columns, dtype=np.int16)
    return _Options(
        chosen[:, None],
        np.full((len(chosen), 1), -np.inf),
        quality[:, chosen].mean(axis=0),
        cost[:, chosen].mean(axis=0),
    )


def _pairs(quality: FloatArray, cost: FloatArray, scores: _Scores, columns: Sequence[int]) -> _Options:
    parts = []
    for a, b in itertools.permutations(columns, 2):
        thresholds, accepted = scores.accepted((a,))
        n = len(quality)
        mean_quality = (accepted @ (quality[:, a] - quality[:, b]) + quality[:, b].sum()) / n
        mean_cost = (cost[:, a].sum() + (1 - accepted) @ cost[:, b]) / n
        last = np.full(len(thresholds), -np.inf)
        parts.append(
            _Options(_repeat((a, b), len(thresholds)), np.stack([thresholds, last], 1), mean_quality, mean_cost)
        )
    return _joined(parts)


def _triples(
    quality: FloatArray, cost: FloatArray, scores: _Scores, columns: Sequence[int], weights: FloatArray
) -> _Options:
    n = len(quality)
    parts = []
    for a, b in itertools.permutations(columns, 2):
        first, accepted_a = scores.accepted((a,))
        second, accepted_b = scores.accepted((a, b))
        left = 1 - accepted_a
        kept_a, paid = accepted_a @ quality[:, a], cost[:, a].sum() + left @ cost[:, b]
        grid = np.stack([np.repeat(first, len(second)), np.tile(second, len(first))], axis=1)
        for c in columns:
            if c in (a, b):
                continue
            behind_b = accepted_b * (quality[:, b] - quality[:, c]) + quality[:, c]
            mean_quality = (kept_a[:, None] + left @ behind_b.T) / n
            mean_cost = (paid[:, None] + left @ ((1 - accepted_b) * cost[:, c]).T) / n
            found = _Options(
                _repeat((a, b, c), len(grid)),
                np.concatenate([grid, np.full((len(grid), 1), -np.inf)], axis=1),
                mean_quality.ravel(),
                mean_cost.ravel(),
            )
            parts.append(_only_best(found, weights))
    return _joined(parts)


def _repeat(sequence: tuple[int, ...], times: int) -> npt.NDArray[np.int16]:
    return np.tile(np.array(sequence, dtype=np.int16), (times, 1))


def _joined(parts: Sequence[_Options]) -> _Options:
    return _Options(
        np.concatenate([part.sequences for part in parts]),
        np.concatenate([part.thresholds for part in parts]),
        np.concatenate([part.quality for part in parts]),
        np.concatenate([part.cost for part in parts]),
    )


def _only_best(options: _Options, weights: FloatArray) -> _Options:
    """Return the options that are best at some weight: hundreds of thousands need not be carried along."""
    utility = options.quality[:, None] - options.cost[:, None] * weights
    best = np.unique(utility.argmax(axis=0))
    return _Options(options.sequences[best], options.thresholds[best], options.quality[best], options.cost[best])


def _best(
    options: Sequence[_Options], weights: FloatArray, *, quality: FloatArray, cost: FloatArray, scores: _Scores
) -> Plans:
    """Choose an option for each weight.

    A longer sequence must beat the best shorter one by more than one standard error of the paired difference: with
    thousands of them something always looks better by chance.
    """
    length, n = len(options), len(quality)
    sequences, thresholds = (
        np.full((len(weights), length), -1, dtype=np.int16),
        np.full((len(weights), length), -np.inf),
    )
    means = np.empty((2, len(weights)))
    for row, weight in enumerate(weights.tolist()):
        best: FloatArray | None = None
        for size, group in enumerate(options, start=1):
            option = _best_option(group, weight)
            columns, limits = group.sequences[option], group.thresholds[option]
            gained, paid = _walk_train(columns.tolist(), limits.tolist(), quality=quality, cost=cost, scores=scores)
            utility = gained - weight * paid
            if best is not None:
                difference = utility - best
                if not difference.mean() > difference.std() / np.sqrt(n):
                    continue
            best = utility
            sequences[row, :size], thresholds[row, :size] = columns, limits
            means[:, row] = gained.mean(), paid.mean()
    return Plans(weights, sequences, thresholds, means[0], means[1])


def _best_option(options: _Options, weight: float) -> int:
    """Return the option of highest utility, the cheapest of equals."""
    order = np.argsort(options.cost, kind="stable")
    utility = np.round(options.quality[order] - weight * options.cost[order], _UTILITY_DIGITS)
    return int(order[utility.argmax()])


def _walk_train(
    sequence: Sequence[int], thresholds: Sequence[float], *, quality: FloatArray, cost: FloatArray, scores: _Scores
) -> tuple[FloatArray, FloatArray]:
    """Return quality and cost (n,) of one sequence on the training prompts."""
    gained, paid = quality[:, sequence[0]].copy(), cost[:, sequence[0]].copy()
    going = np.ones(len(quality), dtype=bool)
    for place in range(1, len(sequence)):
        going &= ~(scores.of(tuple(sequence[:place])) >= thresholds[place - 1])
        gained[going] = quality[going, sequence[place]]
        paid[going] += cost[going, sequence[place]]
    return gained, paid
