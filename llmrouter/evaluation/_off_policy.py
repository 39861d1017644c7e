"""What another policy would have earned, from the log of the one that ran."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from llmrouter.evaluation import _off_policy_scores as estimators
from llmrouter.evaluation._logged_decisions import LoggedDecisions
from llmrouter.evaluation._off_policy_intervals import IntervalKind, check_interval, interval_of
from llmrouter.evaluation._off_policy_moments import effective
from llmrouter.evaluation._off_policy_scores import Contrast, Scores
from llmrouter.exceptions import ConfigError, DataError
from llmrouter.types import FloatArray

Method = Literal["ips", "snips", "dr", "sndr", "switch-dr"]
NEED_MODEL: tuple[Method, ...] = ("dr", "sndr", "switch-dr")
SUPPORTED = 0.01
"""Share of the target's decisions that may lack support before its estimates are flagged."""
_SUM_TOLERANCE = 1e-6


@dataclass(frozen=True)
class OffPolicyEstimate:
    """One estimate with its two-sided interval; `threshold` and `bias_bound` are those of switch-DR."""

    value: float
    standard_error: float
    low: float
    high: float
    threshold: float = math.inf
    bias_bound: float = 0.0


@dataclass(frozen=True)
class Overlap:
    """How much the log has to say of a policy.

    Attributes
    ----------
    effective_rows : float
        Effective sample size of the target, ``(sum w)^2 / sum w^2`` over its importance weights.
    effective_difference : float
        What a difference rests on: the smaller of the effective sample sizes of what the target does more often than
        the baseline, and of what it does less often; NaN without a baseline.
    disagreement : float
        Share of the decisions that target and baseline make differently; NaN without a baseline.
    matched : int
        Logged rows that the difference (without baseline: the target) gives a weight.
    mean_weight : float
        Mean importance weight of the target; 1 in expectation where all of it has support.
    largest_weight : float
        Largest importance weight that could come up (that did, where the log does not say).
    least_propensity : float
        Smallest positive probability with which a decision of the target was logged.
    unsupported : float
        Share of the target's decisions that the logging policy could not make; of those that differ from the
        baseline's, where there is one, as a share of all decisions.
    unsupported_by_model : tuple of float, length m
        The same by model.
    """

    effective_rows: float
    effective_difference: float
    disagreement: float
    matched: int
    mean_weight: float
    largest_weight: float
    least_propensity: float
    unsupported: float
    unsupported_by_model: tuple[float, ...]


@dataclass(frozen=True)
class OffPolicyResult:
    """Off-policy estimates of a target policy, of a baseline, and of their difference on the same rows.

    Attributes
    ----------
    target, baseline, difference : mapping of method to OffPolicyEstimate
        The latter two are empty without a baseline.
    overlap : Overlap
        What they rest on.
    rows : int
        Decisions used.
    left_out : mapping of str to int
        Decisions that could not be used, by reason.
    confidence : float
        Of the intervals.
    warnings : tuple of str
        Why the estimates should not be relied on; empty where nothing speaks against it.
    """

    target: Mapping[str, OffPolicyEstimate]
    baseline: Mapping[str, OffPolicyEstimate]
    difference: Mapping[str, OffPolicyEstimate]
    overlap: Overlap
    rows: int
    left_out: Mapping[str, int]
    confidence: float
    warnings: tuple[str, ...] = field(default=())

    @property
    def supported(self) -> bool:
        """Whether the log can tell: all but a hundredth of the target's decisions could have been logged."""
        return self.overlap.unsupported <= SUPPORTED

    def document(self) -> dict[str, Any]:
        """Return the result as JSON values; what is not finite becomes None."""
        return {**_finite(asdict(self)), "supported": self.supported}


