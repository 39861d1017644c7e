"""Settings of exploration, and the policy that they make of the configured one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat

from llmrouter.exceptions import ConfigError
from service.section import Section

if TYPE_CHECKING:
    from llmrouter.policy import ExplorePolicy, Policy


class ExploreSettings(Section):
    """Let chance try another model in a share of the requests, with known probabilities; around whatever `policy` is.

    Attributes
    ----------
    method : {"epsilon", "thompson", "uncertainty"}
        ``epsilon`` tries any other model, ``thompson`` each with the probability that it is the best one,
        ``uncertainty`` in proportion to what is expected to be lost by not knowing better.
    share : float
        Share of the requests that may be decided by chance, at most 0.5.
    usd_per_day : float or None
        What exploring may cost a UTC day: the expected cost of the models tried beyond that of those the policy would
        have chosen. When it is spent nothing is explored. Never exceeded by all replicas together where there is a
        section `redis`; else each worker has its part of it, less its part of what the day's outcomes in the log have
        cost (nothing is explored before these are read).
    max_extra_usd : float or None
        A model expected to cost that much more for the request is not tried.
    max_gap : float or None
        A model that far below the chosen one, in units of quality less weighted cost, is not tried.
    min_propensity : float
        The least probability of a model that may be tried, where `method` is not ``epsilon``.
    seed : int
        With a request's id it decides what is tried.
    """

    method: Literal["epsilon", "thompson", "uncertainty"] = "epsilon"
    share: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    usd_per_day: NonNegativeFloat | None = None
    max_extra_usd: NonNegativeFloat | None = None
    max_gap: NonNegativeFloat | None = None
    min_propensity: Annotated[float, Field(ge=0, le=0.1)] = 0.002
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    def around(self, policy: Policy, *, workers: int = 1) -> ExplorePolicy:
        """Return the policy that explores around another.

        Parameters
        ----------
        policy : Policy
            As configured.
        workers : int
            Processes that the dollars are divided among.

        Raises
        ------
        ConfigError
            If the policy is none that can be explored around.
        """
        from llmrouter.policy import BasePolicy, ExplorePolicy

        if not isinstance(policy, BasePolicy):
            raise ConfigError(
                f"learning.explore works around policies built on llmrouter.policy.BasePolicy; {policy.name!r} is not: "
                "leave the section out, or build the policy on it"
            )
        given: dict[str, Any] = self.model_dump()
        if self.usd_per_day is not None:
            given["usd_per_day"] = self.usd_per_day / workers
        return ExplorePolicy(policy, **given)
