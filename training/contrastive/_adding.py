"""What a descriptor alone brings: each model of a pool hidden from training, then taken in by its descriptor."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmrouter.registry import create
from llmrouter.routers import CSCRRouter
from llmrouter.routers.descriptors import OutcomeFingerprint, likeness, load_descriptor
from llmrouter.types import FloatArray

SCORED = (20, 192)
_STD = 0.15
"""Standard error of a card's expectation, as `llmrouter.learning.card_prior` has it."""


def expectations(
    X: FloatArray,
    y: FloatArray,
    X_new: FloatArray,
    *,
    hidden: int,
    named: Mapping[str, str],
    parameters: Mapping[str, Any],
    costs: Sequence[float],
    seed: int,
) -> dict[str, FloatArray]:
    """Return what routers expect on X_new (k, d), (k, m) each, that were fitted without the column `hidden`.

    Parameters
    ----------
    X, y : arrays of shape (n, d) and (n, m)
        To learn from.
    X_new : array of shape (k, d)
        Prompts to expect something of.
    hidden : int
        The model that training does not see.
    named : mapping of str to str
        Way to describe models -> folders of the descriptors of all m, as ``a|b|c``.
    parameters : mapping
        Of `CSCRRouter`.
    costs : sequence of float
        Of all m models.
    seed : int
        Draws the scored prompts of the ways that need some.

    Returns
    -------
    dict of str to array
        ``usual level`` in a name: the new model's mean is expected to be that of the others; ``mean known``: its mean
        on the training prompts is given, as a good model card would.
    """
    rest = [column for column in range(y.shape[1]) if column != hidden]
    known = [costs[column] for column in rest]
    mean = float(np.nanmean(y[:, hidden]))
    common = {"costs": known, **parameters}
    drawn = np.random.default_rng([seed, hidden]).permutation(len(X))
    found: dict[str, FloatArray] = {}

    def keep(name: str, router: Any) -> None:
        expected = np.full((len(X_new), y.shape[1]), np.nan)
        predicted = router.predict(X_new)
        expected[:, [*rest, hidden][: predicted.shape[1]]] = predicted
        found[name] = expected

    outcome = _fitted(common, X, y[:, rest])
    keep("without it", outcome)
    scored = drawn[: SCORED[-1]]
    described = _outcomes(outcome).one(X[scored], y[scored, hidden], np.ones(len(scored)))
    for label, level in (("usual level", None), ("mean known", mean)):
        added = copy.deepcopy(outcome).add_described(described, level=level)
        keep(f"cscr, outcome of {len(scored)} prompts, {label}", added)
    for way, folders in named.items():
        every = folders.split("|")
        own = load_descriptor(Path(every[hidden]))
        for spread in (False, True):
            chosen = {**common, "descriptors": [every[column] for column in rest], "spread": spread}
            router = _fitted(chosen, X, y[:, rest])
            for label, level in (("usual level", None), ("mean known", mean)):
                added = copy.deepcopy(router).add_described(own, level=level)
                keep(f"cscr, {way}{', spread' if spread else ''}, {label}", added)
    for count in SCORED:
        added = copy.deepcopy(outcome).add_column(X[drawn[:count]], y[drawn[:count], hidden])
        keep(f"cscr, {count} scored prompts", added)
    ridge = create("router", "ridge").fit(X, y[:, rest])
    others = float(np.nanmean(y[:, rest]))
    for way, folders in {"any alike": "", **named}.items():
        weights = None
        if folders:
            every = folders.split("|")
            alike = likeness(
                load_descriptor(Path(every[hidden])),
                {str(column): load_descriptor(Path(every[column])) for column in rest},
            )
            weights = np.array([*alike.values()])
        for label, level in (("usual level", others), ("mean known", mean)):
            added = copy.deepcopy(ridge).add_prior_column(X, level=level, std=_STD, weights=weights)
            keep(f"ridge, prior, {way}, {label}", added)
    found["cscr, there from the start"] = _fitted({**parameters, "costs": list(costs)}, X, y).predict(X_new)
    return found


def _fitted(parameters: Mapping[str, Any], X: FloatArray, y: FloatArray) -> CSCRRouter:
    return CSCRRouter(**parameters).fit(X, y)


def _outcomes(router: CSCRRouter) -> OutcomeFingerprint:
    assert isinstance(router.fingerprint_, OutcomeFingerprint)  # noqa: S101 - for the type checker
    return router.fingerprint_