def off_policy_estimate(
    log: LoggedDecisions,
    target: FloatArray,
    *,
    baseline: FloatArray | None = None,
    model: FloatArray | None = None,
    methods: Sequence[Method] | None = None,
    confidence: float = 0.95,
    interval: IntervalKind = "auto",
    seed: int = 0,
) -> OffPolicyResult:
    """Estimate what a policy would have earned on logged prompts.

    Parameters
    ----------
    log : LoggedDecisions
        n decisions among m models. Rows whose reward or propensity is unknown are left out and counted.
    target : array of shape (n, m)
        Probability with which the policy in question chooses each model; rows sum to 1.
    baseline : array of shape (n, m), optional
        The same of another policy, e.g. the one that is live. The difference of the two is estimated row by row,
        where what they share cancels: it is known much better than either.
    model : array of shape (n, m), optional
        Expected rewards, from a model that was not fitted on the row itself (see `llmrouter.learning.cross_fitted`);
        the doubly robust methods need it. A NaN counts as the mean of the rest of its row.
    methods : sequence of str, optional
        Out of ``ips``, ``snips``, ``dr``, ``sndr`` and ``switch-dr``; by default all that can be computed.
    confidence : float
        Of the two-sided intervals, in [0.5, 1).
    interval : {"auto", "student", "bootstrap", "bernstein"}
        See `llmrouter.evaluation._off_policy_intervals.interval_of`. The interval of switch-DR does not hold its bias.
    seed : int
        Of the bootstrap.

    Raises
    ------
    DataError
        If shapes disagree, probabilities are not such, or fewer than two rows are usable.
    ConfigError
        If a method, interval or confidence is unknown or impossible.

    Notes
    -----
    IPS and SNIPS: Swaminathan and Joachims, NeurIPS 2015. DR: Dudik, Langford and Li, arXiv 1103.4601. Switch-DR:
    Wang, Agarwal and Dudik, arXiv 1612.01205.
    """
    check_interval(interval, confidence)
    chosen_methods = _methods(methods, has_model=model is not None)
    target = _probabilities("target", target, log)
    baseline = None if baseline is None else _probabilities("baseline", baseline, log)
    if model is not None and model.shape != target.shape:
        raise DataError(f"model must be {target.shape} as the target is; got {model.shape}")
    usable = log.usable
    if usable.sum() < 2:
        raise DataError(
            f"{int(usable.sum())} of {len(log)} logged decisions can be used "
            f"({', '.join(f'{reason}: {count}' for reason, count in log.left_out.items() if count)}); at least 2 must "
            "have a judged answer and a known propensity"
        )
    kept = log.select(usable)
    expected = None if model is None else _filled(model[usable], kept)
    first = Contrast(kept, target[usable], expected)
    second = None if baseline is None else Contrast(kept, baseline[usable], expected)
    between = None if second is None else Contrast(kept, first.weights - second.weights, expected, (first, second))
    overlap = _overlap(first, between)

    def estimated(scores: Scores, contrast: Contrast) -> OffPolicyEstimate:
        error, low, high = interval_of(
            scores,
            cluster=kept.cluster,
            kind=interval,
            confidence=confidence,
            spread=float(kept.reward.max() - kept.reward.min()),
            largest=_largest(contrast),
            seed=seed,
        )
        return OffPolicyEstimate(scores.value, error, low, high, scores.threshold, scores.bias_bound)

    def of_policy(contrast: Contrast) -> dict[str, OffPolicyEstimate]:
        return {method: estimated(_ESTIMATORS[method](contrast), contrast) for method in chosen_methods}

    differences: dict[str, OffPolicyEstimate] = {}
    if second is not None and between is not None:
        for method in chosen_methods:
            if method in ("snips", "sndr"):
                scores = estimators.self_normalised_difference(first, second, between, robust=method == "sndr")
            else:
                scores = _ESTIMATORS[method](between)
            differences[method] = estimated(scores, between)
    return OffPolicyResult(
        target=of_policy(first),
        baseline={} if second is None else of_policy(second),
        difference=differences,
        overlap=overlap,
        rows=len(kept),
        left_out=log.left_out,
        confidence=confidence,
        warnings=_warnings(overlap, compared=baseline is not None),
    )


_ESTIMATORS: Mapping[str, Callable[[Contrast], Scores]] = {
    "ips": estimators.inverse_propensity,
    "snips": lambda contrast: estimators.self_normalised(contrast, robust=False),
    "dr": estimators.doubly_robust,
    "sndr": lambda contrast: estimators.self_normalised(contrast, robust=True),
    "switch-dr": estimators.switch,
}
_FEW_MATCHES = 10


