"""Which prompts tell most about a new model's identity: discrimination in an item response model."""

from __future__ import annotations

import numpy as np

from llmrouter.exceptions import ConfigError
from llmrouter.types import FloatArray, IntArray


def stratified(features: FloatArray, bend: FloatArray, n: int, *, seed: int) -> IntArray:
    """Return n rows, drawn evenly over the levels of discrimination but towards the sharper half of each.

    Parameters
    ----------
    features : array of shape (N, q)
        Slopes of the logit by the identity, less their mean: what telling models apart hangs on.
    bend : array of shape (N,)
        ``p (1 - p)``, the mean over the known models.
    n : int
        At most N.
    seed : int
        Of the draw.
    """
    _check(n, len(features))
    information = bend * (features**2).sum(axis=1)
    random = np.random.default_rng(seed)
    chosen = []
    for part in np.array_split(np.argsort(information, kind="stable"), n):
        upper = part[len(part) // 2 :]
        chosen.append(int(random.choice(upper)))
    return np.sort(np.array(chosen, dtype=np.int64))


def greedy(features: FloatArray, bend: FloatArray, prior: FloatArray, n: int) -> IntArray:
    """Return n rows that together leave the least volume of the identity open (D-optimal, one by one).

    Parameters
    ----------
    features, bend, n
        As in `stratified`, features as they are.
    prior : array of shape (q, q)
        Covariance of a new identity before any prompt.
    """
    _check(n, len(features))
    scaled = features * np.sqrt(bend)[:, None]
    covariance = prior.copy()
    free = np.ones(len(features), dtype=bool)
    chosen = []
    for _ in range(n):
        gain = np.where(free, ((scaled @ covariance) * scaled).sum(axis=1), -np.inf)
        best = int(gain.argmax())
        towards = covariance @ scaled[best]
        covariance = covariance - np.outer(towards, towards) / (1.0 + scaled[best] @ towards)
        free[best] = False
        chosen.append(best)
    return np.sort(np.array(chosen, dtype=np.int64))


def _check(n: int, rows: int) -> None:
    if not isinstance(n, int | np.integer) or not 1 <= n <= rows:
        raise ConfigError(f"n must be a whole number of prompts in [1, {rows}]; got {n!r}")
