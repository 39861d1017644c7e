"""The routing engine: the one place where encoder, routers, policy and pool meet."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from llmrouter.encoders import Encoder
from llmrouter.exceptions import ConfigError, DataError
from llmrouter.index import Neighbors
from llmrouter.policy import Policy, candidates_for
from llmrouter.routers import KNNRouter, Router
from llmrouter.types import Decision, Estimates, FloatArray, ModelCard, Neighbour, RoutingRequest

logger = logging.getLogger(__name__)

PRIOR_STD = 0.25
"""Standard error given to a model that the artifact does not know: half the width of [0, 1], halved again."""
PRIOR_OUTPUT_TOKENS = 256.0
"""Completion tokens expected of a model where nothing at all is known."""


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

    def __post_init__(self) -> None:
        if self.cost_unit not in ("output_tokens", "usd"):
            raise ConfigError(f"cost_unit must be 'output_tokens' or 'usd'; got {self.cost_unit!r}")


class RoutingEngine:
    """Route requests: text to embedding to estimates to decision.

    Parameters
    ----------
    cards : sequence of ModelCard
        The pool; may differ from the models the routers know. A card they do not know gets a prior with a wide error
        and a warning; a known model without a card is ignored.
    encoder : Encoder
        The one the routers were trained with.
    trained : TrainedRouters
        Fitted routers.
    policy : Policy
        Chooses.
    artifact_id : str
        Reported with every decision.
    """

    def __init__(
        self,
        cards: Sequence[ModelCard],
        encoder: Encoder,
        *,
        trained: TrainedRouters,
        policy: Policy,
        artifact_id: str = "",
    ) -> None:
        if not cards:
            raise ConfigError("the pool is empty; a routing engine needs at least one model")
        names = [card.name for card in cards]
        if len(set(names)) != len(names):
            raise ConfigError(f"pool names must be unique; got {', '.join(names)}")
        self.cards = tuple(cards)
        self.encoder = encoder
        self.trained = trained
        self.policy = policy
        self.artifact_id = artifact_id
        self._columns = [trained.models.index(name) if name in trained.models else None for name in names]
        self.warnings = self._pool_warnings()
        for warning in self.warnings:
            logger.warning(warning)

    @property
    def router_name(self) -> str:
        """Registry name of the algorithm."""
        return self.trained.router_name

    def with_policy(self, policy: Policy) -> RoutingEngine:
        """Return the same engine under another policy."""
        return RoutingEngine(
            self.cards, self.encoder, trained=self.trained, policy=policy, artifact_id=self.artifact_id
        )

    def route(self, request: RoutingRequest, *, neighbours: int = 0) -> Decision:
        """Decide which model answers.

        Parameters
        ----------
        request : RoutingRequest
            What is asked.
        neighbours : int
            Attach that many of the nearest training prompts, where the router has an index.

        Raises
        ------
        NoEligibleModelError
            If no model of the pool can take the request.
        UnknownModelError
            If the request allows only models that the pool lacks.
        """
        candidates = candidates_for(request, self.cards, token_ratio=self.trained.token_ratio)
        embedding = self.encoder.encode([request.text])
        estimates, found = self._estimate(embedding, [request.prompt_tokens], least=neighbours)
        decision = self.policy.choose(request, candidates, estimates[0])
        return replace(
            decision,
            router=self.router_name,
            artifact_id=self.artifact_id,
            warnings=self.warnings,
            neighbours=self._named(found, neighbours),
        )

    def estimate(self, texts: Sequence[str], prompt_tokens: Sequence[int]) -> list[Estimates]:
        """Return the estimates for each text, in one batch; the same as one by one."""
        return self._estimate(self.encoder.encode(texts), prompt_tokens)[0]

    def _estimate(
        self, X: FloatArray, prompt_tokens: Sequence[int], *, least: int = 0
    ) -> tuple[list[Estimates], Neighbors | None]:
        quality, std, cost, found = self._predict(X, least)
        columns = self._columns
        known = np.asarray([j for j in columns if j is not None], dtype=np.int64)
        estimates = []
        for row, estimated_tokens in enumerate(prompt_tokens):
            fallback = float(np.nanmean(quality[row, known])) if known.size else math.nan
            lines = [
                self._line(card, j, quality[row], std[row], cost[row], estimated_tokens, fallback)
                for card, j in zip(self.cards, columns, strict=True)
            ]
            table = np.asarray(lines, dtype=np.float64)
            estimates.append(
                Estimates(
                    models=tuple(card.name for card in self.cards),
                    quality=table[:, 0],
                    quality_std=table[:, 1],
                    cost_usd=table[:, 2],
                    output_tokens=table[:, 3],
                )
            )
        return estimates, found

    def _predict(self, X: FloatArray, least: int) -> tuple[FloatArray, FloatArray, FloatArray, Neighbors | None]:
        quality, cost = self.trained.quality, self.trained.cost
        if isinstance(quality, KNNRouter):
            shared = isinstance(cost, KNNRouter) and cost.index_ is quality.index_
            k = max(quality.k, least, cost.k if shared and isinstance(cost, KNNRouter) else 0)
            found = quality.index_.search(X, k)
            mean, std = quality.predict_from(found)
            expected = cost.predict_from(found)[0] if shared and isinstance(cost, KNNRouter) else cost.predict(X)
            return mean, std, expected, found
        return quality.predict(X), quality.predict_std(X), cost.predict(X), None

    def _line(
        self,
        card: ModelCard,
        column: int | None,
        quality: FloatArray,
        std: FloatArray,
        cost: FloatArray,
        estimated_tokens: int,
        fallback: float,
    ) -> tuple[float, float, float, float]:
        input_tokens = estimated_tokens * self.trained.token_ratio.get(card.name, 1.0)
        expected_quality = math.nan if column is None else float(quality[column])
        if column is None or math.isnan(expected_quality):
            prior = card.prior_quality if card.prior_quality is not None else fallback
            expected_quality = 0.5 if math.isnan(prior) else prior
            error, expected_cost = PRIOR_STD, math.nan
        else:
            error, expected_cost = float(std[column]), float(cost[column])
        if self.trained.cost_unit == "usd" and not math.isnan(expected_cost):
            return expected_quality, error, max(expected_cost, 0.0), math.nan
        tokens = expected_cost if self.trained.cost_unit == "output_tokens" else math.nan
        if math.isnan(tokens):
            tokens = self._prior_output_tokens()
        tokens = max(tokens, 0.0)
        return expected_quality, error, card.price.cost_usd(input_tokens, tokens), tokens

    def _prior_output_tokens(self) -> float:
        known = list(self.trained.mean_output_tokens.values())
        return sum(known) / len(known) if known else PRIOR_OUTPUT_TOKENS

    def _named(self, found: Neighbors | None, count: int) -> tuple[Neighbour, ...]:
        if found is None or count <= 0 or not self.trained.prompt_ids:
            return ()
        pairs = zip(found.ids[0, :count].tolist(), found.similarities[0, :count].tolist(), strict=True)
        return tuple(Neighbour(self.trained.prompt_ids[i], similarity) for i, similarity in pairs)

    def _pool_warnings(self) -> tuple[str, ...]:
        unknown = [card.name for card, j in zip(self.cards, self._columns, strict=True) if j is None]
        return tuple(
            f"the artifact {self.artifact_id or '(none)'} does not know the pool model {name!r}: "
            "it gets a prior with a wide error until outcomes are logged and a router is trained"
            for name in unknown
        )


def check_trained(trained: TrainedRouters) -> None:
    """Raise DataError unless both routers have one column per model."""
    for label, router in (("quality", trained.quality), ("cost", trained.cost)):
        columns = getattr(router, "n_models_", None)
        if columns != len(trained.models):
            raise DataError(f"the {label} router has {columns} columns for {len(trained.models)} models")
