"""The routing engine: the one place where encoder, routers, policy and pool meet."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from llmrouter._completion import DECIMALS, PoolArrays
from llmrouter._trained import TrainedRouters, check_trained
from llmrouter.encoders import Encoder
from llmrouter.exceptions import ConfigError, LLMRouterError
from llmrouter.index import Neighbors
from llmrouter.policy import Policy, PoolCandidates
from llmrouter.routers import BaseRouter, NeighbourRouter
from llmrouter.types import (
    Decision,
    Estimates,
    FloatArray,
    ModelCard,
    Neighbour,
    RoutingRequest,
)

__all__ = ["Correction", "RoutingEngine", "TrainedRouters", "check_trained"]

logger = logging.getLogger(__name__)


class Correction(Protocol):
    """What was learned of the pool since the training, on top of the routers; immutable."""

    def correct(self, X: FloatArray, quality: FloatArray, std: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return quality and standard error of the pool's c models, each (n, c), for prompts X (n, d).

        Each row as it would come out alone, up to rounding; quality stays in [0, 1].
        """
        ...


@dataclass(slots=True)
class _Present:
    """By what is decided at present: replaced as a whole, so that a batch that has taken it up ends with it."""

    state: tuple[PoolArrays, PoolCandidates]


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
        self._pool = PoolArrays.of(self.cards, trained)
        # Shared with what `adapted` returns: what is learned of the prompts says nothing of the prices.
        self._candidates = PoolCandidates(self.cards, token_ratio=trained.token_ratio)
        self._present = _Present((self._pool, self._candidates))
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

    def at_present(self, cards: Mapping[str, ModelCard]) -> None:
        """Decide by other prices and speeds from the next batch on, here and in every engine `adapted` from this one.

        Takes microseconds; thread-safe.

        Parameters
        ----------
        cards : mapping of str to ModelCard
            Pool name -> card of the moment. Models that are left out are as configured.

        Raises
        ------
        ConfigError
            If the pool has no such model.
        """
        unknown = cards.keys() - {card.name for card in self.cards}
        if unknown:
            raise ConfigError(f"the pool has no model {', '.join(sorted(unknown))}; its models cannot change")
        present = tuple(cards.get(card.name, card) for card in self.cards)
        candidates = PoolCandidates(present, token_ratio=self.trained.token_ratio)
        self._present.state = (self._pool.at_prices(present), candidates) if cards else (self._pool, self._candidates)

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
        pool, candidates = self._present.state
        estimates, found = self._estimate(embeddings, tokens, pool, least=neighbours)
        return [
            self._decide(request, candidates, estimates[row], self._named(found, row, neighbours))
            for row, request in enumerate(requests)
        ]

    def _decide(
        self,
        request: RoutingRequest,
        candidates: PoolCandidates,
        estimates: Estimates,
        neighbours: tuple[Neighbour, ...],
    ) -> Decision | LLMRouterError:
        try:
            decision = self.policy.choose(request, candidates.of(request), estimates)
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
            route=request.route,
        )

    def estimate(self, texts: Sequence[str], prompt_tokens: Sequence[int]) -> list[Estimates]:
        """Return the estimates for each text, in one batch; the same as one by one, at the configured prices."""
        return self._estimate(self.encoder.encode(texts), prompt_tokens, self._pool)[0]

    def estimate_embedded(self, X: FloatArray, prompt_tokens: Sequence[int]) -> list[Estimates]:
        """Return the estimates for each embedding, a row of X (n, d), at the configured prices."""
        return self._estimate(X, prompt_tokens, self._pool)[0]

    def _estimate(
        self, X: FloatArray, prompt_tokens: Sequence[int], pool: PoolArrays, *, least: int = 0
    ) -> tuple[list[Estimates], Neighbors | None]:
        quality, std, cost, found = self._predict(X, least)
        quality, std, dollars, tokens = pool.complete(quality, std, cost, prompt_tokens)
        if self.correction is not None:
            quality, std = self.correction.correct(X, quality, std)
            quality, std = quality.round(DECIMALS), std.round(DECIMALS)
        models = pool.names
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
