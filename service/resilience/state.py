"""What the gateway remembers of its models' failures and speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from llmrouter.exceptions import BackendStatusError, ConfigError
from llmrouter.pool import (
    Backend,
    BalancedBackend,
    Cooldowns,
    CooldownShare,
    Deployment,
    FailureClass,
    Hedger,
    RetryBudget,
    Walk,
)
from service.errors import APIError
from service.resilience.settings import DeploymentSettings, ResilienceSettings


class LocalLimitError(BackendStatusError):
    """A limit of ours on one model is used up: it was not called, and the next one may be.

    It counts as a rate limit, but neither against the model nor as an attempt that is to be paid for.
    """

    @classmethod
    def of(cls, error: APIError, *, model: str) -> LocalLimitError:
        """Return the failure of `model` that a refusal means; told to the client as it is if nothing else answers."""
        return cls(
            str(error), model=model, status=error.status, body=orjson.dumps(error.body), headers=dict(error.headers)
        )


class Resilience:
    """Cool-downs, retry budget and hedging of one gateway process.

    Parameters
    ----------
    settings : ResilienceSettings
        The section of the configuration.
    names : sequence of str
        The pool.
    clock : callable
        Seconds on a steady clock.

    Attributes
    ----------
    cooldowns : Cooldowns
        Of the models.
    deployment_cooldowns : Cooldowns
        Of the deployments of models that have several, under ``<model>/<deployment>``.
    retry_budget : RetryBudget
        How many attempts beyond the first there may be.
    hedger : Hedger or None
        When a second attempt is made beside a slow one; None where that is off.
    """

    def __init__(
        self, settings: ResilienceSettings, names: Sequence[str], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.settings = settings
        self.names = tuple(names)
        self._clock = clock
        breaker = settings.breaker.model_dump()
        self.cooldowns = Cooldowns(**breaker, clock=clock)
        self.deployment_cooldowns = Cooldowns(**breaker, clock=clock)
        self.retry_budget = RetryBudget(**settings.retry_budget.model_dump(), clock=clock)
        hedge = settings.hedge
        self.hedger = (
            Hedger(quantile=hedge.quantile, min_wait_s=hedge.min_wait_s, max_share=hedge.max_share)
            if hedge.enabled
            else None
        )
        self.hedges_replicas = hedge.models == "replica"
        self._fallback_on = frozenset(FailureClass(name) for name in settings.fallback_on)

    def share_with(self, share: CooldownShare) -> None:
        """Tell other replicas of every pause of a model from now on; what they tell goes to `cooldowns.apply`."""
        self.cooldowns.share = share

    def walk(self, models: Sequence[str], windows: Mapping[str, int | None]) -> Walk:
        """Return the way along a ranking, as configured."""
        settings = self.settings
        return Walk(
            models,
            windows=windows,
            cooling=self.cooldowns.cooling,
            max_attempts=settings.max_attempts,
            fallback_on=self._fallback_on,
            retries_same_model=settings.retries_same_model,
        )

    def balanced(self, name: str, deployments: Sequence[tuple[DeploymentSettings, Backend]]) -> BalancedBackend:
        """Return the backend of a model with several deployments.

        Parameters
        ----------
        name : str
            Pool name.
        deployments : sequence of (DeploymentSettings, Backend)
            Each with the backend that reaches it, in the order of the configuration.

        Raises
        ------
        ConfigError
            If two have the same name.
        """
        names = [settings.name or str(number) for number, (settings, _) in enumerate(deployments, start=1)]
        for name_of_one in names:
            if names.count(name_of_one) > 1:
                raise ConfigError(
                    f"two deployments are called {name_of_one!r}; give each a name of its own (without one it is "
                    "called by its place in the list)",
                    path=f"pool.{name}.deployments",
                )
        return BalancedBackend(
            name,
            [
                Deployment(name_of_one, backend, weight=settings.weight)
                for name_of_one, (settings, backend) in zip(names, deployments, strict=True)
            ],
            cooldowns=self.deployment_cooldowns,
            may_retry=self.retry_budget.take,
            clock=self._clock,
        )

    def breakers(self) -> dict[str, str]:
        """Return how the circuit of each model stands: ``closed``, ``open`` or ``half_open``."""
        return {name: self.cooldowns.state(name) for name in self.names}

    def cooling_s(self) -> dict[str, float]:
        """Return for how many seconds each model still cools down."""
        return {name: self.cooldowns.remaining_s(name) for name in self.names}

    def state(self) -> dict[str, Any]:
        """Return counters since the start: retries allowed and refused, hedges started, won and refused."""
        hedger = self.hedger
        return {
            "retries": self.retry_budget.taken,
            "retries_refused": self.retry_budget.refused,
            "hedges": hedger.started if hedger else 0,
            "hedges_won": hedger.won if hedger else 0,
            "hedges_refused": hedger.refused if hedger else 0,
        }

    async def aclose(self) -> None:
        """Do nothing: there is nothing to release."""
