"""What both flows need at run time: settings, weights, and what the answers of one run have revealed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from llmrouter.exceptions import ConfigError
from llmrouter.flows._answers import AnswerModel, revealed_features
from llmrouter.flows._base import Answer
from llmrouter.types import Estimates, RoutingRequest


class Weighted(Protocol):
    """A flow with a cost weight in the policy's unit, and perhaps an oracle judge."""

    cost_weight: float
    reference_cost_usd: float
    judge_error: float | None


def check_settings(cost_weight: float, reference_cost_usd: float, *, max_calls: int, max_models: int) -> None:
    """Check what both flows are given.

    Raises
    ------
    ConfigError
        Naming the parameter, its value and what it may be.
    """
    if not (math.isfinite(cost_weight) and cost_weight >= 0):
        raise ConfigError(f"cost_weight must be a finite number >= 0; got {cost_weight!r}")
    if not (math.isfinite(reference_cost_usd) and reference_cost_usd > 0):
        raise ConfigError(f"reference_cost_usd must be a finite number > 0; got {reference_cost_usd!r}")
    for name, value in (("max_calls", max_calls), ("max_models", max_models)):
        if not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name} must be a whole number >= 1; got {value!r}")


def flow_name(kind: str, cost_weight: float, judge_error: float | None) -> str:
    """Return the name of a flow with settings, in which an oracle judge cannot be overlooked."""
    judge = "" if judge_error is None else f", oracle judge with error {judge_error:g}"
    return f"{kind}({cost_weight:g}{judge})"


def weight_of(flow: Weighted, request: RoutingRequest) -> float:
    """Return the weight of a US dollar: the request's own cost weight before the flow's."""
    own = request.preference.cost_weight
    return (flow.cost_weight if own is None else own) / flow.reference_cost_usd


def needed_score(flow: Weighted, answer: Answer) -> float | None:
    """Return the score an outside judge gave an answer.

    Raises
    ------
    ConfigError
        If the flow relies on an oracle judge and there is no score: nobody knows the truth of a live answer.
    """
    if flow.judge_error is not None and answer.score is None:
        raise ConfigError(
            f"judge_error={flow.judge_error:g} asks for an oracle judge, which exists in replay only; "
            "set judge_error to None to serve, or give every answer a score"
        )
    return answer.score


class Observations:
    """What the answers of one run have revealed, as arrays in the order of the candidates.

    Parameters
    ----------
    model : AnswerModel
        Aligned with the candidates.
    estimates : Estimates
        What was expected of them.
    features : callable or None
        More features of an answer.
    """

    def __init__(
        self, model: AnswerModel, estimates: Estimates, features: Callable[[Answer], Sequence[float]] | None
    ) -> None:
        m = len(estimates.models)
        self.model = model
        self.called = np.zeros(m, dtype=bool)
        self.accepted = np.zeros(m, dtype=bool)
        self.scores = np.full(m, np.nan)
        self.revealed = np.full((1, m, model.evidence_mean.shape[1]), np.nan)
        self._estimates = estimates
        self._features = features

    def add(self, position: int, answer: Answer, *, score: float | None) -> None:
        """Take in the answer of the candidate at `position`.

        Raises
        ------
        ConfigError
            If the hook gives another number of features than in training.
        """
        self.called[position] = True
        if score is not None:
            self.scores[position], self.accepted[position] = score, score >= 0.5
        found = self._reveal(position, answer)
        if len(found) != self.revealed.shape[2]:
            raise ConfigError(
                f"an answer of {answer.model!r} has {len(found)} features and the flow was trained on "
                f"{', '.join(self.model.features)}; pass the `features` it was trained with"
            )
        self.revealed[0, position] = found

    def _reveal(self, position: int, answer: Answer) -> list[float]:
        expected = self._estimates
        pairs = [(answer.cost_usd, expected.cost_usd[position])]
        if "tokens" in self.model.features:
            pairs.append((answer.output_tokens, expected.output_tokens[position]))
        ratios = [
            float(revealed_features(np.array([[actual]]), np.array([[float(wanted)]]))[0, 0, 0])
            for actual, wanted in pairs
        ]
        return ratios + ([] if self._features is None else [float(value) for value in self._features(answer)])
