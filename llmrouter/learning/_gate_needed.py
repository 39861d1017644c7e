"""What would settle whether one router is better than another: how many more requests, explored how much, and where."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from llmrouter.evaluation import LoggedDecisions
from llmrouter.types import FloatArray

SHARES = (0.02, 0.05, 0.1, 0.2)
"""Shares of exploration, and of a trial, for which the verdict says how many requests would be needed."""
_WIDEST_VARIANCE = 0.25
"""Of a quality in [0, 1]; taken where nothing was seen."""


@dataclass(frozen=True)
class Needed:
    """What would settle the question.

    Attributes
    ----------
    gain : float
        The gain that is to be found.
    requests : int or None
        Judged requests in all, logged as these were; None where no number of them would do.
    by_share : mapping of float to int
        Share of requests that chance decides, evenly among the others -> judged requests in all.
    by_trial : mapping of float to int
        Share of requests that the new router decides on trial, as a canary, the others being decided as they were ->
        judged requests in all. It tries only what is in question, so it needs far fewer.
    models : mapping of str to float
        Models that the new router chooses where the log never asked them -> share of all requests.
    tasks : mapping of str to float
        Tasks of these requests, where the log names them -> share of all requests; the largest few.
    """

    gain: float
    requests: int | None
    by_share: Mapping[float, int]
    by_trial: Mapping[float, int] = field(default_factory=dict)
    models: Mapping[str, float] = field(default_factory=dict)
    tasks: Mapping[str, float] = field(default_factory=dict)

    def document(self) -> dict[str, object]:
        """Return it as JSON values."""
        return {
            "gain": self.gain,
            "requests": self.requests,
            "by_share": {f"{share:g}": count for share, count in self.by_share.items()},
            "by_trial": {f"{share:g}": count for share, count in self.by_trial.items()},
            "models": dict(self.models),
            "tasks": dict(self.tasks),
        }


def needed_for(
    log: LoggedDecisions,
    new: FloatArray,
    live: FloatArray,
    *,
    gain: float,
    standard_error: float,
    target_error: float,
    least_rows: float = 0.0,
    models: tuple[str, ...] = (),
    tasks: tuple[str | None, ...] = (),
) -> Needed:
    """Return how much data would bring a difference's standard error to `target_error`, on `least_rows` at least.

    The variance of a decision's residual is taken to stay as it was; what changes is how often the log holds what the
    new policy would do.

    Parameters
    ----------
    log : LoggedDecisions
        The n usable decisions that were compared.
    new, live : array of shape (n, m)
        The two policies.
    gain, standard_error, target_error : float
        The gain that is to be found; the standard error at hand; the one that would find it.
    least_rows : float
        Effective decisions that either policy must have in the log where they differ.
    models, tasks : tuple of str
        Names of the m columns and of the n rows' tasks.
    """
    contrast = new - live
    lacking = np.zeros(contrast.shape)
    if log.propensities is not None:
        lacking = np.where(log.propensities <= 0, np.maximum(contrast, 0.0), 0.0)
    by_model = lacking.mean(axis=0)
    named = models or tuple(f"column {number}" for number in range(contrast.shape[1]))
    short = {named[j]: float(by_model[j]) for j in np.argsort(-by_model).tolist() if by_model[j] > 0}
    by_task = _largest_tasks(lacking, tasks)
    if not np.abs(contrast).any():
        return Needed(gain, None, {}, models=short, tasks=by_task)
    known = math.isfinite(standard_error) and standard_error > 0
    n = len(log)
    square = _squared_weight(contrast, log)
    noise = standard_error**2 * n / square if known and square > 0 else _WIDEST_VARIANCE
    differ = np.abs(contrast).any(axis=1)  # where they do not nothing is at stake
    contrast, new, live, part = contrast[differ], new[differ], live[differ], float(differ.mean())
    full = None if log.propensities is None else log.propensities[differ]
    now = live if full is None else np.where(np.isfinite(full), full, live)
    requests = None
    if known and not short:
        rows = 0.0 if full is None else least_rows / (part * _rows_in_one(now, contrast))
        requests = math.ceil(max(n * (standard_error / target_error) ** 2, rows))

    def asked(chances: Mapping[float, FloatArray]) -> dict[float, int]:
        return {
            share: math.ceil(
                max(
                    part * noise * _square_at(chance, contrast) / target_error**2,
                    least_rows / (part * _rows_in_one(chance, contrast)),
                )
            )
            for share, chance in chances.items()
        }

    others = max(live.shape[1] - 1, 1)
    by_share = asked({share: (1 - share) * live + share * (1 - live) / others for share in SHARES})
    by_trial = asked({share: (1 - share) * now + share * new for share in SHARES})
    return Needed(gain, requests, by_share, by_trial, short, by_task)


def _squared_weight(contrast: FloatArray, log: LoggedDecisions) -> float:
    """Return the mean square of the contrast's importance weights, as the log's propensities make it."""
    full = log.propensities
    if full is not None and np.isfinite(full).all(axis=1).any():
        known = np.isfinite(full).all(axis=1)
        squares = np.square(contrast[known])
        ratio = np.divide(squares, full[known], out=np.zeros_like(squares), where=full[known] > 0)
        return float(ratio.sum(axis=1).mean())
    weight = contrast[np.arange(len(log)), log.chosen] / log.propensity
    return float(np.square(weight).mean())


def _square_at(chance: FloatArray, contrast: FloatArray) -> float:
    """Return the same if each model were asked with the given chances."""
    squares = np.square(contrast)
    return float(np.divide(squares, chance, out=np.zeros_like(squares), where=chance > 0).sum(axis=1).mean())


def _rows_in_one(chance: FloatArray, contrast: FloatArray) -> float:
    """Return how many effective decisions one request brings to the side of the contrast that has fewer."""
    sides = [np.maximum(sign * contrast, 0.0) for sign in (1.0, -1.0)]
    return min(float(side.sum(axis=1).mean()) ** 2 / max(_square_at(chance, side), 1e-300) for side in sides)


def _largest_tasks(lacking: FloatArray, tasks: tuple[str | None, ...], *, most: int = 5) -> dict[str, float]:
    """Return the tasks with most unsupported requests, as shares of all requests."""
    share: dict[str, float] = {}
    if tasks:
        for task, mass in zip(tasks, (lacking.sum(axis=1) / len(lacking)).tolist(), strict=True):
            if task is not None and mass > 0:
                share[task] = share.get(task, 0.0) + mass
    return dict(sorted(share.items(), key=lambda item: -item[1])[:most])
