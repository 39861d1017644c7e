"""What every cluster router shares: outcomes counted by cluster, shrunk means of them, and models that join."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from llmrouter.exceptions import ConfigError
from llmrouter.index import VectorIndex
from llmrouter.routers._base import Learned
from llmrouter.routers._clusters import cosines, nearest_clusters, spherical_kmeans
from llmrouter.routers._online import OnlineBase
from llmrouter.routers._population import Population, presumed_variance
from llmrouter.types import FloatArray, IntArray

_MOST_SHRINKAGE = 1e4
_LEAST_SHRINKAGE = 0.5


class ClusterRouter(OnlineBase):
    """Expects of a prompt a weighted mean of cluster means; subclasses say which clusters, with which weights.

    Each model's outcomes are counted by cluster (of the nearest centroid) and the cluster means are shrunk towards
    the model's own mean: ``(sum in the cluster + s * mean) / (count in the cluster + s)``. With ``shrinkage=None`` the
    strength s is, for each model, the variance within clusters over the variance between them (empirical Bayes, by
    moments), so that clusters that do not differ are pooled and small ones do not speak loudly.

    The standard error is that of the shrunk cluster mean, ``sqrt(variance within / (count + s))``, combined over the
    clusters that speak as independent.

    A new model needs its outcomes on N scored prompts: its cluster means are the posterior under a population of the
    models known at `fit` (`llmrouter.routers._population`). `partial_fit` updates the counts; centroids stay.

    Attributes
    ----------
    centroids_ : array of shape (K, d), float32
        Unit centroids.
    total_, first_, second_ : arrays of shape (K, m)
        Sums of the weights, of weight times outcome, of weight times squared outcome; models that joined included.
    table_, variance_ : arrays of shape (K, m)
        Shrunk cluster means and the squares of their standard errors.
    overall_, overall_variance_ : arrays of shape (m,)
        The same over all clusters.
    """

    clusters: int
    shrinkage: float | None
    seed: int

    # What a subclass may say for itself

    def _membership(self, similarities: FloatArray) -> tuple[IntArray | None, FloatArray]:
        """Return clusters (n, p) and weights (n, p) from cosines (n, K); None for all of the clusters in order."""
        raise NotImplementedError

    def _check_parameters(self) -> None:
        if not isinstance(self.clusters, int | np.integer) or self.clusters < 1:
            raise ConfigError(f"clusters must be a whole number >= 1; got {self.clusters!r}")
        if self.shrinkage is not None and not self.shrinkage >= 0:
            raise ConfigError(f"shrinkage must be >= 0, or None to estimate it; got {self.shrinkage!r}")

    def _refine(self, X: FloatArray, y: FloatArray, weight: FloatArray) -> None:
        """Learn more once the cluster means are known; X, y, weight without prompts of weight 0."""

    # Hooks of the base

    def _learn(self, X: FloatArray, y: FloatArray, weight: FloatArray) -> None:
        self._check_parameters()
        keep = weight > 0
        X, y, weight = X[keep], y[keep], weight[keep]
        if len(X):
            centroids = spherical_kmeans(X, int(self.clusters), weight=weight, seed=self.seed)
        else:
            centroids = np.zeros((1, self.n_features_in_), dtype=np.float32)
        self._learn_with(centroids, X, y, weight)

    def _learn_with(self, centroids: FloatArray, X: FloatArray, y: FloatArray, weight: FloatArray) -> None:
        self.centroids_ = centroids
        self.total_, self.first_, self.second_ = np.zeros((3, len(centroids), y.shape[1]))
        self._base = y.shape[1]
        self._count(X, y, weight)
        self._refresh()
        self._refine(X, y, weight)

    def _estimate(self, X: FloatArray) -> tuple[FloatArray, FloatArray]:
        chosen, weight = self._membership(cosines(X, self.centroids_))
        return self._mixed(chosen, weight)

    def _mixed(self, chosen: IntArray | None, weight: FloatArray) -> tuple[FloatArray, FloatArray]:
        means = self.table_[None] if chosen is None else self.table_[chosen]
        variances = self.variance_[None] if chosen is None else self.variance_[chosen]
        share = weight[:, :, None]
        mean = np.add.reduce(share * means, axis=1)
        variance = np.add.reduce(share * share * variances, axis=1)
        return np.minimum(np.maximum(mean, self.lower_), self.upper_), np.sqrt(variance)

    def _learned(self) -> Learned:
        arrays = {
            "centroids": self.centroids_,
            "total": self.total_,
            "first": self.first_,
            "second": self.second_,
            "table": self.table_,
            "variance": self.variance_,
            "overall": self.overall_,
            "overall_variance": self.overall_variance_,
        }
        return arrays, {"base": self._base}

    def _restore(self, arrays: Mapping[str, FloatArray], values: Mapping[str, Any], index: VectorIndex | None) -> None:
        del index
        self._base = values["base"]
        self.centroids_ = arrays["centroids"]
        self.total_, self.first_, self.second_ = (arrays[name] for name in ("total", "first", "second"))
        self.table_, self.variance_ = arrays["table"], arrays["variance"]
        self.overall_, self.overall_variance_ = arrays["overall"], arrays["overall_variance"]

    def _update(self, X: FloatArray, y: FloatArray, weight: FloatArray) -> None:
        self._count(X, y, weight)
        self._refresh()

    def _new_column(self, X: FloatArray, y: FloatArray, weight: FloatArray, own: FloatArray) -> None:
        del own
        wider = [np.pad(sums, ((0, 0), (0, 1))) for sums in (self.total_, self.first_, self.second_)]
        self.total_, self.first_, self.second_ = wider
        self._fitted_models += 1
        outcomes = np.full((len(X), self._fitted_models), np.nan)
        outcomes[:, -1] = y
        self._count(X, outcomes, weight)
        self._refresh()

    # Counting and shrinking

    def _count(self, X: FloatArray, y: FloatArray, weight: FloatArray) -> None:
        """Add outcomes y (n, m) of prompts X (n, d) to the sums of their clusters."""
        assigned = nearest_clusters(cosines(X, self.centroids_), 1)[:, 0]
        observed = np.isfinite(y)
        outcomes = np.where(observed, y, 0.0)
        # New arrays, not in place: what `state` returned earlier must stay as it was.
        self.total_ = _grown(self.total_, assigned, observed * weight[:, None])
        self.first_ = _grown(self.first_, assigned, outcomes * weight[:, None])
        self.second_ = _grown(self.second_, assigned, outcomes**2 * weight[:, None])

    def _refresh(self) -> None:
        """Work out the shrunk means anew from the sums."""
        base = self._base
        table, variance, overall, overall_variance = self._own_means(base)
        for column in range(base, self.total_.shape[1]):
            joined = self._joined_mean(column, table, overall)
            table, variance = np.c_[table, joined[0]], np.c_[variance, joined[1]]
            overall = np.append(overall, joined[2])
            overall_variance = np.append(overall_variance, joined[3])
        self.table_, self.variance_ = np.ascontiguousarray(table), np.ascontiguousarray(variance)
        self.overall_, self.overall_variance_ = overall, overall_variance

    def _own_means(self, base: int) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        total, first, second = (sums[:, :base] for sums in (self.total_, self.first_, self.second_))
        count = total.sum(axis=0)
        seen = count > 0
        mean = np.where(seen, first.sum(axis=0) / np.where(seen, count, 1.0), np.nan)
        spread = np.maximum(second.sum(axis=0) / np.where(seen, count, 1.0) - np.nan_to_num(mean) ** 2, 0.0)
        within = _within_variance(total, first, second, presumed_variance(mean, spread, self.upper_))
        strength = self._strength(total, first, mean, within)
        table = (first + strength * np.nan_to_num(mean)) / np.maximum(total + strength, 1e-12)
        table = np.where((total + strength > 0) & seen, table, mean)
        variance = within / np.maximum(total + strength, 1.0)
        overall_variance = within / np.maximum(count, 1.0)
        variance[:, ~seen], overall_variance[~seen] = np.nan, np.nan
        return table, variance, mean, overall_variance

    def _strength(self, total: FloatArray, first: FloatArray, mean: FloatArray, within: FloatArray) -> FloatArray:
        """Return the shrinkage of each model, shape (m,), in prompts."""
        if self.shrinkage is not None:
            return np.full(len(mean), float(self.shrinkage))
        filled = total > 0
        deviation = np.where(filled, first / np.where(filled, total, 1.0) - np.nan_to_num(mean), 0.0)
        count = np.maximum(total.sum(axis=0), 1e-12)
        excess = (total * deviation**2).sum(axis=0) - (filled.sum(axis=0) - 1) * within
        spread = np.maximum(count - (total**2).sum(axis=0) / count, 1e-12)
        between = np.maximum(excess / spread, within / _MOST_SHRINKAGE)
        return np.asarray(np.clip(within / np.maximum(between, 1e-300), _LEAST_SHRINKAGE, _MOST_SHRINKAGE))

    def _joined_mean(
        self, column: int, table: FloatArray, overall: FloatArray
    ) -> tuple[FloatArray, FloatArray, float, float]:
        """Return cluster means, their variances, overall mean and its variance of a model that joined after fit."""
        base = self._base
        total, first, second = (sums[:, column] for sums in (self.total_, self.first_, self.second_))
        mean = float(first.sum() / max(total.sum(), 1e-12))
        additive = bool(np.isfinite(self.upper_))
        known = _within_variance(self.total_[:, :base], self.first_[:, :base], self.second_[:, :base], 0.0)
        usual = _usual_noise(known, overall[:base], None if additive else mean)
        if usual is None:
            usual = float(presumed_variance(np.array(mean), np.array(0.0), self.upper_))
        noise = float(_within_variance(total[:, None], first[:, None], second[:, None], 3.0 * usual, prompts=3.0)[0])
        population = Population.of(
            table[:, :base], overall[:base], np.ones(len(total)), noise=noise, new_mean=None if additive else mean
        )
        seen = total > 0
        design = np.eye(len(total))[seen]
        target, variance = first[seen] / total[seen], noise / total[seen]
        prior = population.fitted_covariance(design, target, variance)
        cross = prior[:, seen]
        gain = np.linalg.solve(cross[seen] + np.diag(variance), cross.T).T
        means = population.centre + gain @ (target - population.centre[seen])
        covariance = prior - gain @ cross.T
        share = self.total_[:, :base].sum(axis=1)
        share = share / share.sum() if share.sum() > 0 else np.full(len(total), 1.0 / len(total))
        floor = 1e-12 * max(noise, 1e-12)
        return (
            np.clip(means, self.lower_, self.upper_),
            np.maximum(np.diag(covariance), floor),
            float(np.clip(share @ means, self.lower_, self.upper_)),
            max(float(share @ covariance @ share), floor),
        )


def _grown(sums: FloatArray, assigned: IntArray, part: FloatArray) -> FloatArray:
    """Return the sums (K, m) with rows (n, m) added to those of their clusters (n,)."""
    grown = sums.copy()
    np.add.at(grown, assigned, part)
    return grown


def _within_variance(
    total: FloatArray, first: FloatArray, second: FloatArray, prior: FloatArray | float, *, prompts: float = 1.0
) -> FloatArray:
    """Return each model's variance within clusters, shape (m,); `prior` is a sum of squares, of `prompts` prompts."""
    filled = total > 0
    squares = second - np.where(filled, first**2 / np.where(filled, total, 1.0), 0.0)
    freedom = np.maximum(total.sum(axis=0) - filled.sum(axis=0), 0.0)
    return np.asarray((np.maximum(squares.sum(axis=0), 0.0) + prior) / (freedom + prompts))


def _usual_noise(within: FloatArray, means: FloatArray, new_mean: float | None) -> float | None:
    """Return the known models' mean variance, on the new model's scale; None where nothing is known."""
    known = np.isfinite(means) & (within > 0)
    if not known.any():
        return None
    if new_mean is None:
        return float(within[known].mean())
    return float((within[known] / np.maximum(means[known] ** 2, 1e-12)).mean()) * new_mean**2