def _methods(methods: Sequence[Method] | None, *, has_model: bool) -> tuple[Method, ...]:
    every: tuple[Method, ...] = get_args(Method)
    if methods is None:
        return tuple(method for method in every if has_model or method not in NEED_MODEL)
    unknown = [method for method in methods if method not in every]
    if unknown or not methods:
        raise ConfigError(f"unknown method(s) {', '.join(unknown) or '(none given)'}; out of {', '.join(every)}")
    unfit = [method for method in methods if method in NEED_MODEL and not has_model]
    if unfit:
        raise ConfigError(f"{', '.join(unfit)} need expected rewards; pass model=, e.g. of learning.cross_fitted")
    return tuple(methods)


def _probabilities(name: str, values: FloatArray, log: LoggedDecisions) -> FloatArray:
    values = np.asarray(values, dtype=np.float64)
    columns = None if log.propensities is None else log.propensities.shape[1]
    if values.ndim != 2 or len(values) != len(log) or (columns is not None and values.shape[1] != columns):
        raise DataError(f"{name} must be ({len(log)}, {'m' if columns is None else columns}); got {values.shape}")
    if len(log) and log.chosen.max() >= values.shape[1]:
        raise DataError(f"the log chose column {log.chosen.max()}, but {name} has {values.shape[1]} columns")
    if not np.isfinite(values).all() or (values < 0).any():
        raise DataError(f"{name} must hold probabilities; found NaN, infinite or negative ones")
    if values.size and np.abs(values.sum(axis=1) - 1).max() > _SUM_TOLERANCE:
        raise DataError(f"the rows of {name} must sum to 1; one sums to {values.sum(axis=1).min():g}")
    return values


def _filled(model: FloatArray, log: LoggedDecisions) -> FloatArray:
    """Return the model without NaN: the mean of what is known of the row, else of the log's rewards."""
    known = np.isfinite(model)
    if known.all():
        return model
    count = known.sum(axis=1, keepdims=True)
    mean = np.where(known, model, 0.0).sum(axis=1, keepdims=True) / np.maximum(count, 1)
    filled: FloatArray = np.where(known, model, np.where(count > 0, mean, float(log.reward.mean())))
    return filled


def _overlap(target: Contrast, between: Contrast | None) -> Overlap:
    weight = target.importance * target.share
    informative = target if between is None else between
    gained = np.maximum(informative.weights, 0.0)
    log = target.log
    m = target.weights.shape[1]
    if target.known.any() and log.propensities is not None:
        full = log.propensities[target.known]
        lacking = np.where(full <= 0, gained[target.known], 0.0).mean(axis=0)
        wanted = full[(target.weights[target.known] > 0) & (full > 0)]
        unsupported, by_model = float(lacking.sum()), tuple(lacking.tolist())
    else:
        wanted = log.propensity[target.importance > 0]
        error = float(weight.std()) / math.sqrt(len(weight))
        missing = max(1.0 - float(weight.mean()), 0.0)
        unsupported, by_model = missing if missing > 2 * error else 0.0, (math.nan,) * m
    return Overlap(
        effective_rows=effective(weight),
        effective_difference=math.nan if between is None else _rarer_side(between),
        disagreement=math.nan if between is None else between.mean(np.abs(between.weights).sum(axis=1) / 2),
        matched=int((informative.importance != 0).sum()),
        mean_weight=float(weight.mean()),
        largest_weight=_largest(informative),
        least_propensity=float(wanted.min()) if wanted.size else math.nan,
        unsupported=unsupported,
        unsupported_by_model=by_model,
    )


def _rarer_side(between: Contrast) -> float:
    """Return the effective rows of the side that has fewer: many of the one say nothing about the other."""
    weight = between.importance * between.share
    return min(effective(np.maximum(weight, 0.0)), effective(np.maximum(-weight, 0.0)))


def _largest(contrast: Contrast) -> float:
    if contrast.known.any():
        return float(contrast.all_ratios.max())
    return float(np.abs(contrast.importance).max())


def _warnings(overlap: Overlap, *, compared: bool) -> tuple[str, ...]:
    warnings = []
    what = "of the decisions that differ" if compared else "of the decisions"
    if overlap.unsupported > SUPPORTED:
        warnings.append(
            f"no overlap for {overlap.unsupported:.1%} {what}: the logging policy never made them; let it explore "
            "(learning.explore)"
        )
    if overlap.matched < _FEW_MATCHES and overlap.disagreement != 0:
        warnings.append(f"only {overlap.matched} logged decisions bear on the estimate; log more, or explore more")
    return tuple(warnings)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
