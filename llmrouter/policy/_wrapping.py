"""Policies around a policy: the base values the candidates, the wrapper adjusts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

from llmrouter.exceptions import ConfigError
from llmrouter.policy._base import BasePolicy
from llmrouter.policy._config import policy_from_config
from llmrouter.policy._facts import TrainingFacts
from llmrouter.policy._ranking import Appraisal, View
from llmrouter.types import Decision, Outcome


class WrappingPolicy(BasePolicy):
    """Base of policies that adjust another: binding, counting and observing reach both.

    Parameters
    ----------
    base : mapping or BasePolicy, optional
        The policy below, as configuration or ready; None is the utility policy as configured by default.

    Raises
    ------
    ConfigError
        If the base does not exist, refuses its parameters, or is not built on `BasePolicy`.
    """

    def __init__(self, base: Mapping[str, Any] | BasePolicy | None = None) -> None:
        if base is None or isinstance(base, Mapping):
            try:
                made = policy_from_config(base or {})
            except ConfigError as error:
                raise ConfigError(str(error), path="base") from error
        else:
            made = base
        if not isinstance(made, BasePolicy):
            raise ConfigError(
                f"base must be a mapping like {{kind: utility}}, or a policy built on llmrouter.policy.BasePolicy; "
                f"got {base!r}"
            )
        self.base = made
        self.locks = made.locks

    def bind(self, facts: TrainingFacts, /) -> Self:
        """Return the policy around the bound base."""
        return self._with(base=self.base.bind(facts))

    def current_cost_weight(self) -> float:
        """Return the base's weight."""
        return self.base.current_cost_weight()

    def record(self, view: View, decision: Decision, /) -> None:
        """Let the base count the decision."""
        self.base.record(view, decision)

    def observe(self, outcome: Outcome, /) -> None:
        """Let the base take in the outcome."""
        self.base.observe(outcome)

    def _around(self, base: str) -> str:
        """Return the name of this policy around a base of that name."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """Name with settings."""
        return self._around(self.base.name)

    def _renamed(
        self, appraisal: Appraisal, *, ruled_out: Mapping[int, str] | None = None, **changes: Any
    ) -> Appraisal:
        """Return the base's appraisal under this policy's name, with more ruled out."""
        merged = {**appraisal.ruled_out, **(ruled_out or {})}
        return replace(appraisal, policy=self._around(appraisal.policy), ruled_out=merged, **changes)
