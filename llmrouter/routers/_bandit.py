"""Linear bandits: one Bayesian linear regression a model, updated exactly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from llmrouter.exceptions import ConfigError
from llmrouter.index import VectorIndex
from llmrouter.routers._base import Learned
from llmrouter.routers._online import OnlineBase
from llmrouter.routers._population import Population, presumed_variance
from llmrouter.types import FloatArray, IntArray

_INTERCEPT_PENALTY = 0.01
_NOISE_PROMPTS = 2.0
_LEARNED = ("precision", "group", "response", "squares", "total", "count", "root", "theta", "noise", "level")


class LinearBanditRouter(OnlineBase):
    """Predict each model's outcome by its own Bayesian linear regression over the embedding.

    The estimator of LinUCB and linear Thompson sampling, as PILOT (arXiv 2508.21141) uses it for routing: arm m keeps
    ``A_m = A_0 + sum w z z'`` and ``b_m = b_0 + sum w y z`` over the prompts on which it was asked (z is the embedding
    with a 1 appended) and expects ``theta_m . z`` with ``theta_m = A_m^-1 b_m``. PILOT starts the arms from an estimate
    fitted offline on human preferences, projected to a shared space; here `fit` on whatever was logged (a benchmark
    matrix, or one model a prompt) is that offline prior, each of its prompts counting `offline_weight` of an online
    one, and `partial_fit` adds online outcomes, to the same posterior as if all had been fitted at once. The choice
    (upper confidence bound, Thompson, PILOT's budget) is the policy's, from expectation and standard error; `sample`
    draws from the posterior.

    The standard error is ``s_m sqrt(z' A_m^-1 z)`` with s_m^2 the posterior mean of the arm's noise variance: the
    width that LinUCB multiplies by alpha.

    A new model needs N scored prompts: its A_0 and b_0 are the population of the known arms' coefficients
    (`llmrouter.routers._population`), to which the prompts are added exactly; `partial_fit` goes on from there.

    Parameters
    ----------
    penalty : float
        Ridge penalty A_0 on the coefficients, in units of the noise variance, > 0; the intercept has 0.01.
    offline_weight : float
        Weight of a prompt of `fit` against one of `partial_fit`, > 0.
    seed : int
        Of `sample`.

    Attributes
    ----------
    theta_ : array of shape (m, d + 1)
        Posterior means.
    precision_ : array of shape (g, d + 1, d + 1)
        The distinct A; arms asked on the same prompts share one.
    group_ : array of shape (m,)
        Which one each arm has.
    response_ : array of shape (m, d + 1)
        b.
    squares_, total_, count_ : arrays of shape (m,)
        Sums of weight times squared outcome (that of the prior included), of weight times outcome, and of the weights.
    noise_ : array of shape (m,)
        s_m^2.
    """

    grid: ClassVar[tuple[Mapping[str, Any], ...]] = tuple({"penalty": penalty} for penalty in (3.0, 10.0, 30.0, 100.0))

    def __init__(self, penalty: float = 10.0, *, offline_weight: float = 1.0, seed: int = 0) -> None:
        self.penalty = penalty
        self.offline_weight = offline_weight
        self.seed = seed

    def sample(self, X: FloatArray, *, draw: int = 0) -> FloatArray:
        """Return outcomes expected under one draw of every arm's coefficients from the posterior, shape (n, m).

        The coefficients of one `draw` are the same for all rows, as in linear Thompson sampling; the next request
        takes the next number. Not clipped.
        """
        X = self._check_predict(X)
        generator = np.random.default_rng([self.seed, draw])
        rows = _with_intercept(X)
        drawn = []
        for arm, group in enumerate(self.group_):
            noise = generator.standard_normal(rows.shape[1])
            theta = self.theta_[arm] + np.sqrt(self.noise_[arm]) * (self.root_[group].T @ noise)
            drawn.append(rows @ theta)
        return np.stack(drawn, axis=1)[:, self.columns_]

    # Hooks of the bases

    def _learn(self, X: FloatArray, y: FloatArray, weight: FloatArray) -> None:
        for name in ("penalty", "offline_weight"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be > 0; got {getattr(self, name)!r}")
        size, models = X.shape[1] + 1, y.shape[1]
        self.precision_ = self.penalty * np.eye(size)[None]
        self.precision_[0, -1, -1] = _INTERCEPT_PENALTY
        self.group_: IntArray = np.zeros(models, dtype=np.int64)
        self.response_ = np.zeros((models, size))
        self.squares_, self.total_, self.count_ = np.zeros((3, models))
        self._add(X, y, self.offline_weight * weight)

    def _update(self, X: FloatArray, y: FloatArray, weight: FloatArray) -> None:
        self._add(X, y, weight)

    def _estimate(self, X: FloatArray) -> tuple[FloatArray, FloatArray]:
        rows = _with_intercept(X)
        # Arm by arm, not as one matrix product: an arm's numbers do not depend on how many others there are.
        mean = np.stack([rows @ theta for theta in self.theta_], axis=1)
        leverage = np.stack([((rows @ root.T) ** 2).sum(axis=1) for root in self.root_], axis=1)
        std = np.sqrt(self.noise_ * leverage[:, self.group_])
        unseen = self.count_ == 0
        mean[:, unseen], std[:, unseen] = np.nan, np.nan
        return np.clip(mean, self.lower_, self.upper_), std

    def _new_column(self, X: FloatArray, y: FloatArray, weight: FloatArray, own: FloatArray) -> None:
        del own
        rows = _with_intercept(X)
        mean = float(np.average(y, weights=weight))
        additive = bool(np.isfinite(self.upper_))
        known, noise = self.count_ > 0, self._usual_noise(mean)
        profiles = np.where(known[:, None], self.theta_, np.nan).T
        population = Population.of(
            profiles, self.level_, np.eye(rows.shape[1])[-1], noise=noise, new_mean=None if additive else mean
        )
        prior = population.fitted_covariance(rows, y, noise / weight)
        precision = noise * np.linalg.inv(prior)
        precision = (precision + precision.T) / 2.0
        response = precision @ population.centre
        self.precision_ = np.concatenate([self.precision_, precision[None]])
        self.group_ = np.append(self.group_, len(self.precision_) - 1)
        self.response_ = np.concatenate([self.response_, response[None]])
        # The prior's own square, so that squares - b . theta is the residual about the prior and not about 0.
        self.squares_ = np.append(self.squares_, population.centre @ response)
        self.count_ = np.append(self.count_, 0.0)
        self.total_ = np.append(self.total_, 0.0)
        self._fitted_models += 1
        outcomes = np.full((len(X), self._fitted_models), np.nan)
        outcomes[:, -1] = y
        self._add(X, outcomes, weight)

    def _usual_noise(self, mean: float) -> float:
        """Return the known arms' mean noise variance, on the scale of an arm of this mean."""
        known = self.count_ > 0
        if not known.any():
            return float(presumed_variance(np.array(mean), np.array(0.0), self.upper_))
        if np.isfinite(self.upper_):
            return float(self.noise_[known].mean())
        relative = self.noise_[known] / np.maximum(self.level_[known] ** 2, 1e-12)
        return max(float(relative.mean()) * mean**2, 1e-12)

    # The posterior

    def _add(self, X: FloatArray, y: FloatArray, weight: FloatArray) -> None:
        """Add outcomes y (n, m) with NaN of prompts X (n, d) to the sums."""
        rows = _with_intercept(X)
        asked = np.isfinite(y)
        outcome = np.where(asked, y, 0.0)
        precisions: list[FloatArray] = []
        places: dict[tuple[int, bytes], int] = {}
        group = np.empty_like(self.group_)
        for arm in range(y.shape[1]):
            key = int(self.group_[arm]), asked[:, arm].tobytes()
            if key not in places:
                places[key] = len(precisions)
                seen = rows[asked[:, arm]]
                precisions.append(self.precision_[key[0]] + (seen * weight[asked[:, arm], None]).T @ seen)
            group[arm] = places[key]
        self.precision_, self.group_ = np.stack(precisions), group
        self.response_ = self.response_ + (weight[:, None] * outcome).T @ rows
        self.squares_ = self.squares_ + weight @ outcome**2
        self.total_ = self.total_ + weight @ outcome
        self.count_ = self.count_ + weight @ asked
        self._solve()

    def _solve(self) -> None:
        factors = np.linalg.cholesky(self.precision_)
        identity = np.eye(factors.shape[1])
        self.root_ = np.stack([np.linalg.solve(factor, identity) for factor in factors])
        self.theta_ = np.stack(
            [self.root_[group].T @ (self.root_[group] @ self.response_[arm]) for arm, group in enumerate(self.group_)]
        )
        asked = self.count_ > 0
        self.level_ = np.where(asked, self.total_ / np.where(asked, self.count_, 1.0), np.nan)
        residual = np.maximum(self.squares_ - (self.response_ * self.theta_).sum(axis=1), 0.0)
        presumed = _NOISE_PROMPTS * presumed_variance(
            self.level_, residual / np.maximum(self.count_, 1e-12), self.upper_
        )
        self.noise_ = (residual + presumed) / (self.count_ + _NOISE_PROMPTS)

    def _learned(self) -> Learned:
        return {name: getattr(self, f"{name}_") for name in _LEARNED}, {}

    def _restore(self, arrays: Mapping[str, FloatArray], values: Mapping[str, Any], index: VectorIndex | None) -> None:
        del values, index
        for name in _LEARNED:
            setattr(self, f"{name}_", arrays[name])


def _with_intercept(X: FloatArray) -> FloatArray:
    """Return the float64 rows of X (n, d) with a 1 appended, shape (n, d + 1)."""
    return np.concatenate([X.astype(np.float64), np.ones((len(X), 1))], axis=1)
