"""What is settled on the training prompts before a router is fitted: parameters, guard, held-out estimates."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmrouter.evaluation._crossfit import CrossFit, cross_fit
from llmrouter.evaluation._tune import tune, tune_guard
from llmrouter.outcomes import OutcomeTable
from llmrouter.registry import parse_spec, resolve
from llmrouter.types import FloatArray


@dataclass(frozen=True)
class Prepared:
    """A router settled on training prompts.

    Attributes
    ----------
    name : str
        Registry name.
    parameters : mapping
        Constructor parameters, chosen by cross-validation where the spec left them open and the router has a grid.
    tuning : mapping
        How they, and the guard, were chosen; empty if they were given.
    guard : float or None
        Of a guarded router (`BaseRouter.guarded`).
    crossed : CrossFit or None
        Held-out estimates, where they were needed or asked for.
    """

    name: str
    parameters: Mapping[str, Any]
    tuning: Mapping[str, Any]
    guard: float | None
    crossed: CrossFit | None


def prepare(
    spec: str,
    train: OutcomeTable,
    X: FloatArray,
    *,
    known_cost: FloatArray | None = None,
    seed: int = 0,
    crossed: bool = False,
) -> Prepared:
    """Choose a router's parameters and guard by cross-validation on training prompts.

    Parameters
    ----------
    spec : str
        Registry spec, e.g. ``stack``, ``knn`` or ``knn:k=40``.
    train : OutcomeTable
        n training prompts.
    X : array of shape (n, d)
        Their embeddings.
    known_cost : array of shape (n, m), optional
        Costs that need no prediction.
    seed : int
        Of the folds.
    crossed : bool
        Keep held-out estimates even where no guard needs them.

    Raises
    ------
    DataError
        If parameters must be chosen and fewer than five prompts have an outcome of every model.
    """
    name, parameters = parse_spec(spec)
    router = resolve("router", name)
    tuning: dict[str, Any] = {}
    if not parameters and getattr(router, "grid", None):
        tuned = tune(name, train, X, known_cost=known_cost, seed=seed)
        parameters, tuning = dict(tuned.parameters), dataclasses.asdict(tuned)
    guarded = bool(getattr(router, "guarded", False))
    held_out, guard = None, None
    if guarded or crossed:
        held_out = cross_fit(train, X, name=name, parameters=parameters, known_cost=known_cost, seed=seed)
    if guarded and held_out is not None:
        guard, tried = tune_guard(held_out, train, known_cost=known_cost)
        tuning |= {"parameters": parameters, "guard": guard, "guard_scores": tried}
    return Prepared(name, parameters, tuning, guard, held_out)
