"""The routing engine: the one place where encoder, routers, policy and pool meet."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from llmrouter.encoders import Encoder
from llmrouter.exceptions import ConfigError, DataError, LLMRouterError
from llmrouter.index import Neighbors, VectorIndex
from llmrouter.policy import Calibration, Policy, TrainingFacts, candidates_for
from llmrouter.routers import BaseRouter, NeighbourRouter, Router
from llmrouter.types import (
    TOKENS_PER_PRICE_UNIT,
    Decision,
    Estimates,
    FloatArray,
    IntArray,
    ModelCard,
    Neighbour,
    RoutingRequest,
)

logger = logging.getLogger(__name__)

PRIOR_STD = 0.25
"""Standard error given to a model that the artifact does not know: half the width of [0, 1], halved again."""
PRIOR_OUTPUT_TOKENS = 256.0
"""Completion tokens expected of a model where nothing at all is known."""


_DECIMALS, _DOLLAR_DECIMALS = 9, 14


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


class Correction(Protocol):
    """What was learned of the pool since the training, on top of the routers; immutable."""

    def correct(self, X: FloatArray, quality: FloatArray, std: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return quality and standard error of the pool's c models, each (n, c), for prompts X (n, d).

        Each row as it would come out alone, up to rounding; quality stays in [0, 1].
        """
        ...


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
        Chooses; bound to what training knows (`Policy.bind`).
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
        self.policy = policy.bind(trained.facts(self.cards))
        self.artifact_id = artifact_id
        self.correction: Correction | None = None
        self._pool = _Pool.of(self.cards, trained)
        self.warnings = self._pool_warnings()
        for warning in self.warnings:
            logger.warning(warning)

    @property
    def router_name(self) -> str:
        """Registry name of the algorithm."""
        return self.trained.router_name

    def with_policy(self, policy: Policy) -> RoutingEngine:
        """Return the same engine under another policy."""
        engine = RoutingEngine(
            self.cards, self.encoder, trained=self.trained, policy=policy, artifact_id=self.artifact_id
        )
        engine.correction = self.correction
        return engine

    def adapted(self, *, correction: Correction | None = None, trained: TrainedRouters | None = None) -> RoutingEngine:
        """Return the same engine, its policy and what that counts included, with something learned since the training.

        This one stays as it is: what decides with it goes on undisturbed.

        Parameters
        ----------
        correction : Correction, optional
            Put on top of the routers' estimates; None leaves them as they are.
        trained : TrainedRouters, optional
            The same routers, having learned on; the same models in the same order.

        Raises
        ------
        ConfigError
            If `trained` has other models.
        """
        if trained is not None and trained.models != self.trained.models:
            raise ConfigError(f"an engine of {self.trained.models} cannot be adapted with routers of {trained.models}")
        engine = copy.copy(self)
        engine.correction = correction
        engine.trained = self.trained if trained is None else trained
        return engine

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
        (decided,) = self.route_many([request], neighbours=neighbours)
        if isinstance(decided, LLMRouterError):
            raise decided
        return decided

    def route_many(self, requests: Sequence[RoutingRequest], *, neighbours: int = 0) -> list[Decision | LLMRouterError]:
        """Decide for several requests at once; each gets what it would get alone.

        Parameters
        ----------
        requests : sequence of RoutingRequest
            What is asked, at least one.
        neighbours : int
            See `route`.

        Returns
        -------
        list of (Decision or LLMRouterError)
            In order; an error is that of its own request (see `route`), the others are decided.
        """
        try:
            embeddings = self.encoder.encode([request.text for request in requests])
        except LLMRouterError as error:
            if len(requests) == 1:
                return [error]
            # One text spoils the batch: find out which.
            return [self.route_many([request], neighbours=neighbours)[0] for request in requests]
        return self.route_embedded(requests, embeddings, neighbours=neighbours)

    def route_embedded(
        self, requests: Sequence[RoutingRequest], embeddings: FloatArray, *, neighbours: int = 0
    ) -> list[Decision | LLMRouterError]:
        """Decide for requests whose embeddings, rows of an array (n, d), are known; see `route_many`."""
        tokens = [request.prompt_tokens for request in requests]
        estimates, found = self._estimate(embeddings, tokens, least=neighbours)
        return [
            self._decide(request, estimates[row], self._named(found, row, neighbours))
            for row, request in enumerate(requests)
        ]

    def _decide(
        self, request: RoutingRequest, estimates: Estimates, neighbours: tuple[Neighbour, ...]
    ) -> Decision | LLMRouterError:
        try:
            candidates = candidates_for(request, self.cards, token_ratio=self.trained.token_ratio)
            decision = self.policy.choose(request, candidates, estimates)
        except LLMRouterError as error:
            return error
        return Decision(
            ranking=decision.ranking,
            propensity=decision.propensity,
            policy=decision.policy,
            router=self.router_name,
            artifact_id=self.artifact_id,
            warnings=decision.warnings + self.warnings,
            neighbours=neighbours,
            explored=decision.explored,
            embedding=estimates.embedding,
        )

    def estimate(self, texts: Sequence[str], prompt_tokens: Sequence[int]) -> list[Estimates]:
        """Return the estimates for each text, in one batch; the same as one by one."""
        return self._estimate(self.encoder.encode(texts), prompt_tokens)[0]

    def estimate_embedded(self, X: FloatArray, prompt_tokens: Sequence[int]) -> list[Estimates]:
        """Return the estimates for each embedding, a row of X (n, d)."""
        return self._estimate(X, prompt_tokens)[0]

    def _estimate(
        self, X: FloatArray, prompt_tokens: Sequence[int], *, least: int = 0
    ) -> tuple[list[Estimates], Neighbors | None]:
        quality, std, cost, found = self._predict(X, least)
        quality, std, dollars, tokens = self._pool.complete(quality, std, cost, prompt_tokens)
        if self.correction is not None:
            quality, std = self.correction.correct(X, quality, std)
            quality, std = quality.round(_DECIMALS), std.round(_DECIMALS)
        models = self._pool.names
        rows = zip(X, quality, std, dollars, tokens, strict=True)
        return [Estimates(models, q, error, usd, tokens, vector) for vector, q, error, usd, tokens in rows], found

    def _predict(self, X: FloatArray, least: int) -> tuple[FloatArray, FloatArray, FloatArray, Neighbors | None]:
        quality, cost = self.trained.quality, self.trained.cost
        if isinstance(quality, NeighbourRouter):
            shared = isinstance(cost, NeighbourRouter) and cost.index_ is quality.index_
            k = max(quality.k, least, cost.k if shared and isinstance(cost, NeighbourRouter) else 0)
            found = quality.index_.search(X, k)
            mean, std = quality.estimate_found(X, found)
            if shared and isinstance(cost, NeighbourRouter):
                return mean, std, cost.estimate_found(X, found)[0], found
            return mean, std, cost.predict(X), found
        mean, std = (
            quality.estimate(X) if isinstance(quality, BaseRouter) else (quality.predict(X), quality.predict_std(X))
        )
        shown = self.trained.index.search(X, least) if least > 0 and self.trained.index is not None else None
        return mean, std, cost.predict(X), shown

    def _named(self, found: Neighbors | None, row: int, count: int) -> tuple[Neighbour, ...]:
        if found is None or count <= 0 or not self.trained.prompt_ids:
            return ()
        pairs = zip(found.ids[row, :count].tolist(), found.similarities[row, :count].tolist(), strict=True)
        return tuple(Neighbour(self.trained.prompt_ids[i], similarity) for i, similarity in pairs)

    def _pool_warnings(self) -> tuple[str, ...]:
        unknown = [card.name for card in self.cards if card.name not in self.trained.models]
        return tuple(
            f"the artifact {self.artifact_id or '(none)'} does not know the pool model {name!r}: "
            "it gets a prior with a wide error until outcomes are logged and a router is trained"
            for name in unknown
        )


