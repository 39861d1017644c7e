"""The subset policy: train once, then serve the best few models within cost, latency and energy budgets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from llmrouter.exceptions import ConfigError
from llmrouter.policy._base import BasePolicy
from llmrouter.policy._checks import require, require_count
from llmrouter.policy._facts import Calibration, TrainingFacts
from llmrouter.policy._learn_then_test import calibration_of
from llmrouter.policy._ranking import Appraisal, View
from llmrouter.policy._speeds import FALLBACK_OUTPUT_TOKENS
from llmrouter.policy._subset_search import Limits, SubsetChoice, search
from llmrouter.policy._wrapping import WrappingPolicy
from llmrouter.types import FloatArray, ModelCard


class SubsetPolicy(WrappingPolicy):
    """Mask the pool to its best subset; the estimates are used as they are.

    MoE^2 (arXiv 2501.09410): a gate trained on all experts stays optimal on a subset once it is masked, so the subset
    can be searched after training, by discrete monotonic optimisation. Here the gate is the base policy's utility on
    the calibration: taken is the subset with the highest mean of the best expected utility among those whose choices
    keep to the budgets there. Up to `exact_limit` models branch and bound (adding a model never lowers that mean)
    finds the best; beyond, models are added greedily, and `subset.exact` says so. A model outside the calibration is
    never in the subset. A request that no model of the subset can take goes to the others, with a warning.

    Parameters
    ----------
    max_models : int, optional
        Size limit.
    usd_per_1k : float, optional
        Budget for the mean cost, US dollars per 1,000 requests.
    latency_s : float, optional
        Budget for the mean latency, seconds; needs `ModelCard.speed` of every model.
    energy_j : float, optional
        Budget for the mean energy, joules a request; needs `ModelCard.energy_j_per_token` of every model.
    base : mapping or Policy, optional
        The policy that chooses within the subset; by default the utility policy.
    exact_limit : int
        Largest number of models that is searched exactly.
    """

    def __init__(
        self,
        max_models: int | None = None,
        *,
        usd_per_1k: float | None = None,
        latency_s: float | None = None,
        energy_j: float | None = None,
        base: Mapping[str, Any] | BasePolicy | None = None,
        exact_limit: int = 16,
    ) -> None:
        super().__init__(base)
        self.max_models = None if max_models is None else require_count("max_models", max_models)
        self.usd_per_1k = None if usd_per_1k is None else require("usd_per_1k", usd_per_1k, above=0)
        self.latency_s = None if latency_s is None else require("latency_s", latency_s, above=0)
        self.energy_j = None if energy_j is None else require("energy_j", energy_j, above=0)
        self.exact_limit = require_count("exact_limit", exact_limit, least=0)
        self._choice: SubsetChoice | None = None
        self._members: frozenset[str] = frozenset()

    @property
    def subset(self) -> SubsetChoice:
        """The chosen subset, and what its choices come to on the calibration.

        Raises
        ------
        ConfigError
            If the policy was bound to no artifact.
        """
        if self._choice is None:
            raise ConfigError(
                "subset is searched on the held-out estimates of an artifact, and was bound to none; load it with an "
                "artifact or call bind(facts)"
            )
        return self._choice

    def bind(self, facts: TrainingFacts, /) -> Self:
        """Return the policy with its subset searched on an artifact's calibration.

        Where the facts hold the cards of a pool, only its models are considered.

        Raises
        ------
        ConfigError
            If there is no calibration, a card lacks the speed or energy that a budget is on, or no subset keeps to the
            budgets.
        """
        calibration = calibration_of(facts, "subset")
        cards = {card.name: card for card in facts.cards}
        columns = [j for j, model in enumerate(calibration.models) if not cards or model in cards]
        if not columns:
            raise ConfigError("subset: the artifact knows none of the pool's models; train it on their outcomes")
        base = self.base.bind(facts)
        weight = base.current_cost_weight()
        utility = calibration.expected_quality - weight * calibration.expected_cost_usd / facts.reference_cost_usd
        choice = search(
            tuple(calibration.models[j] for j in columns),
            utility[:, columns],
            quality=calibration.quality[:, columns],
            cost_usd=calibration.paid_usd()[:, columns],
            latency_s=self._per_model(facts, calibration, cards, "latency_s")[columns],
            energy_j=self._per_model(facts, calibration, cards, "energy_j")[columns],
            limits=Limits(
                models=self.max_models,
                cost_usd=None if self.usd_per_1k is None else self.usd_per_1k / 1000,
                latency_s=self.latency_s,
                energy_j=self.energy_j,
            ),
            exact=len(columns) <= self.exact_limit,
        )
        return self._with(base=base, _choice=choice, _members=frozenset(choice.models))

    def appraise(self, view: View, /) -> Appraisal:
        """Let the base value the subset."""
        members = self._members or frozenset(self.subset.models)
        outside = {i: "not in the chosen subset of the pool" for i in view.eligible if view.name(i) not in members}
        if len(outside) < len(view.eligible):
            return self._renamed(self.base.appraise(view.without(outside)), ruled_out=outside)
        base = self.base.appraise(view)
        return self._renamed(
            base, warnings=(*base.warnings, "no model of the chosen subset can take this request: another answers")
        )

    def _around(self, base: str) -> str:
        size = "" if self._choice is None else f"{len(self._members)};"
        return f"subset({size}{base})"

    def _per_model(
        self, facts: TrainingFacts, calibration: Calibration, cards: Mapping[str, ModelCard], field: str
    ) -> FloatArray:
        """Return latency or energy of a request by column; NaN where there is no budget on it."""
        if getattr(self, field) is None:
            return np.full(len(calibration.models), np.nan)
        values = []
        for model in calibration.models:
            card = cards.get(model)
            if card is None:
                if not cards:
                    raise ConfigError(f"subset: a budget on {field} needs the cards of the pool; load it with a pool")
                values.append(np.nan)
                continue
            tokens = facts.mean_output_tokens.get(model, FALLBACK_OUTPUT_TOKENS)
            if field == "latency_s":
                if card.speed is None:
                    raise ConfigError(
                        f"subset: a budget on latency_s needs the speed of {model!r}; write "
                        "speed: {time_to_first_token_s: .., tokens_per_s: ..} into its pool entry"
                    )
                values.append(card.speed.total_s(tokens))
            else:
                if card.energy_j_per_token is None:
                    raise ConfigError(f"subset: a budget on energy_j needs energy_j_per_token of {model!r} in its card")
                values.append(card.energy_j_per_token * tokens)
        return np.array(values)
