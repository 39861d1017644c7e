"""The gate: a new router replaces the live one only where the log shows that it is better."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from llmrouter.engine import RoutingEngine
from llmrouter.evaluation import LoggedDecisions, OffPolicyResult, off_policy_estimate
from llmrouter.evaluation._off_policy import Method
from llmrouter.exceptions import ConfigError, DataError
from llmrouter.learning._decided import decided_by, union_of_models, widened
from llmrouter.learning._gate_needed import Needed, needed_for
from llmrouter.learning._reward_model import DEFAULT_ROUTER, cross_fitted
from llmrouter.learning._training_log import TrainingLog
from llmrouter.policy import BasePolicy
from llmrouter.types import FloatArray


@dataclass(frozen=True)
class GateVerdict:
    """Whether to promote, and why.

    Attributes
    ----------
    promote : bool
        Whether the lower bound of the gain exceeds the margin.
    gain : float
        Estimated utility of the new router less that of the live one.
    low, high : float
        Bounds of it, each at the gate's confidence by itself; `low` takes the worst for requests without support.
    rows : int
        Judged decisions used.
    effective_rows : float
        Effective sample size of the difference: of what the new router would do, or of what the live one would, the
        smaller.
    disagreement : float
        Share of requests that the two decide differently.
    reasons : tuple of str
        Why not; empty if it is promoted.
    needed : Needed or None
        What would settle it; None if it is promoted.
    results : mapping of str to OffPolicyResult
        ``utility`` and, from `Gate.judge`, ``quality`` and ``cost_usd``.
    """

    promote: bool
    gain: float
    low: float
    high: float
    rows: int
    effective_rows: float
    disagreement: float
    reasons: tuple[str, ...]
    needed: Needed | None
    results: Mapping[str, OffPolicyResult]

    def document(self) -> dict[str, Any]:
        """Return the verdict as JSON values; what is not finite becomes None."""
        numbers = {
            name: getattr(self, name) if math.isfinite(getattr(self, name)) else None
            for name in ("gain", "low", "high", "effective_rows", "disagreement")
        }
        return {
            "promote": self.promote,
            **numbers,
            "rows": self.rows,
            "reasons": list(self.reasons),
            "needed": None if self.needed is None else self.needed.document(),
            "results": {name: result.document() for name, result in self.results.items()},
        }


@dataclass(frozen=True)
class Gate:
    """Compares a new router with the live one on logged decisions.

    The difference of their utilities is estimated doubly robustly (Dudik et al., arXiv 1103.4601) on the same rows:
    where both decide alike nothing is at stake, so what counts is how often the log holds what the new one would do
    where they differ. The lower bound is one-sided at `confidence`: a router that is no better passes in about
    ``1 - confidence`` of the trials or fewer. It allows for what such logs do to a normal bound: a few rare decisions
    carry the estimate, and where none of their bad answers has come up yet the gain looks larger than it is and surer
    too (`llmrouter.evaluation._off_policy_moments`).

    Parameters
    ----------
    confidence : float
        Of the lower bound, in [0.5, 1).
    margin : float
        Gain in utility that must be exceeded.
    least_rows : float
        Effective sample size of the difference below which nothing is promoted. With fewer a log may well hold no bad
        answer of the new router by luck, and then no interval that is made from the log knows of any.
    gain, power : float
        What `Needed` is computed for: a gain of that size beyond the margin is to be found with that probability.
    router : str
        Registry spec of the regressor that expects rewards.
    seed : int
        Deals rows into folds.
    """

    confidence: float = 0.95
    margin: float = 0.0
    least_rows: float = 30.0
    gain: float = 0.02
    power: float = 0.8
    router: str = DEFAULT_ROUTER
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.5 <= self.confidence < 1 or not 0 < self.power < 1:
            raise ConfigError(
                f"confidence must lie in [0.5, 1) and power in (0, 1); got {self.confidence!r}, {self.power!r}"
            )
        if not (math.isfinite(self.margin) and self.gain > 0 and self.least_rows >= 0):
            raise ConfigError(
                f"margin must be finite, gain > 0 and least_rows >= 0; got {self.margin!r}, {self.gain!r}, "
                f"{self.least_rows!r}"
            )

    def compare(
        self,
        log: LoggedDecisions,
        new: FloatArray,
        live: FloatArray,
        *,
        model: FloatArray | None = None,
        models: tuple[str, ...] = (),
        methods: Sequence[Method] | None = None,
    ) -> GateVerdict:
        """Compare two policies given by their probabilities, each (n, m), on a log whose rewards are utilities.

        Parameters
        ----------
        log : LoggedDecisions
            n decisions.
        new, live : array of shape (n, m)
            Probability with which each policy chooses each model.
        model : array of shape (n, m), optional
            Expected utilities, cross-fitted (`cross_fitted`); without it the estimate is IPS, and much wider.
        models : tuple of str, length m, optional
            Names, for the verdict.
        methods : sequence of str, optional
            Which estimates `results` holds; by default all. It is decided by ``dr`` (``ips`` without a model), which
            must be among them.

        Raises
        ------
        ConfigError
            If the method that decides is not among `methods`.
        DataError
            If shapes disagree or fewer than two decisions are usable.
        """
        decides = "ips" if model is None else "dr"
        if methods is not None and decides not in methods:
            raise ConfigError(f"methods must hold {decides!r}, by which the gate decides; got {', '.join(methods)}")
        result = off_policy_estimate(
            log, new, baseline=live, model=model, methods=methods, confidence=self._two_sided, seed=self.seed
        )
        return self._verdict(result, log, new, live, models=models)

    def judge(
        self,
        new: RoutingEngine,
        live: RoutingEngine,
        log: TrainingLog,
        *,
        history: TrainingLog | None = None,
        cost_weight: float | None = None,
        weight: FloatArray | None = None,
    ) -> GateVerdict:
        """Compare two engines, each with its policy, on logged requests.

        Parameters
        ----------
        new, live : RoutingEngine
            Both must not have been trained on `log`.
        log : TrainingLog
            n requests.
        history : TrainingLog, optional
            Earlier requests, from which expected rewards are learned too.
        cost_weight : float, optional
            Of the utility; by default the live policy's. The unit of cost is the live artifact's reference cost.
        weight : array of shape (n,), optional
            How much each request counts, e.g. by the trust in its judgement.

        Raises
        ------
        DataError
            If fewer than two decisions are usable, or an engine reads other embeddings than the log keeps.
        """
        columns = union_of_models(log, new, live)
        return self._judged(
            log,
            decided_by(new, log, columns),
            decided_by(live, log, columns),
            columns,
            rate=_cost_weight(live) if cost_weight is None else cost_weight,
            reference=live.trained.reference_cost_usd,
            history=history,
            weight=weight,
        )

    def judge_logged(
        self,
        new: RoutingEngine,
        log: TrainingLog,
        *,
        history: TrainingLog | None = None,
        cost_weight: float | None = None,
        weight: FloatArray | None = None,
    ) -> GateVerdict:
        """Compare an engine with the policy that made the log, exploration included; parameters as in `judge`.

        Requests of which the log does not say every model's propensity are left out.
        """
        columns = union_of_models(log, new)
        return self._judged(
            log,
            decided_by(new, log, columns),
            widened(log, columns).propensities,
            columns,
            rate=_cost_weight(new) if cost_weight is None else cost_weight,
            reference=new.trained.reference_cost_usd,
            history=history,
            weight=weight,
        )

    def _judged(
        self,
        log: TrainingLog,
        new: FloatArray,
        live: FloatArray,
        columns: tuple[str, ...],
        *,
        rate: float,
        reference: float,
        history: TrainingLog | None,
        weight: FloatArray | None,
    ) -> GateVerdict:
        rows = np.flatnonzero(np.isfinite(new).all(axis=1) & np.isfinite(live).all(axis=1))
        if len(rows) < 2:
            raise DataError(
                f"{len(rows)} of {len(log)} logged requests can be compared; is the pool the one that was logged, and "
                "does the log hold propensities?"
            )
        log = widened(log.select(rows), columns)
        new, live = new[rows], live[rows]
        once = None if weight is None else weight[rows]
        expected = self._expected(log, None if history is None else widened(history, columns))
        rewards = {
            "utility": (log.utility(rate, reference), expected["quality"] - rate * expected["cost_usd"] / reference),
            "quality": (log.quality(), expected["quality"]),
            "cost_usd": (np.where(log.judged, log.cost(), np.nan), expected["cost_usd"]),
        }
        results = {
            name: off_policy_estimate(
                log.decisions(reward, weight=once),
                new,
                baseline=live,
                model=model,
                confidence=self._two_sided,
                seed=self.seed,
            )
            for name, (reward, model) in rewards.items()
            if np.isfinite(reward).sum() > 1 or name == "utility"
        }
        decisions = log.decisions(rewards["utility"][0], weight=once)
        verdict = self._verdict(results["utility"], decisions, new, live, models=columns, tasks=tuple(log.table.tasks))
        return replace(verdict, results=results)

    @property
    def _two_sided(self) -> float:
        """Confidence of the two-sided interval whose lower end holds at `confidence`."""
        return max(round(2 * self.confidence - 1, 12), 0.5)

    def _expected(self, log: TrainingLog, history: TrainingLog | None) -> dict[str, FloatArray]:
        """Return cross-fitted expectations of quality and cost, each (n, m)."""
        expected = {}
        for name in ("quality", "cost_usd"):
            values: FloatArray = getattr(log.table, name)
            if not np.isfinite(values).any():
                expected[name] = np.zeros(values.shape)
                continue
            past = None if history is None else (history.X, getattr(history.table, name))
            expected[name] = cross_fitted(
                log.X, values, router=self.router, groups=log.table.texts, history=past, seed=self.seed
            )
        return expected

    def _verdict(
        self,
        result: OffPolicyResult,
        log: LoggedDecisions,
        new: FloatArray,
        live: FloatArray,
        *,
        models: tuple[str, ...],
        tasks: tuple[str | None, ...] = (),
    ) -> GateVerdict:
        method = "dr" if "dr" in result.difference else "ips"
        found, overlap = result.difference[method], result.overlap
        usable = log.usable
        spread = float(log.reward[usable].max() - log.reward[usable].min())
        low = found.low - overlap.unsupported * spread
        reasons = []
        if overlap.disagreement == 0:
            reasons.append(f"the two decide alike on all {result.rows} requests: there is nothing to gain")
        elif overlap.effective_difference < self.least_rows:
            reasons.append(
                f"the log says too little where they differ: {overlap.effective_difference:.1f} effective decisions, "
                f"{self.least_rows:g} are needed"
            )
        if overlap.unsupported > 0:
            reasons.append(
                f"{overlap.unsupported:.1%} of the requests would go to a model that could not have been asked there"
            )
        promote = low > self.margin and overlap.effective_difference >= self.least_rows
        if not low > self.margin:
            reasons.append(
                f"the gain of {found.value:+.4f} is not shown to exceed {self.margin:g}: its lower bound is {low:+.4f} "
                f"at {self.confidence:.0%} confidence"
            )
        needed = None
        if not promote:
            normal = NormalDist()
            needed = needed_for(
                log.select(usable),
                new[usable],
                live[usable],
                gain=self.gain + self.margin,
                standard_error=found.standard_error,
                target_error=self.gain / (normal.inv_cdf(self.confidence) + normal.inv_cdf(self.power)),
                # So many that chance leaves fewer than the least in one log of 1 - power.
                least_rows=self.least_rows + normal.inv_cdf(self.power) * math.sqrt(self.least_rows),
                models=models,
                tasks=tuple(task for task, used in zip(tasks, usable.tolist(), strict=True) if used) if tasks else (),
            )
        return GateVerdict(
            promote=promote,
            gain=found.value,
            low=low,
            high=found.high,
            rows=result.rows,
            effective_rows=overlap.effective_difference,
            disagreement=overlap.disagreement,
            reasons=() if promote else tuple(reasons),
            needed=needed,
            results={"utility": result},
        )


def _cost_weight(engine: RoutingEngine) -> float:
    return engine.policy.current_cost_weight() if isinstance(engine.policy, BasePolicy) else 0.0
