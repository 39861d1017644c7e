"""The utility policy: quality minus weighted cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmrouter.exceptions import ConfigError, NoEligibleModelError
from llmrouter.types import Candidate, Decision, Estimates, FloatArray, Preference, RankedModel, RoutingRequest

_COST_DIGITS = 12


class UtilityPolicy:
    """Rank by ``quality - cost_weight * cost / reference_cost``, best first, ties to the cheaper.

    The reference cost gives the weight a unit: at weight 0.3 a model as dear as the dearest of the training data must
    be expected 0.3 better than a free one.

    Parameters
    ----------
    cost_weight : float
        Weight of cost, >= 0; 0 is quality alone. A request may set its own.
    reference_cost_usd : float
        The dearest model's mean cost on the training data, US dollars; frozen in the artifact's manifest.
    """

    def __init__(self, cost_weight: float = 0.3, *, reference_cost_usd: float = 1.0) -> None:
        if not (np.isfinite(cost_weight) and cost_weight >= 0):
            raise ConfigError(f"cost_weight must be a finite number >= 0; got {cost_weight!r}")
        if not (np.isfinite(reference_cost_usd) and reference_cost_usd > 0):
            raise ConfigError(f"reference_cost_usd must be a finite number > 0; got {reference_cost_usd!r}")
        self.cost_weight = cost_weight
        self.reference_cost_usd = reference_cost_usd

    @property
    def name(self) -> str:
        """Name with settings."""
        return f"utility({self.cost_weight:g})"

    def choose(self, request: RoutingRequest, candidates: Sequence[Candidate], estimates: Estimates, /) -> Decision:
        """Rank the candidates for one request.

        The request's own `cost_weight` goes before the policy's. With a `quality_floor` the cheapest model goes first
        among those whose expected quality is at least that share of the best eligible one's; the floor is applied to
        the expectations as they are, without a guarantee. `max_cost_usd` rules out what is expected to cost more.

        Raises
        ------
        NoEligibleModelError
            If nothing is eligible.
        """
        preference = request.preference
        reasons = _reasons(candidates, estimates, preference)
        eligible = [i for i, reason in enumerate(reasons) if not reason]
        if not eligible:
            raise NoEligibleModelError({c.name: reason for c, reason in zip(candidates, reasons, strict=True)})
        weight = self.cost_weight if preference.cost_weight is None else preference.cost_weight
        utility = estimates.quality - weight * estimates.cost_usd / self.reference_cost_usd
        order = sorted(eligible, key=lambda i: (-round(float(utility[i]), _COST_DIGITS), estimates.cost_usd[i], i))
        if preference.quality_floor is not None:
            order = _cheapest_above(preference.quality_floor, order, estimates)
        order += [i for i, reason in enumerate(reasons) if reason]
        ranking = tuple(
            RankedModel(
                model=candidates[i].name,
                expected_quality=float(estimates.quality[i]),
                standard_error=float(estimates.quality_std[i]),
                expected_cost_usd=float(estimates.cost_usd[i]),
                eligible=not reasons[i],
                reason=reasons[i],
            )
            for i in order
        )
        return Decision(ranking=ranking, propensity=1.0, policy=self._described(preference))

    def _described(self, preference: Preference) -> str:
        if preference.quality_floor is not None:
            return f"utility(floor={preference.quality_floor:g})"
        return self.name if preference.cost_weight is None else f"utility({preference.cost_weight:g})"


def _reasons(candidates: Sequence[Candidate], estimates: Estimates, preference: Preference) -> list[str]:
    limit = preference.max_cost_usd
    reasons = []
    for candidate, cost in zip(candidates, estimates.cost_usd, strict=True):
        if candidate.eligible and limit is not None and cost > limit:
            reasons.append(f"expected cost {cost:.6f} USD exceeds the limit of {limit:g} USD")
        else:
            reasons.append("" if candidate.eligible else candidate.reason or "not eligible")
    return reasons


def _cheapest_above(floor: float, order: list[int], estimates: Estimates) -> list[int]:
    quality: FloatArray = estimates.quality
    needed = floor * max(float(quality[i]) for i in order)
    above = sorted((i for i in order if quality[i] >= needed), key=lambda i: (estimates.cost_usd[i], -quality[i], i))
    return above + [i for i in order if quality[i] < needed]
