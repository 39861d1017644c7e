"""How good an answer is, given what is known after the call: the learned acceptance score of the flows.

Public outcome tables hold no responses, so what a call reveals is its cost and its completion tokens against what was
expected; a gateway can add features of the text (`features` of the flows). Each model has two logistic regressions, one
for when its own call was made and one for when it was not, trained with random sets of other calls revealed, so that
its quality can be predicted after any set of calls. Everything learned is arrays; prediction needs numpy only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llmrouter.exceptions import DataError
from llmrouter.flows._table import FlowTable
from llmrouter.types import FloatArray

# Estimates of exactly 0 or 1 have no log-odds; the routers' small samples do not speak of anything rarer.
_MARGIN = 0.005
# A factor of twenty in cost or tokens says all that a larger one could.
_LARGEST_LOG_RATIO = 3.0
_NAMES = ("models", "features")


def logit(probability: FloatArray) -> FloatArray:
    """Return the log-odds, of the nearest probability in [0.005, 0.995]."""
    clipped = np.clip(probability, _MARGIN, 1 - _MARGIN)
    return np.asarray(np.log(clipped / (1 - clipped)))


def sigmoid(log_odds: FloatArray) -> FloatArray:
    """Return the probability of log-odds."""
    return np.asarray(1 / (1 + np.exp(-np.clip(log_odds, -50, 50))))


def revealed_features(
    cost: FloatArray,
    expected_cost: FloatArray,
    *,
    tokens: FloatArray | None = None,
    expected_tokens: FloatArray | None = None,
    extra: FloatArray | None = None,
) -> FloatArray:
    """Return what calls reveal: log of cost (and tokens) over the expectation, then the hook's features.

    Parameters
    ----------
    cost, expected_cost : array of shape (n, m)
        Of each call; NaN where unknown.
    tokens, expected_tokens : array of shape (n, m), optional
        Completion tokens.
    extra : array of shape (n, m, f), optional
        Features of the answers.

    Returns
    -------
    array of shape (n, m, 1 to 2 + f)
        NaN where unknown.
    """
    columns = [_log_ratio(cost, expected_cost)[:, :, None]]
    if tokens is not None and expected_tokens is not None:
        columns.append(_log_ratio(tokens, expected_tokens)[:, :, None])
    if extra is not None:
        columns.append(np.asarray(extra, dtype=np.float64))
    return np.concatenate(columns, axis=2)


def revealed_by(table: FlowTable) -> FloatArray:
    """Return `revealed_features` of every answer of a table, shape (n, m, f)."""
    return revealed_features(
        table.cost,
        table.expected_cost,
        tokens=table.output_tokens,
        expected_tokens=table.expected_tokens,
        extra=table.extra,
    )


def feature_names(table: FlowTable) -> tuple[str, ...]:
    """Return the names of the features that the calls of a table reveal, in the order of `revealed_features`."""
    tokens = () if table.output_tokens is None else ("tokens",)
    extra = 0 if table.extra is None else table.extra.shape[2]
    return ("cost", *tokens, *(f"extra-{index}" for index in range(extra)))


def _log_ratio(actual: FloatArray, expected: FloatArray) -> FloatArray:
    known = (actual > 0) & (expected > 0)
    ratio = np.log(np.divide(actual, expected, out=np.ones(actual.shape), where=known))
    extreme = _LARGEST_LOG_RATIO * np.sign(actual - expected)
    return np.clip(np.where(known, ratio, extreme), -_LARGEST_LOG_RATIO, _LARGEST_LOG_RATIO)


@dataclass(frozen=True)
class AnswerModel:
    """Probability that each model's answer is good, after any set of calls.

    Attributes
    ----------
    models : tuple of str, length m
        Columns.
    features : tuple of str, length f
        What calls reveal: ``cost``, ``tokens`` where they were known in training, then the hook's ``extra-0`` and on.
    logit_mean, logit_scale : array of shape (m,)
        Standardise the log-odds of the router's expected qualities.
    std_mean, std_scale : array of shape (m,)
        Standardise the standard errors of those.
    evidence_mean, evidence_scale : array of shape (m, f)
        Standardise what each model's calls reveal.
    intercept : array of shape (2, m)
        Of each model's regressions: the first for a model that was not called, the second for one that was.
    logit_weights : array of shape (2, m, m)
        Regression x model predicted x model whose expected quality is read.
    std_weights : array of shape (2, m)
        Of the model's own standard error.
    evidence_weights : array of shape (2, m, m, f)
        Regression x model predicted x model called x feature.
    movement : array of shape (m,)
        By how much a call moves the log-odds of its own model: standard deviation on held-out prompts.
    """

    models: tuple[str, ...]
    features: tuple[str, ...]
    logit_mean: FloatArray
    logit_scale: FloatArray
    std_mean: FloatArray
    std_scale: FloatArray
    evidence_mean: FloatArray
    evidence_scale: FloatArray
    intercept: FloatArray
    logit_weights: FloatArray
    std_weights: FloatArray
    evidence_weights: FloatArray
    movement: FloatArray

    def evidence(self, revealed: FloatArray, called: npt.NDArray[np.bool_]) -> FloatArray:
        """Return by how much the calls move each model's log-odds, shape (n, m).

        Parameters
        ----------
        revealed : array of shape (n, m, f)
            See `revealed_features`; read where `called`.
        called : array of shape (n, m) or (m,), bool
            The calls made.
        """
        scaled = self.scaled_evidence(revealed, called)
        n, m, f = scaled.shape
        flat = scaled.reshape(n, m * f)
        without, with_own = (flat @ weights.reshape(m, m * f).T for weights in self.evidence_weights)
        return np.asarray(np.where(called, with_own, without))

    def scaled_evidence(self, revealed: FloatArray, called: npt.NDArray[np.bool_]) -> FloatArray:
        """Return standardised evidence (n, m, f): 0, the mean, where not called or unknown."""
        scaled = (revealed - self.evidence_mean) / self.evidence_scale
        seen = np.broadcast_to(called[..., None], scaled.shape) & np.isfinite(scaled)
        return np.where(seen, scaled, 0.0)

    def score(
        self,
        expected_quality: FloatArray,
        expected_std: FloatArray,
        *,
        revealed: FloatArray,
        called: npt.NDArray[np.bool_],
    ) -> FloatArray:
        """Return the probability that each model's answer is good, shape (n, m): the whole regression.

        It recalibrates the router's estimates of all models (n, m) and adds the evidence.
        """
        logits = np.nan_to_num((logit(expected_quality) - self.logit_mean) / self.logit_scale)
        spread = np.nan_to_num((expected_std - self.std_mean) / self.std_scale)
        without, with_own = (
            self.intercept[side] + logits @ self.logit_weights[side].T + spread * self.std_weights[side]
            for side in (0, 1)
        )
        return sigmoid(np.where(called, with_own, without) + self.evidence(revealed, called))

    def update(
        self, expected_quality: FloatArray, *, revealed: FloatArray, called: npt.NDArray[np.bool_]
    ) -> FloatArray:
        """Return the router's expected qualities (n, m) moved by the evidence alone.

        Where nothing was called, or calls reveal nothing, they come back as they are.
        """
        moved = self.evidence(revealed, called)
        return np.where(moved == 0, expected_quality, sigmoid(logit(expected_quality) + moved))

    def aligned(self, models: Sequence[str]) -> AnswerModel:
        """Return the model over other columns; one that was never fitted is predicted by its own estimate alone."""
        if tuple(models) == self.models:
            return self
        place = {name: index for index, name in enumerate(self.models)}
        source = np.array([place.get(name, -1) for name in models], dtype=np.int64)
        known = source >= 0

        def take(values: FloatArray, missing: float) -> FloatArray:
            shaped = known.reshape(-1, *(1,) * (values.ndim - 1))
            return np.where(shaped, values[source], missing)

        def take_both(values: FloatArray) -> FloatArray:
            return np.stack([take(side, 0.0) for side in values])

        def take_square(values: FloatArray) -> FloatArray:
            return np.stack([np.swapaxes(take(np.swapaxes(take(side, 0.0), 0, 1), 0.0), 0, 1) for side in values])

        own = np.diag((~known).astype(float))
        return AnswerModel(
            models=tuple(models),
            features=self.features,
            logit_mean=take(self.logit_mean, 0.0),
            logit_scale=take(self.logit_scale, 1.0),
            std_mean=take(self.std_mean, 0.0),
            std_scale=take(self.std_scale, 1.0),
            evidence_mean=take(self.evidence_mean, 0.0),
            evidence_scale=take(self.evidence_scale, 1.0),
            intercept=take_both(self.intercept),
            logit_weights=take_square(self.logit_weights) + own,
            std_weights=take_both(self.std_weights),
            evidence_weights=take_square(self.evidence_weights),
            movement=take(self.movement, 0.0),
        )

    def arrays(self) -> dict[str, FloatArray]:
        """Return all arrays by name, without the names of models and features."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in _NAMES}

    @classmethod
    def from_arrays(cls, models: Sequence[str], features: Sequence[str], arrays: Mapping[str, Any]) -> AnswerModel:
        """Rebuild the model from `arrays()`.

        Raises
        ------
        DataError
            If an array is missing.
        """
        names = [field.name for field in dataclasses.fields(cls) if field.name not in _NAMES]
        missing = [name for name in names if name not in arrays]
        if missing:
            raise DataError(f"the arrays of an answer model lack {', '.join(missing)}; train the flow again")
        found = {name: np.asarray(arrays[name], dtype=np.float64) for name in names}
        return cls(models=tuple(models), features=tuple(features), **found)


def own_evidence(model: AnswerModel, revealed: FloatArray) -> FloatArray:
    """Return by how much each model's call alone moves its own log-odds, shape (n, m)."""
    everything = np.ones(revealed.shape[1], dtype=bool)
    own = model.evidence_weights[1, np.arange(len(model.models)), np.arange(len(model.models))]
    return np.asarray((model.scaled_evidence(revealed, everything) * own).sum(axis=2))
