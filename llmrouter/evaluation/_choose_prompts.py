"""Which prompts to score a new model on, when only a few can be paid for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from llmrouter.exceptions import ConfigError, DataError
from llmrouter.outcomes import OutcomeTable
from llmrouter.routers import Router
from llmrouter.types import FloatArray

Rows = npt.NDArray[np.int64]
Chooser = Callable[[OutcomeTable, FloatArray, Router, int, int], Rows]
Rule = Literal["random", "informative"]

# Share of a part, around its middle, that a prompt is taken from.
_MIDDLE = 0.25
_POWER_STEPS = 12


def choose_prompts(
    table: OutcomeTable, X: FloatArray, *, router: Router, n: int, seed: int, rule: Rule | Chooser = "informative"
) -> Rows:
    """Return the rows of a table to score a new model on.

    Parameters
    ----------
    table : OutcomeTable
        Train prompts with the outcomes of the known models; those of the new model are not in it.
    X : array of shape (rows, d)
        Embeddings.
    router : Router
        Quality router fitted on the known models.
    n : int
        Prompts wanted; cut to the number there are.
    seed : int
        Of the draw.
    rule : str or callable
        ``random``: uniformly. ``informative``: see `informative_prompts`. Or a function
        ``(table, X, router, n, seed) -> rows``.

    Returns
    -------
    array of int, shape (n,)
        Distinct rows, ascending.

    Raises
    ------
    ConfigError
        If `n` is below 1 or the rule unknown.
    DataError
        If the embeddings do not fit, or a callable returns rows that are not n distinct ones of the table.
    """
    if n < 1:
        raise ConfigError(f"n must be >= 1 prompts; got {n}")
    if len(X) != len(table):
        raise DataError(f"X must have {len(table)} rows, one a prompt of the table; got {len(X)}")
    n = min(n, len(table))
    if callable(rule):
        rows = np.asarray(rule(table, X, router, n, seed))
    elif rule == "random":
        rows = np.random.default_rng(seed).choice(len(table), size=n, replace=False)
    elif rule == "informative":
        rows = informative_prompts(table, X, router, n, seed)
    else:
        raise ConfigError(f"unknown rule {rule!r}; one of {', '.join(get_args(Rule))}, or a function")
    if rows.shape != (n,) or len(np.unique(rows)) != n or rows.min() < 0 or rows.max() >= len(table):
        raise DataError(f"the rule must return {n} distinct rows of 0..{len(table) - 1}; got shape {rows.shape}")
    return np.sort(rows.astype(np.int64))


def informative_prompts(table: OutcomeTable, X: FloatArray, router: Router, n: int, seed: int) -> Rows:
    """Return prompts that cover the data and tell models apart.

    Cover: the prompts are halved again and again along the direction in which they spread most, until there are n
    parts of equal size; each gives one prompt. So every region has its share, and means over the chosen prompts lie
    close to those over all. The space that is halved joins three equally weighted blocks: the embedding, what the
    router expects of the known models, and what they scored; prompts on which models fare alike lie together.

    Tell apart: of the quarter of a part nearest to its middle, the prompt is taken on which the known models disagree
    most. Choosing for disagreement alone would leave out what every model solves, and put a new model too low.

    Parameters
    ----------
    table, X, router, n, seed
        As in `choose_prompts`; n is at most the number of rows.

    Returns
    -------
    array of int, shape (n,)
    """
    random = np.random.default_rng(seed)
    quality = np.where(table.observed, table.quality, _column_means(table.quality))
    expected = np.nan_to_num(router.predict(X))
    space = np.concatenate([_block(np.asarray(X, dtype=np.float64)), _block(expected), _block(quality)], axis=1)
    disagreement = quality.std(axis=1)
    chosen = []
    for part in _equal_parts(space, n, random):
        distance = ((space[part] - space[part].mean(axis=0)) ** 2).sum(axis=1)
        middle = part[np.argsort(distance, kind="stable")[: max(1, int(len(part) * _MIDDLE))]]
        chosen.append(int(middle[disagreement[middle].argmax()]))
    return np.array(chosen, dtype=np.int64)


def _column_means(values: FloatArray) -> FloatArray:
    count = np.isfinite(values).sum(axis=0)
    return np.asarray(np.nansum(values, axis=0) / np.maximum(count, 1))


def _block(values: FloatArray) -> FloatArray:
    """Return centred columns, scaled so that the rows have a mean squared length of 1."""
    centred = values - values.mean(axis=0)
    length = float(np.sqrt((centred**2).sum(axis=1).mean()))
    return np.asarray(centred / length if length > 0 else centred)


def _equal_parts(space: FloatArray, n: int, random: np.random.Generator) -> list[Rows]:
    """Return n disjoint parts of the rows, their sizes as equal as can be, found by halving."""
    parts: list[Rows] = []
    waiting = [(np.arange(len(space)), n)]
    while waiting:
        rows, wanted = waiting.pop()
        if wanted == 1:
            parts.append(rows)
            continue
        first = wanted // 2 if random.random() < 0.5 else wanted - wanted // 2
        order = rows[np.argsort(space[rows] @ _main_direction(space[rows], random), kind="stable")]
        cut = round(len(rows) * first / wanted)
        waiting += [(order[:cut], first), (order[cut:], wanted - first)]
    return parts


def _main_direction(values: FloatArray, random: np.random.Generator) -> FloatArray:
    """Return (nearly) the first principal direction, by power iteration from a random start."""
    centred = values - values.mean(axis=0)
    direction = np.asarray(random.standard_normal(values.shape[1]))
    for _ in range(_POWER_STEPS):
        direction = centred.T @ (centred @ direction)
        direction = direction / max(float(np.linalg.norm(direction)), 1e-300)
    return direction
