"""Protocols that repeat an evaluation: random splits, held-out tasks, fewer train prompts, missing outcomes.

Each gives for every router and condition the figures of every draw: ``aiq``, ``aiq_minus_zero``, ``quality`` (the mean
quality at cost weight 0) and ``quality_minus_best_single``. Differences are paired within a draw, and the best single
model is the one that the draw's own train prompts choose.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llmrouter.evaluation._costs import CostAxis
from llmrouter.evaluation._draws import Draws, Figures, Routers, as_split, check_rows, rows_of, stratified, task_groups
from llmrouter.evaluation._protocol_result import ProtocolResult
from llmrouter.exceptions import ConfigError, DataError
from llmrouter.outcomes import OutcomeTable
from llmrouter.types import FloatArray


def random_splits(
    table: OutcomeTable,
    X: FloatArray,
    *,
    routers: Routers,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    test_share: float = 0.3,
    cost: CostAxis = "usd",
    train_only: bool = False,
    look_log: Path | None = None,
) -> ProtocolResult:
    """Evaluate on random splits of all prompts, the same ones for every router; the table's own split is left aside.

    Parameters
    ----------
    table : OutcomeTable
        n prompts.
    X : array of shape (n, d)
        Embeddings in its rows.
    routers : sequence of str, or mapping of str to str
        As in `evaluate`.
    seeds : sequence of int
        One split each, of distinct seeds.
    test_share : float
        Share of the prompts of every task that is tested on, between 0 and 1.
    cost : str
        Cost axis, as in `evaluate`.
    train_only : bool
        Split the train prompts only, and never look at the test split.
    look_log : Path, optional
        File to which the look at the test split is appended.

    Returns
    -------
    ProtocolResult
        Condition ``{"test_share": ...}``; standard errors take into account that the splits share prompts.

    Raises
    ------
    ConfigError
        If there is no seed, one occurs twice, or the share is out of range.
    DataError
        If the embeddings do not fit, or a split cannot be evaluated.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise ConfigError(f"seeds must be distinct, one at least; got {list(seeds)}")
    if not 0 < test_share < 1:
        raise ConfigError(f"test_share must lie strictly between 0 and 1; got {test_share}")
    check_rows(table, X)
    draws = Draws("splits", table, X, routers, cost)
    rows = rows_of(table, "train") if train_only else np.arange(len(table))
    settings = {"seeds": list(seeds), "test_share": test_share, "train_only": train_only}
    if not train_only:
        draws.log_look(look_log, settings)
    for seed in seeds:
        train, test = stratified(table, rows, test_share, seed)
        figures = draws.evaluate(as_split(table, train, test), X[np.concatenate([train, test])], seed=seed)
        draws.keep({"test_share": test_share}, figures, seed=seed, overlap=len(test) / len(train))
    return draws.result(settings)


def out_of_distribution(
    table: OutcomeTable,
    X: FloatArray,
    *,
    routers: Routers,
    held_out_tasks: Sequence[str | Sequence[str]] | None = None,
    cost: CostAxis = "usd",
    seed: int = 0,
    look_log: Path | None = None,
) -> ProtocolResult:
    """Train on some tasks and test on the others.

    Parameters
    ----------
    table, X, routers, cost
        As in `random_splits`; the table with the splits ``train`` and ``test``.
    held_out_tasks : sequence of str or of sequences of str, optional
        Tasks, or groups of tasks, to hold out in turn. Default: each task, or, of more than five, five groups of about
        equally many test prompts.
    seed : int
        Of the evaluations.
    look_log : Path, optional
        File to which the look at the test split is appended.

    Returns
    -------
    ProtocolResult
        Condition ``{"held_out": group}``, and ``{"held_out": "every group"}`` with a value a group. Trained on the
        train prompts of the other tasks, tested on the test prompts of the group. ``aiq_lost`` and ``quality_lost``
        are what training on all tasks has over that on the same test prompts; NaN for a group without train prompts.

    Raises
    ------
    ConfigError
        If a task is unknown.
    DataError
        If the table has fewer than two tasks, or a group leaves nothing to train or test on.
    """
    check_rows(table, X)
    draws = Draws("ood", table, X, routers, cost)
    tasks = np.array(["" if task is None else task for task in table.tasks])
    train, test = rows_of(table, "train"), rows_of(table, "test")
    groups = task_groups(tasks, test, held_out_tasks)
    settings = {"held_out_tasks": [list(group) for group in groups], "seed": seed}
    draws.log_look(look_log, settings)
    every: list[Figures] = []
    for group in groups:
        inside = np.isin(tasks, group)
        others, tested = train[~inside[train]], test[inside[test]]
        if not others.size or not tested.size:
            raise DataError(
                f"{table.name or 'the table'}: holding out {', '.join(group)} leaves {others.size} train and "
                f"{tested.size} test prompts; hold out fewer tasks, or others"
            )
        figures = draws.evaluate(as_split(table, others, tested), X[np.concatenate([others, tested])], seed=seed)
        seen: Figures = {}
        if inside[train].any():
            seen = draws.evaluate(as_split(table, train, tested), X[np.concatenate([train, tested])], seed=seed)
        for name, found in figures.items():
            for figure in ("aiq", "quality"):
                found[f"{figure}_lost"] = seen.get(name, {}).get(figure, math.nan) - found[figure]
        draws.keep({"held_out": "+".join(group)}, figures, seed=seed)
        every.append(figures)
    for figures in every if len(groups) > 1 else []:
        draws.keep({"held_out": "every group"}, figures, seed=seed)
    return draws.result(settings)


