"""Exploring policies over any estimates with standard errors: upper confidence bounds and Thompson sampling."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Self

import numpy as np

from llmrouter.exceptions import ConfigError
from llmrouter.policy._base import BasePolicy
from llmrouter.policy._budget import beyond
from llmrouter.policy._chance import uniform_of
from llmrouter.policy._checks import require, require_count
from llmrouter.policy._facts import TrainingFacts
from llmrouter.policy._pacing import Pacer
from llmrouter.policy._ranking import Appraisal, View
from llmrouter.policy._utility import floor_appraisal
from llmrouter.types import Decision, FloatArray, Outcome

_LARGEST_SEED = 2**32 - 1


class _BanditPolicy(BasePolicy):
    """What both have in common: the preference prior, the cost weight and the pacing."""

    kind = ""

    def __init__(
        self,
        cost_weight: float,
        preference: Mapping[str, float] | None,
        preference_std: float,
        usd_per_1k: float | None,
        burst_requests: int,
        reference_cost_usd: float,
    ) -> None:
        self.cost_weight = require("cost_weight", cost_weight, least=0)
        self.preference = {
            model: require(f"preference.{model}", value, least=0, most=1) for model, value in (preference or {}).items()
        }
        self.preference_std = require("preference_std", preference_std, above=0)
        self.reference_cost_usd = require("reference_cost_usd", reference_cost_usd, above=0)
        self.pacer = None if usd_per_1k is None else Pacer(usd_per_1k, burst_requests)
        self.locks = () if self.pacer is None else (self.pacer.lock,)

    @property
    def name(self) -> str:
        """Name with settings."""
        price = f"{self.cost_weight:g}" if self.pacer is None else f"{self.pacer.usd_per_1k:g}/1k"
        return f"{self.kind}({price})"

    def bind(self, facts: TrainingFacts, /) -> Self:
        """Return the policy in the unit of an artifact; a paced price starts at what its calibration says."""
        if self.pacer is not None:
            self.pacer.start_from(facts)
        return self._with(reference_cost_usd=facts.reference_cost_usd)

    def current_cost_weight(self) -> float:
        """Return the configured weight, or the price of the moment."""
        return self.cost_weight if self.pacer is None else self.pacer.cost_weight

    def record(self, view: View, decision: Decision, /) -> None:
        """Charge the expected cost of the chosen model, where there is a budget."""
        if self.pacer is not None:
            self.pacer.charge(decision.ranking[0].expected_cost_usd, view.request.request_id)

    def observe(self, outcome: Outcome, /) -> None:
        """Replace the expected by the actual cost, where there is a budget."""
        if self.pacer is not None:
            self.pacer.settle(outcome)

    def appraise(self, view: View, /) -> Appraisal:
        """Value the candidates: belief about quality, less weighted cost.

        A request's `quality_floor` is served without exploring (see `floor_appraisal`), and so is a request that wants
        none (`RoutingRequest.explore`): by its utility.
        """
        preference = view.request.preference
        ruled_out, warnings = ({}, ()) if self.pacer is None else beyond(self.pacer, view)
        left = view.without(ruled_out)
        if preference.quality_floor is not None:
            base = floor_appraisal(
                left,
                preference.quality_floor,
                calibrator=None,
                reference_cost_usd=self.reference_cost_usd,
                policy=self.kind,
            )
            return replace(base, ruled_out=ruled_out, warnings=base.warnings + warnings)
        weight = self.current_cost_weight() if preference.cost_weight is None else preference.cost_weight
        mean, std = self._belief(left)
        utility = mean - weight / self.reference_cost_usd * view.estimates.cost_usd
        appraisal = Appraisal(
            utility.tolist(), self.name, weight, self.reference_cost_usd, ruled_out=ruled_out, warnings=warnings
        )
        if not view.request.explore:
            return appraisal
        return self._explored(view, appraisal, utility, std)

    def _belief(self, view: View) -> tuple[FloatArray, FloatArray]:
        """Return mean and standard deviation of the belief about quality: estimates, mixed with the preference."""
        mean = view.estimates.quality
        std = np.nan_to_num(view.estimates.quality_std, nan=0.0)
        if not self.preference:
            return mean, std
        prior = np.array([self.preference.get(candidate.card.name, np.nan) for candidate in view.candidates])
        # Precision-weighted: the preference counts for as much as an estimate with that standard error.
        share = std**2 / (std**2 + self.preference_std**2)
        share = np.where(np.isnan(prior), 0.0, share)
        mixed: FloatArray = (1 - share) * mean + share * np.nan_to_num(prior)
        return mixed, std * np.sqrt(1 - share)

    def _explored(self, view: View, appraisal: Appraisal, utility: FloatArray, std: FloatArray) -> Appraisal:
        raise NotImplementedError


class UCBPolicy(_BanditPolicy):
    """Rank by an upper confidence bound of the utility: what is little known is tried while it may be best.

    ``mean + exploration * std - cost_weight * cost / reference_cost``, where mean and standard error are the
    estimates', mixed with a preference prior by precision: PILOT (arXiv 2508.21141), with the estimates of any router
    in place of its linear model, and its online budget as the paced price of `Pacer`. Deterministic: the propensity is
    1, and logs of it have no overlap; use `ThompsonPolicy` where they are to be evaluated off-policy.

    Parameters
    ----------
    exploration : float
        Standard errors added, >= 0.
    cost_weight : float
        Weight of cost, >= 0; not used where there is a budget. A request may set its own.
    preference : mapping of str to float, optional
        Quality in [0, 1] expected of a model before any outcome, e.g. from a public leaderboard.
    preference_std : float
        Standard error of the preference, > 0: it fades as the estimates' own standard errors fall below it.
    usd_per_1k : float, optional
        A budget in US dollars per 1,000 requests in place of the fixed weight.
    burst_requests : int
        See `Pacer`.
    reference_cost_usd : float
        The unit of the cost weight; `bind` sets it.
    """

    kind = "ucb"

    def __init__(
        self,
        exploration: float = 1.0,
        *,
        cost_weight: float = 0.3,
        preference: Mapping[str, float] | None = None,
        preference_std: float = 0.1,
        usd_per_1k: float | None = None,
        burst_requests: int = 100,
        reference_cost_usd: float = 1.0,
    ) -> None:
        super().__init__(cost_weight, preference, preference_std, usd_per_1k, burst_requests, reference_cost_usd)
        self.exploration = require("exploration", exploration, least=0)

    def _explored(self, _view: View, appraisal: Appraisal, utility: FloatArray, std: FloatArray) -> Appraisal:
        return replace(appraisal, scores=(utility + self.exploration * std).tolist())


class ThompsonPolicy(_BanditPolicy):
    """Choose each model with the probability that it is the best: Thompson sampling with exact propensities.

    A fixed matrix of standard normal numbers (`draws` x models, from `seed`, in pairs of opposite sign) turns the
    belief about each model's utility into as many samples. The probability of a model is the share of the samples in
    which it is best, with half a win added for every eligible model: ``(wins + 0.5) / (draws + 0.5 m)``. One number
    from the seed and the request's id then picks, so that what else is decided at the moment does not. The reported
    propensity is that probability: it is how the model was drawn, not an estimate of it, depends on the estimates
    alone, and is never zero.

    Parameters
    ----------
    seed : int
        In [0, 2^32).
    draws : int
        Samples, even, >= 2.
    scale : float
        Factor on the standard errors, >= 0; larger explores more.
    cost_weight, preference, preference_std, usd_per_1k, burst_requests, reference_cost_usd
        See `UCBPolicy`.
    """

    kind = "thompson"
    SMOOTHING = 0.5

    def __init__(
        self,
        seed: int = 0,
        *,
        draws: int = 512,
        scale: float = 1.0,
        cost_weight: float = 0.3,
        preference: Mapping[str, float] | None = None,
        preference_std: float = 0.1,
        usd_per_1k: float | None = None,
        burst_requests: int = 100,
        reference_cost_usd: float = 1.0,
    ) -> None:
        super().__init__(cost_weight, preference, preference_std, usd_per_1k, burst_requests, reference_cost_usd)
        self.seed = require_count("seed", seed, least=0)
        self.draws = require_count("draws", draws, least=2)
        if seed > _LARGEST_SEED or draws % 2:
            raise ConfigError(f"seed must be < 2^32 and draws even; got seed={seed!r}, draws={draws!r}")
        self.scale = require("scale", scale, least=0)
        self._normals: dict[int, FloatArray] = {}
        self._unnamed = [0]  # decisions without an id; a list, to be shared with what `bind` returns
        self.locks = (threading.RLock(), *self.locks)

    def _explored(self, view: View, appraisal: Appraisal, utility: FloatArray, std: FloatArray) -> Appraisal:
        return replace(
            appraisal,
            samples=utility + self.scale * std * self._standard(utility.size),
            uniform=uniform_of(self.kind, self.seed, view.request.request_id or f"#{self._unnamed[0]}"),
            smoothing=self.SMOOTHING,
        )

    def record(self, view: View, decision: Decision, /) -> None:
        """Count the decision."""
        super().record(view, decision)
        if not view.request.request_id:
            self._unnamed[0] += 1

    def _standard(self, models: int) -> FloatArray:
        found = self._normals.get(models)
        if found is None:
            half = np.random.default_rng([self.seed, 0]).standard_normal((self.draws // 2, models))
            found = self._normals[models] = np.concatenate((half, -half))
        return found
