"""Parameters chosen on a one-sided log: by what each setting's policy would have earned on the log's later part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from llmrouter.encoders import Encoder
from llmrouter.engine import RoutingEngine, TrainedRouters
from llmrouter.evaluation import off_policy_estimate
from llmrouter.exceptions import DataError
from llmrouter.learning import Missing, TrainingLog, cross_fitted, decided_by
from llmrouter.policy import BasePolicy, Policy, UtilityPolicy
from llmrouter.registry import parse_spec, resolve
from llmrouter.types import FloatArray, ModelCard

GUARDS: tuple[float | None, ...] = (0.25, None, 0.5, 1.0)
"""Guards tried; the first is what is taken where the log cannot tell."""
UNTUNED: Mapping[str, str] = {"knn": "knn:k=100,shrinkage=5.0"}
"""What a router starts from in place of the first setting of its grid: strong smoothing does little harm."""
_SHARE = 0.3
_SURE = 1.0


@dataclass(frozen=True)
class LogTuning:
    """Outcome of a search.

    Attributes
    ----------
    parameters, guard : mapping, float or None
        The chosen setting.
    tried : tuple of mapping
        Every setting with its estimated gain in utility over the first, and the gain's standard error.
    rows : int
        Decisions that they were compared on.
    """

    parameters: Mapping[str, Any]
    guard: float | None
    tried: tuple[Mapping[str, Any], ...]
    rows: int

    def summary(self) -> str:
        """Return one line for people."""
        chosen = ", ".join(f"{name}={value}" for name, value in {**self.parameters, "guard": self.guard}.items())
        return f"{chosen} of {len(self.tried)} settings on {self.rows} requests"

    def document(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "parameters": dict(self.parameters),
            "guard": self.guard,
            "rows": self.rows,
            "tried": [dict(entry) for entry in self.tried],
        }


class _ReadyVectors:
    """Stands for the encoder of an engine that is asked for embedded requests only."""

    def __init__(self, fingerprint: str, dimension: int) -> None:
        self.fingerprint, self.dimension = fingerprint, dimension

    def encode(self, texts: Sequence[str], /) -> FloatArray:
        raise DataError(f"{len(texts)} texts cannot be encoded here: the log's embeddings are used")

    def count_tokens(self, text: str, /) -> int:
        return len(text)


def tune_on_log(
    name: str,
    parameters: Mapping[str, Any],
    log: TrainingLog,
    weight: FloatArray,
    *,
    missing: Missing,
    policy: Policy,
    cards: Sequence[ModelCard],
    seed: int = 0,
) -> LogTuning | None:
    """Choose the parameters that were left open, and the guard of a guarded router; None if nothing is open.

    Every setting is fitted on the log's earlier part; the doubly robust estimate of the utility of its decisions on
    the later part, as a difference to the first setting's, decides. The first is left only for one that is better by
    more than a standard error: with few explored decisions the differences are noise.

    Parameters
    ----------
    name, parameters : str, mapping
        The router; parameters that are given are not tuned.
    log : TrainingLog
        n judged requests.
    weight : array of shape (n,)
        How much each counts in fitting.
    missing : str
        See `complete_arms`.
    policy : Policy
        That decides.
    cards : sequence of ModelCard
        The pool.
    seed : int
        Of folds.
    """
    from training.from_log import fit_on_log

    router = resolve("router", name)
    guards = GUARDS if getattr(router, "guarded", False) and isinstance(policy, UtilityPolicy) else (None,)
    settings = [dict(parameters)] if parameters else _settings(name, getattr(router, "grid", ()))
    if len(settings) * len(guards) == 1:
        return None
    early, late = log.split(_SHARE)
    encoder: Encoder = _ReadyVectors(log.fingerprint, log.X.shape[1])
    fitted: list[tuple[dict[str, Any], TrainedRouters]] = [
        (
            setting,
            fit_on_log(
                early, weight[: len(early)], name=name, parameters=setting, guard=None, missing=missing, seed=seed
            ),
        )
        for setting in settings
    ]
    choices = [
        (setting, guard, decided_by(_engine(cards, encoder, trained, guard, policy), late, log.models))
        for setting, trained in fitted
        for guard in guards
    ]
    usable = np.all([np.isfinite(chosen).all(axis=1) for _, _, chosen in choices], axis=0)
    late = late.select(usable)
    rate = policy.current_cost_weight() if isinstance(policy, BasePolicy) else 0.0
    reference = fitted[0][1].reference_cost_usd
    expected = _expected_utility(late, early, rate / reference, seed=seed)
    decisions = late.decisions(late.utility(rate, reference))
    tried = []
    best, highest = 0, 0.0
    for number, (setting, guard, chosen) in enumerate(choices):
        gain = error = 0.0
        if number:
            found = off_policy_estimate(
                decisions, chosen[usable], baseline=choices[0][2][usable], model=expected, methods=["dr"]
            ).difference["dr"]
            gain, error = found.value, found.standard_error
            if gain - _SURE * error > 0 and gain > highest:
                best, highest = number, gain
        tried.append({**setting, "guard": guard, "gain": gain, "standard_error": error})
    return LogTuning(choices[best][0], choices[best][1], tuple(tried), int(decisions.usable.sum()))


def _settings(name: str, grid: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    start = parse_spec(UNTUNED[name])[1] if name in UNTUNED else None
    settings = [dict(setting) for setting in grid]
    if start is not None:
        settings = [start, *(setting for setting in settings if setting != start)]
    return settings or [{}]


def _engine(
    cards: Sequence[ModelCard], encoder: Encoder, trained: TrainedRouters, guard: float | None, policy: Policy
) -> RoutingEngine:
    return RoutingEngine(cards, encoder, trained=replace(trained, guard=guard), policy=policy)


def _expected_utility(late: TrainingLog, early: TrainingLog, rate: float, *, seed: int) -> FloatArray:
    """Return cross-fitted expectations, shape (n, m), of quality less `rate` times the cost in US dollars."""

    def expected(name: str) -> FloatArray:
        values, past = getattr(late.table, name), getattr(early.table, name)
        if not np.isfinite(values).any():
            return np.zeros(values.shape)
        return cross_fitted(late.X, values, groups=late.table.texts, history=(early.X, past), seed=seed)

    return expected("quality") - rate * expected("cost_usd") if rate else expected("quality")
