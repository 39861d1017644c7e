"""What training hands to the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmrouter.exceptions import ConfigError, DataError
from llmrouter.index import VectorIndex
from llmrouter.policy import Calibration, TrainingFacts
from llmrouter.routers import Router
from llmrouter.types import ModelCard


@dataclass(frozen=True)
class TrainedRouters:
    """What training produced: two fitted routers and what is needed to read them.

    Attributes
    ----------
    models : tuple of str, length m
        Columns of both routers.
    quality : Router
        Predicts quality.
    cost : Router
        Predicts output tokens or, where `cost_unit` is ``usd``, the cost of the call.
    cost_unit : str
        ``output_tokens`` or ``usd``.
    reference_cost_usd : float
        The dearest model's mean cost on the training data.
    token_ratio : mapping of str to float
        Real prompt tokens per estimated token, by model.
    mean_quality, mean_output_tokens : mapping of str to float
        Training means by model, for priors.
    router_name, cost_router_name : str
        Registry names of the two algorithms.
    prompt_ids : tuple of str
        Training prompts, in the order of the index ids.
    best_single : str
        The model with the highest mean quality on the training prompts.
    mean_cost_usd : mapping of str to float
        Training means by model.
    guard : float or None
        Of the utility policy, chosen with the routers by cross-validation.
    calibration : Calibration or None
        Held-out estimates of training prompts, for policies that promise something.
    index : VectorIndex or None
        Training embeddings, to show a decision's neighbours where the quality router has no index of its own.
    training : mapping
        What the artifact remembers of the training, e.g. which part of the log it was made from.
    """

    models: tuple[str, ...]
    quality: Router
    cost: Router
    cost_unit: str
    reference_cost_usd: float
    router_name: str
    cost_router_name: str
    best_single: str
    token_ratio: Mapping[str, float] = field(default_factory=dict)
    mean_quality: Mapping[str, float] = field(default_factory=dict)
    mean_output_tokens: Mapping[str, float] = field(default_factory=dict)
    prompt_ids: tuple[str, ...] = ()
    mean_cost_usd: Mapping[str, float] = field(default_factory=dict)
    guard: float | None = None
    calibration: Calibration | None = None
    index: VectorIndex | None = None
    training: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.cost_unit not in ("output_tokens", "usd"):
            raise ConfigError(f"cost_unit must be 'output_tokens' or 'usd'; got {self.cost_unit!r}")

    def facts(self, cards: Sequence[ModelCard] = ()) -> TrainingFacts:
        """Return what a policy may know of the training, for a pool."""
        return TrainingFacts(
            models=self.models,
            reference_cost_usd=self.reference_cost_usd,
            best_single=self.best_single,
            mean_quality=self.mean_quality,
            mean_cost_usd=self.mean_cost_usd,
            calibration=self.calibration,
            cards=tuple(cards),
            mean_output_tokens=self.mean_output_tokens,
            guard=self.guard,
        )


def check_trained(trained: TrainedRouters) -> None:
    """Raise DataError unless both routers have one column per model."""
    for label, router in (("quality", trained.quality), ("cost", trained.cost)):
        columns = getattr(router, "n_models_", None)
        if columns != len(trained.models):
            raise DataError(f"the {label} router has {columns} columns for {len(trained.models)} models")