@dataclass(frozen=True)
class _Pool:
    """The cards as arrays, c of them, so that a decision completes its estimates without a loop."""

    names: tuple[str, ...]
    columns: IntArray
    known: npt.NDArray[np.bool_]
    ratio: FloatArray
    input_price: FloatArray
    output_price: FloatArray
    prior_quality: FloatArray
    prior_tokens: float
    in_dollars: bool
    input_rate: FloatArray
    same_columns: bool
    plain: bool

    @classmethod
    def of(cls, cards: Sequence[ModelCard], trained: TrainedRouters) -> _Pool:
        names = tuple(card.name for card in cards)
        known = np.array([name in trained.models for name in names])
        columns = [trained.models.index(name) if name in trained.models else 0 for name in names]
        tokens = list(trained.mean_output_tokens.values())
        in_dollars = trained.cost_unit == "usd"
        ratio = np.array([trained.token_ratio.get(name, 1.0) for name in names])
        input_price = np.array([card.price.input for card in cards]) / TOKENS_PER_PRICE_UNIT
        return cls(
            names=names,
            columns=np.array(columns, dtype=np.int64),
            known=known,
            ratio=ratio,
            input_price=input_price,
            output_price=np.array([card.price.output for card in cards]) / TOKENS_PER_PRICE_UNIT,
            prior_quality=np.array([np.nan if card.prior_quality is None else card.prior_quality for card in cards]),
            prior_tokens=sum(tokens) / len(tokens) if tokens else PRIOR_OUTPUT_TOKENS,
            in_dollars=in_dollars,
            input_rate=ratio * input_price,
            same_columns=names == tuple(trained.models),
            plain=bool(known.all()) and not in_dollars,
        )

    def complete(
        self, quality: FloatArray, std: FloatArray, cost: FloatArray, prompt_tokens: Sequence[int]
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Return quality, standard error, cost in US dollars and completion tokens of the pool, each (n, c).

        Takes what the routers expect of their own m models, each (n, m). A model that they do not know, or never
        observed, gets its card's prior, else the mean of the known ones.
        """
        if self.same_columns:
            expected, error, amount = quality, std, cost
        else:
            expected, error = quality.take(self.columns, axis=1), std.take(self.columns, axis=1)
            amount = cost.take(self.columns, axis=1)
        if self.plain and np.isfinite(
            expected.sum() + amount.sum()
        ):  # nothing is missing: the usual case, in few steps
            tokens = np.maximum(amount, 0.0)
            dollars = np.asarray(prompt_tokens, dtype=np.float64)[:, None] * self.input_rate
            dollars += tokens * self.output_price
            return expected.round(_DECIMALS), error.round(_DECIMALS), dollars.round(_DOLLAR_DECIMALS), tokens
        missing = np.isnan(expected) | ~self.known
        if missing.any():
            expected = np.where(missing, self._priors(expected, missing), expected)
            error = np.where(missing, PRIOR_STD, error)
            amount = np.where(missing, np.nan, amount)
        unknown = np.isnan(amount)
        tokens = np.full(amount.shape, self.prior_tokens) if self.in_dollars else amount
        if not self.in_dollars and unknown.any():
            tokens = np.where(unknown, self.prior_tokens, amount)
        tokens = np.maximum(tokens, 0.0)
        estimated = np.asarray(prompt_tokens, dtype=np.float64)[:, None]
        dollars = estimated * self.ratio * self.input_price + tokens * self.output_price
        if self.in_dollars:
            dollars = np.where(unknown, dollars, np.maximum(amount, 0.0))
            tokens = np.where(unknown, tokens, np.nan)
        # How a matrix product rounds its last bits depends on how many rows it has, and a decision must not depend on
        # which requests came at the same moment.
        return expected.round(_DECIMALS), error.round(_DECIMALS), dollars.round(_DOLLAR_DECIMALS), tokens

    def _priors(self, expected: FloatArray, missing: npt.NDArray[np.bool_]) -> FloatArray:
        count = (~missing).sum(axis=1, keepdims=True)
        mean = np.where(missing, 0.0, expected).sum(axis=1, keepdims=True) / np.maximum(count, 1)
        fallback = np.where(count > 0, mean, 0.5)
        return np.where(np.isnan(self.prior_quality), fallback, self.prior_quality)


def check_trained(trained: TrainedRouters) -> None:
    """Raise DataError unless both routers have one column per model."""
    for label, router in (("quality", trained.quality), ("cost", trained.cost)):
        columns = getattr(router, "n_models_", None)
        if columns != len(trained.models):
            raise DataError(f"the {label} router has {columns} columns for {len(trained.models)} models")
