"""What the pool's models turned out to be worth since the training, against what was expected: a bounded correction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmrouter.learning._online_features import LocalFeatures
from llmrouter.types import FloatArray, IntArray


@dataclass(frozen=True)
class ResidualPrior:
    """What is presumed of ``observed - expected`` before any outcome: standard deviations.

    Attributes
    ----------
    bias_std : float
        Of a model's change that is the same for all prompts.
    local_std : float
        Of its change at a place in embedding space.
    shared_bias_std, shared_local_std : float
        The same of what all models share: prompts that are harder than those of the training, a stricter judge.
    noise_std : float
        Of one judged answer around its expectation; 0.5 is that of a coin.
    """

    bias_std: float = 0.1
    local_std: float = 0.15
    shared_bias_std: float = 0.1
    shared_local_std: float = 0.15
    noise_std: float = 0.4


@dataclass(frozen=True)
class ResidualCorrection:
    """A correction of expected quality, `llmrouter.engine.Correction`; made by `fit_residuals`.

    Attributes
    ----------
    features : LocalFeatures
        f of them.
    mean : array of shape (c, f)
        Coefficients of the expected residual of the pool's c models.
    root : array of shape (f, c * f)
        Beside each other, R of each model's posterior covariance ``R R'``.
    prior : array of shape (c, f)
        Prior variances of the coefficients.
    bound : float
        Largest change of an expected quality.
    """

    features: LocalFeatures
    mean: FloatArray
    root: FloatArray
    prior: FloatArray
    bound: float

    def change(self, features: FloatArray) -> FloatArray:
        """Return by how much expected qualities change at places given by their features (n, f): shape (n, c)."""
        changes: FloatArray = np.clip(features @ self.mean.T, -self.bound, self.bound)
        return changes

    def correct(self, X: FloatArray, quality: FloatArray, std: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return quality and standard error of the pool's c models, each (n, c), for prompts X (n, d).

        A model's expected quality moves by its expected residual, `bound` at most; its standard error shrinks as the
        residual's does.
        """
        features = self.features.of(X)
        change = self.change(features)
        spread = (features @ self.root).reshape(len(X), *self.mean.shape)
        left = np.sqrt((spread**2).sum(axis=2) / (features**2 @ self.prior.T))
        return np.clip(quality + change, 0.0, 1.0), std * np.minimum(left, 1.0)


def fit_residuals(
    features: LocalFeatures,
    phi: FloatArray,
    column: IntArray,
    residual: FloatArray,
    weight: FloatArray,
    *,
    priors: Sequence[ResidualPrior],
    bound: float,
) -> ResidualCorrection:
    """Return the posterior of each model's residual, a linear model of the features with normal priors.

    The residual of model m on prompt x is ``phi(x) . (shared + own_m)``. Without the shared part a region of hard
    prompts would speak against the model that is used there, and for those that would do no better. Each `own_m`
    depends on the others through `shared` alone, so it is eliminated first: c systems of f equations, and one more.

    Parameters
    ----------
    features : LocalFeatures
        f of them.
    phi : array of shape (n, f)
        Features of the outcomes' prompts.
    column, residual, weight : arrays of shape (n,)
        The pool's model that answered, ``observed - expected`` quality, weight > 0.
    priors : sequence of ResidualPrior, length c
        By model of the pool; what is shared, and the noise, are those of the first.
    bound : float
        Largest change of an expected quality.
    """
    own = np.stack([_variances(prior.bias_std, prior.local_std, features.size) for prior in priors])
    shared = _variances(priors[0].shared_bias_std, priors[0].shared_local_std, features.size)
    precision = weight / priors[0].noise_std ** 2
    left, right = np.diag(1.0 / shared), np.zeros(features.size)
    parts = []
    for model, variance in enumerate(own):
        rows = np.flatnonzero(column == model)
        weighted = phi[rows] * precision[rows, None]
        gram, target = phi[rows].T @ weighted, weighted.T @ residual[rows]
        inverse = np.linalg.inv(np.diag(1.0 / variance) + gram)
        kept = inverse / variance  # I - inverse @ gram: what of the shared part the model's own outcomes do not explain
        left += gram @ kept
        right += kept.T @ target
        parts.append((inverse, kept, target))
    covariance = np.linalg.inv(left)
    common = covariance @ right
    means, roots = [], []
    for inverse, kept, target in parts:
        means.append(kept @ common + inverse @ target)
        total = kept @ covariance @ kept.T + inverse
        roots.append(np.linalg.cholesky(0.5 * (total + total.T)))
    return ResidualCorrection(
        features=features,
        mean=np.array(means),
        root=np.concatenate(roots, axis=1),
        prior=own + shared,
        bound=bound,
    )


def _variances(bias_std: float, local_std: float, size: int) -> FloatArray:
    variances = np.full(size, local_std**2)
    variances[0] = bias_std**2
    return variances
