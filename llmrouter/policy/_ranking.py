"""From scores to a ranking: the one place where eligibility, ties, fallbacks and propensities are settled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from llmrouter.exceptions import NoEligibleModelError
from llmrouter.types import Candidate, Decision, Estimates, FloatArray, RankedModel, RoutingRequest

TIE_DIGITS = 12
"""Scores equal to this many decimals are ties; sums of the same numbers in another order must not decide."""


@dataclass(frozen=True, slots=True)
class View:
    """One request as policies see it: m candidates, their estimates as Python numbers, who is eligible.

    Attributes
    ----------
    request : RoutingRequest
        What is asked.
    candidates : sequence of Candidate, length m
        In the order of the estimates.
    estimates : Estimates
        As the engine gave them; what is reported comes from here.
    quality, std, cost : list of float, length m
        The same as Python numbers, which are faster than arrays for a handful of models.
    reasons : list of str, length m
        Why a candidate is ruled out; "" where it is not.
    eligible : list of int
        Positions of the others, in order; never empty.
    """

    request: RoutingRequest
    candidates: Sequence[Candidate]
    estimates: Estimates
    quality: list[float]
    std: list[float]
    cost: list[float]
    reasons: list[str]
    eligible: list[int]

    def name(self, position: int) -> str:
        """Return the pool name of a candidate."""
        return self.estimates.models[position]

    def position(self, model: str) -> int | None:
        """Return where an eligible model stands; None where it is absent or ruled out."""
        for i in self.eligible:
            if self.candidates[i].card.name == model:
                return i
        return None

    def without(self, reasons: Mapping[int, str]) -> View:
        """Return the same view with more candidates ruled out; at least one must be left."""
        if not reasons:
            return self
        merged = [reason or reasons.get(i, "") for i, reason in enumerate(self.reasons)]
        left = [i for i in self.eligible if i not in reasons]
        return View(self.request, self.candidates, self.estimates, self.quality, self.std, self.cost, merged, left)


class Explorer(Protocol):
    """Puts, by chance, another model before the one that the scores put first."""

    def draw(
        self, view: View, appraisal: Appraisal, order: list[int], chances: list[float], /
    ) -> tuple[list[int], list[float], bool]:
        """Return order, chances and whether chance decided, given those of the appraisal alone.

        Parameters
        ----------
        view, appraisal
            What is decided.
        order : list of int
            Eligible positions, the one to try first at the front.
        chances : list of float
            In that order: the probability with which each would have been at the front. They add up to 1.
        """
        ...


@dataclass(frozen=True, slots=True)
class Appraisal:
    """How a policy values the candidates of a view: what wrapping policies adjust, and `decide` turns into a ranking.

    Attributes
    ----------
    scores : list of float, length m
        In units of quality, higher is better; only those of eligible candidates count.
    policy : str
        Name to report.
    cost_weight, reference_cost_usd : float
        What a dollar costs in the unit of the scores: ``cost_weight / reference_cost_usd``.
    tiers : list of int, length m, optional
        All of tier 0 go before all of tier 1, whatever their scores.
    samples : array of shape (draws, m), optional
        Scores drawn at random. The choice is then random: the probability of a model is the share of the draws in
        which it is best (smoothed), and `uniform` in [0, 1) picks.
    uniform, smoothing : float
        See `samples`; `smoothing` is added to every eligible model's count.
    ruled_out : mapping of int to str
        Candidates that the policy itself rules out, with reasons.
    warnings : tuple of str
        Told to the user: in the reason of the chosen model and in the decision's warnings.
    explorer : Explorer, optional
        Has the last word on which model goes first.
    """

    scores: list[float]
    policy: str
    cost_weight: float
    reference_cost_usd: float
    tiers: list[int] | None = None
    samples: FloatArray | None = None
    uniform: float = 0.0
    smoothing: float = 0.0
    ruled_out: Mapping[int, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    explorer: Explorer | None = None


def view_of(request: RoutingRequest, candidates: Sequence[Candidate], estimates: Estimates) -> View:
    """Return what policies look at; `max_cost_usd` of the request rules out what is expected to cost more.

    Raises
    ------
    NoEligibleModelError
        If nothing is eligible.
    """
    cost: list[float] = estimates.cost_usd.tolist()
    limit = request.preference.max_cost_usd
    reasons = ["" if candidate.eligible else candidate.reason or "not eligible" for candidate in candidates]
    if limit is not None:
        for i, value in enumerate(cost):
            if value > limit and not reasons[i]:
                reasons[i] = f"expected cost {value:.6f} USD exceeds the limit of {limit:g} USD"
    eligible = [i for i, reason in enumerate(reasons) if not reason]
    if not eligible:
        raise NoEligibleModelError({c.name: reason for c, reason in zip(candidates, reasons, strict=True)})
    quality, std = estimates.quality.tolist(), estimates.quality_std.tolist()
    return View(request, candidates, estimates, quality, std, cost, reasons, eligible)


def decide(view: View, appraisal: Appraisal) -> Decision:
    """Rank: eligible candidates by tier, score, cost and position, then the others with their reasons.

    Raises
    ------
    NoEligibleModelError
        If the policy ruled out all that was left.
    """
    reasons = view.reasons
    eligible = view.eligible
    if appraisal.ruled_out:
        reasons = [reason or appraisal.ruled_out.get(i, "") for i, reason in enumerate(reasons)]
        eligible = [i for i in eligible if not reasons[i]]
        if not eligible:
            raise NoEligibleModelError({c.name: r for c, r in zip(view.candidates, reasons, strict=True)})
    order, chances, explored = _ordered(view, appraisal, eligible)
    if appraisal.explorer is not None:
        order, chances, drawn = appraisal.explorer.draw(view, appraisal, order, chances)
        explored = explored or drawn
    if len(order) < len(reasons):
        order = order + [i for i, reason in enumerate(reasons) if reason]
    if appraisal.warnings:
        reasons = [*reasons]
        reasons[order[0]] = "; ".join(appraisal.warnings)
    usable = len(eligible)
    chances += [0.0] * (len(order) - usable)
    quality, std, cost, candidates = view.quality, view.std, view.cost, view.candidates
    ranking = tuple(
        [
            RankedModel(candidates[i].card.name, quality[i], std[i], cost[i], rank < usable, reasons[i], chances[rank])
            for rank, i in enumerate(order)
        ]
    )
    return Decision(ranking, chances[0], appraisal.policy, warnings=appraisal.warnings, explored=explored)


def by_score(scores: Sequence[float], cost: Sequence[float], positions: Sequence[int]) -> list[int]:
    """Return positions by descending score (NaN last), ties to the cheaper, then to the first."""
    keys = [
        (-round(score, TIE_DIGITS) if score == score else np.inf, cost[i], i)
        for i, score in [(i, scores[i]) for i in positions]
    ]
    keys.sort()
    return [key[2] for key in keys]


def flat_scores(view: View, appraisal: Appraisal) -> list[float]:
    """Return the scores with tiers turned into steps of one unit of quality between the best of each tier.

    A bias can then carry a model across a tier, and without one the same model is best.
    """
    if appraisal.tiers is None:
        return appraisal.scores
    best: dict[int, float] = {}
    for i in view.eligible:
        tier = appraisal.tiers[i]
        best[tier] = max(best.get(tier, -np.inf), appraisal.scores[i])
    top = best[min(best)]
    first = min(best)
    return [
        score - best[tier] + top - (tier - first) if tier in best else score
        for score, tier in zip(appraisal.scores, appraisal.tiers, strict=True)
    ]


def _ordered(view: View, appraisal: Appraisal, eligible: list[int]) -> tuple[list[int], list[float], bool]:
    """Return the eligible positions in order, with what probability each would have been first, and if chance chose."""
    order = by_score(appraisal.scores, view.cost, eligible)
    if appraisal.samples is not None:
        probabilities = choice_probabilities(appraisal.samples, order, smoothing=appraisal.smoothing)
        # The last one takes what rounding leaves of the unit interval.
        chosen = min(int(np.searchsorted(np.cumsum(probabilities), appraisal.uniform, side="right")), len(order) - 1)
        chances: list[float] = probabilities.tolist()
        return to_front(order, chosen), to_front(chances, chosen), chosen > 0
    if appraisal.tiers is not None:
        order.sort(key=appraisal.tiers.__getitem__)
    return order, [1.0] + [0.0] * (len(order) - 1), False


def to_front(values: list[Any], place: int) -> list[Any]:
    """Return the values with that of `place` before the others."""
    return [values[place], *values[:place], *values[place + 1 :]]


def choice_probabilities(samples: FloatArray, positions: Sequence[int], *, smoothing: float) -> FloatArray:
    """Return the probability of each position: ``(wins + smoothing) / (draws + smoothing * len(positions))``.

    Parameters
    ----------
    samples : array of shape (draws, m)
        Drawn scores.
    positions : sequence of int
        Columns that compete; equal scores go to the earlier one.
    smoothing : float
        Pseudo-wins of each, >= 0: keeps every probability above zero, so that logs have overlap.
    """
    wins = np.bincount(samples[:, positions].argmax(axis=1), minlength=len(positions))
    probabilities: FloatArray = (wins + smoothing) / (samples.shape[0] + smoothing * len(positions))
    return probabilities
