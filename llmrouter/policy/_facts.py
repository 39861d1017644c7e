"""What training knows that a policy may need: plain facts, and held-out estimates beside what happened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from llmrouter.exceptions import DataError
from llmrouter.types import FloatArray, ModelCard


@dataclass(frozen=True)
class Calibration:
    """Held-out (cross-fitted) estimates beside what happened, on n training prompts and m models.

    Attributes
    ----------
    models : tuple of str, length m
        Columns.
    embeddings : array of shape (n, d)
        What the router read.
    expected_quality, expected_std, expected_cost_usd : array of shape (n, m)
        Estimates for each prompt by routers that were not fitted on it: quality in [0, 1], its standard error, the
        cost of a call in US dollars.
    quality, cost_usd : array of shape (n, m)
        Observed; NaN where a model was not run on a prompt.
    tasks : tuple of str or None, length n
        Task labels.

    Raises
    ------
    DataError
        If the shapes do not fit each other, an estimate is not finite, or an observed quality is outside [0, 1].
    """

    models: tuple[str, ...]
    embeddings: FloatArray
    expected_quality: FloatArray
    expected_std: FloatArray
    expected_cost_usd: FloatArray
    quality: FloatArray
    cost_usd: FloatArray
    tasks: tuple[str | None, ...]

    def __post_init__(self) -> None:
        shape = (len(self.tasks), len(self.models))
        for name in ("expected_quality", "expected_std", "expected_cost_usd", "quality", "cost_usd"):
            found = getattr(self, name).shape
            if found != shape:
                raise DataError(f"calibration: {name} has the shape {found}; prompts x models is {shape}")
        if self.embeddings.ndim != 2 or self.embeddings.shape[0] != shape[0]:
            raise DataError(f"calibration: embeddings have the shape {self.embeddings.shape}; expected ({shape[0]}, d)")
        for name in ("expected_quality", "expected_cost_usd"):
            if not np.isfinite(getattr(self, name)).all():
                raise DataError(f"calibration: {name} holds NaN or infinite values; estimate every cell")
        seen = self.quality[~np.isnan(self.quality)]
        if seen.size and (seen.min() < 0 or seen.max() > 1):
            raise DataError(f"calibration: quality runs from {seen.min():g} to {seen.max():g}; scale it to [0, 1]")

    def __len__(self) -> int:
        return len(self.tasks)

    def paid_usd(self) -> FloatArray:
        """Return the observed costs, shape (n, m), with the expected ones where nothing was observed."""
        filled: FloatArray = np.where(np.isnan(self.cost_usd), self.expected_cost_usd, self.cost_usd)
        return filled


@dataclass(frozen=True)
class TrainingFacts:
    """What a policy may know of the training.

    Attributes
    ----------
    models : tuple of str
        The models that were trained on.
    reference_cost_usd : float
        The dearest model's mean cost: the unit of a cost weight.
    best_single : str
        The model with the highest mean quality.
    mean_quality, mean_cost_usd : mapping of str to float
        Training means by model.
    calibration : Calibration or None
        Held-out estimates, where training kept them.
    cards : tuple of ModelCard
        The pool that is served; empty where there is none (offline). Speeds and energies are read from it.
    mean_output_tokens : mapping of str to float
        Mean completion tokens by model, where known.
    guard : float or None
        The guard that training chose for these routers by cross-validation (see `UtilityPolicy`); None for none.
    """

    models: tuple[str, ...]
    reference_cost_usd: float
    best_single: str
    mean_quality: Mapping[str, float]
    mean_cost_usd: Mapping[str, float]
    calibration: Calibration | None = None
    cards: tuple[ModelCard, ...] = ()
    mean_output_tokens: Mapping[str, float] = field(default_factory=dict)
    guard: float | None = None

    def best_at(self, cost_weight: float) -> str:
        """Return the model with the highest ``mean quality - cost_weight * mean cost / reference``.

        Ties go to the cheaper. At weight 0 that is `best_single`, unless several models share the highest mean.

        Raises
        ------
        DataError
            If no model has both means.
        """

        def utility(model: str) -> float:
            return self.mean_quality[model] - cost_weight * self.mean_cost_usd[model] / self.reference_cost_usd

        known = [
            model
            for model in self.models
            if np.isfinite(self.mean_quality.get(model, np.nan)) and np.isfinite(self.mean_cost_usd.get(model, np.nan))
        ]
        if not known:
            raise DataError("the training facts hold no model with both a mean quality and a mean cost; train again")
        return min(known, key=lambda model: (-round(utility(model), 12), self.mean_cost_usd[model], model))