def learning_curve(
    table: OutcomeTable,
    X: FloatArray,
    *,
    routers: Routers,
    sizes: Sequence[int] = (50, 100, 200, 500, 1000, 2000, 5000),
    draws: int = 5,
    cost: CostAxis = "usd",
    seed: int = 0,
    look_log: Path | None = None,
) -> ProtocolResult:
    """Evaluate on the test split after training on fewer prompts: whether more data or a better method is wanted.

    Parameters
    ----------
    table, X, routers, cost, look_log
        As in `out_of_distribution`.
    sizes : sequence of int
        Train prompts, drawn at random, the same ones for every router. Those at or above the number there are count
        as all of them, which is always measured.
    draws : int
        Draws of each size; draw i has seed ``seed + i``. A smaller size is part of a larger one of the same draw.
    seed : int
        Of the first draw.

    Returns
    -------
    ProtocolResult
        Condition ``{"train_prompts": n}``.

    Raises
    ------
    ConfigError
        If a size or the number of draws is below 1.
    DataError
        If a draw cannot be evaluated.
    """
    if draws < 1 or any(size < 1 for size in sizes):
        raise ConfigError(f"draws and sizes must be >= 1; got draws={draws} and sizes={list(sizes)}")
    check_rows(table, X)
    collected = Draws("learning-curve", table, X, routers, cost)
    train, test = rows_of(table, "train"), rows_of(table, "test")
    settings = {"sizes": list(sizes), "draws": draws, "seed": seed}
    collected.log_look(look_log, settings)
    for size in [*sorted({size for size in sizes if size < len(train)}), len(train)]:
        for drawn in range(seed, seed + (draws if size < len(train) else 1)):
            picked = np.sort(np.random.default_rng(drawn).permutation(train)[:size])
            rows = np.concatenate([picked, test])
            figures = collected.evaluate(as_split(table, picked, test), X[rows], seed=drawn)
            collected.keep({"train_prompts": size}, figures, seed=drawn)
    return collected.result(settings)


def missing_outcomes(
    table: OutcomeTable,
    X: FloatArray,
    *,
    routers: Routers,
    shares: Sequence[float] = (0.25, 0.5),
    draws: int = 5,
    cost: CostAxis = "usd",
    seed: int = 0,
    look_log: Path | None = None,
) -> ProtocolResult:
    """Evaluate after training on a log: each train prompt was seen by one model only, or by some of them.

    The models that saw a prompt are drawn uniformly from those observed on it; quality, cost and tokens of the others
    are hidden, and the probability of having been seen is recorded as propensity. ``knn`` and other routers that are
    tuned on complete rows must be given their parameters.

    Parameters
    ----------
    table, X, routers, cost, draws, seed, look_log
        As in `learning_curve`.
    shares : sequence of float
        Shares of the models, in (0, 1), rounded to a number of models.

    Returns
    -------
    ProtocolResult
        Condition ``{"models_per_prompt": k}``: 1, one for each share, and all.

    Raises
    ------
    ConfigError
        If a share is out of range, or there is no draw.
    DataError
        If a draw cannot be evaluated.
    """
    if draws < 1 or any(not 0 < share < 1 for share in shares):
        raise ConfigError(f"draws must be >= 1 and shares in (0, 1); got draws={draws} and shares={list(shares)}")
    check_rows(table, X)
    collected = Draws("missing", table, X, routers, cost)
    settings = {"shares": list(shares), "draws": draws, "seed": seed}
    collected.log_look(look_log, settings)
    m = len(table.models)
    for count in sorted({1, *(max(1, round(share * m)) for share in shares), m}):
        for drawn in range(seed, seed + (draws if count < m else 1)):
            figures = collected.evaluate(hide_outcomes(table, count, seed=drawn), X, seed=drawn)
            collected.keep({"models_per_prompt": count}, figures, seed=drawn)
    return collected.result(settings)


def hide_outcomes(table: OutcomeTable, models_per_prompt: int, *, seed: int = 0) -> OutcomeTable:
    """Return the table with every train prompt seen by at most so many models, drawn uniformly from those observed.

    Quality, cost, tokens and weight of the others become NaN; the propensity of a cell is the probability with which it
    was kept, times the one it had.
    """
    observed = table.observed
    order = np.where(observed, np.random.default_rng(seed).random(observed.shape), np.inf).argsort(axis=1)
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(order.shape[1])[None, :], axis=1)
    train = np.array([split == "train" for split in table.splits])[:, None]
    kept = observed & (~train | (rank < models_per_prompt))
    share = np.minimum(1.0, models_per_prompt / np.maximum(observed.sum(axis=1, keepdims=True), 1))
    chance = np.where(train, share, 1.0) * table.propensity

    def hide(values: FloatArray) -> FloatArray:
        return np.where(kept | ~train, values, np.nan)

    return dataclasses.replace(
        table,
        quality=hide(table.quality),
        cost_usd=hide(table.cost_usd),
        input_tokens=hide(table.input_tokens),
        output_tokens=hide(table.output_tokens),
        propensity=np.where(kept, chance, np.nan),
        weight=None if table.weight is None else hide(table.weight),
    )
