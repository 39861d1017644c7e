"""The budget policy: dollars per 1,000 requests, spent where they buy most."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

from llmrouter.policy._base import BasePolicy
from llmrouter.policy._facts import TrainingFacts
from llmrouter.policy._pacing import Pacer
from llmrouter.policy._ranking import Appraisal, View
from llmrouter.policy._utility import floor_appraisal, utilities
from llmrouter.types import Decision, Outcome


class BudgetPolicy(BasePolicy):
    """Spend at most so many dollars per 1,000 requests, paced over the stream.

    The utility ranks at a cost weight that follows the spending, and an allowance is never exceeded in expected cost
    (see `Pacer`: the online knapsack of PILOT, arXiv 2508.21141, with a price learned from the spending in place of a
    threshold set by known bounds on the reward per dollar). Where not even the cheapest eligible model
    fits it is chosen all the same, with a warning. `observe` replaces expected by actual costs. A request's own
    `cost_weight` or `quality_floor` ranks in place of the price; the allowance holds for it, too.

    Parameters
    ----------
    usd_per_1k : float
        US dollars per 1,000 requests, > 0.
    burst_requests : int
        Requests' worth that may be spent ahead, >= 1.
    reference_cost_usd : float
        The unit of the cost weight; `bind` sets it.
    """

    def __init__(self, usd_per_1k: float = 2.0, *, burst_requests: int = 100, reference_cost_usd: float = 1.0) -> None:
        self.usd_per_1k = usd_per_1k
        self.reference_cost_usd = reference_cost_usd
        self.pacer = Pacer(usd_per_1k, burst_requests)
        self.locks = (self.pacer.lock,)

    @property
    def name(self) -> str:
        """Name with settings."""
        return f"budget({self.usd_per_1k:g}/1k)"

    def bind(self, facts: TrainingFacts, /) -> Self:
        """Return the policy in the unit of an artifact; the price starts at what its calibration says."""
        self.pacer.start_from(facts)
        return self._with(reference_cost_usd=facts.reference_cost_usd)

    def current_cost_weight(self) -> float:
        """Return the price of the moment."""
        return self.pacer.cost_weight

    def appraise(self, view: View, /) -> Appraisal:
        """Value the candidates by their utility at the price of the moment, less what the allowance cannot pay."""
        preference = view.request.preference
        ruled_out, warnings = beyond(self.pacer, view)
        left = view.without(ruled_out)
        if preference.quality_floor is not None:
            base = floor_appraisal(
                left,
                preference.quality_floor,
                calibrator=None,
                reference_cost_usd=self.reference_cost_usd,
                policy="budget",
            )
            return replace(base, ruled_out=ruled_out, warnings=base.warnings + warnings)
        weight = self.pacer.cost_weight if preference.cost_weight is None else preference.cost_weight
        scores = utilities(left, weight, reference_cost_usd=self.reference_cost_usd)
        return Appraisal(scores, self.name, weight, self.reference_cost_usd, ruled_out=ruled_out, warnings=warnings)

    def record(self, view: View, decision: Decision, /) -> None:
        """Charge the expected cost of the chosen model."""
        self.pacer.charge(decision.ranking[0].expected_cost_usd, view.request.request_id)

    def observe(self, outcome: Outcome, /) -> None:
        """Replace the expected by the actual cost."""
        self.pacer.settle(outcome)


def beyond(pacer: Pacer, view: View) -> tuple[dict[int, str], tuple[str, ...]]:
    """Return the candidates that the allowance cannot pay, with reasons, and warnings.

    Where it can pay none, all but the cheapest are ruled out and a warning says so.
    """
    limit = pacer.affordable_usd()
    over = {
        i: f"expected cost {view.cost[i]:.6f} USD exceeds what is left of the budget ({max(limit, 0.0):.6f} USD)"
        for i in view.eligible
        if not view.cost[i] <= limit
    }
    if len(over) < len(view.eligible):
        return over, ()
    cheapest = min(view.eligible, key=lambda i: (view.cost[i], i))
    del over[cheapest]
    return over, (f"the budget of {pacer.usd_per_1k:g} USD per 1,000 requests is spent: the cheapest model answers",)
