"""Two steps: the prompt's category, then what each model does on that category."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

from llmrouter.exceptions import ConfigError, DataError
from llmrouter.routers._cluster_router import ClusterRouter
from llmrouter.routers._clusters import unit_rows
from llmrouter.types import FloatArray, IntArray


class TwoStepRouter(ClusterRouter):
    """Predict by category, and by the overall means where the category is unsure.

    The category router of Composition of Experts (CoE, arXiv 2412.01868): a small classifier over an embedding names
    the category, and a table says what each expert does on it; its version 0.3 leaves prompts with an uncertain
    category to a strong base model. The table of best experts under a budget is a policy's and is not made here.

    Here the categories are found by spherical k-means, or given as labels (`fit_labelled`), and the classifier is
    ``p(c|x) = softmax(sharpness * cos(x, centroid_c))``, a mixture of von Mises-Fisher distributions with one
    concentration. With ``sure = min(1, max_c p(c|x) / unsure)`` the estimate is::

        sure * sum_c p(c|x) mean_c + (1 - sure) * overall mean

    so that a doubtful prompt is estimated (and, by the policy, sent) as the average prompt: the paper's exit to the
    strong model, which is the one best overall, but without a threshold at which the choice jumps.

    Standard errors combine those of the cluster means and of the overall mean as independent.

    A new model needs N scored prompts: its category means are shrunk towards what the known models' say
    (`ClusterRouter`); the classifier stays as it is.

    Parameters
    ----------
    clusters : int
        Number of categories to find.
    sharpness : float
        Concentration of the classifier, > 0.
    unsure : float
        Confidence below which the estimate moves to the overall means, in [0, 1); 0 never does.
    shrinkage : float or None
        Weight of the model's mean within a category, in prompts; None estimates it.
    seed : int
        Of k-means++.
    """

    grid: ClassVar[tuple[Mapping[str, Any], ...]] = tuple(
        {"clusters": count, "unsure": unsure} for count in (10, 40) for unsure in (0.0, 0.5)
    )

    def __init__(
        self,
        clusters: int = 25,
        *,
        sharpness: float = 40.0,
        unsure: float = 0.5,
        shrinkage: float | None = None,
        seed: int = 0,
    ) -> None:
        self.clusters = clusters
        self.sharpness = sharpness
        self.unsure = unsure
        self.shrinkage = shrinkage
        self.seed = seed

    def fit_labelled(
        self, X: FloatArray, y: FloatArray, labels: IntArray, sample_weight: FloatArray | None = None
    ) -> Self:
        """Like `fit`, with categories given.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.
        labels : array of shape (n,)
            Category of each prompt, of any kind that sorts; `clusters` is not used.

        Raises
        ------
        DataError
            As `fit`, or if there is not one label a prompt.
        """
        X, y, weight = self._check_fit(X, y, sample_weight)
        self._check_parameters()
        labels = np.asarray(labels)
        if labels.shape != (len(X),):
            raise DataError(f"labels must be ({len(X)},), one category a prompt; got {labels.shape}")
        keep = weight > 0
        _, numbers = np.unique(labels[keep], return_inverse=True)
        member = np.eye(int(numbers.max()) + 1)[numbers] * weight[keep, None]
        centroids = unit_rows(member.T @ unit_rows(X[keep])).astype(np.float32)
        self._learn_with(centroids, X[keep], y[keep], weight[keep])
        return self

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if not self.sharpness > 0:
            raise ConfigError(f"sharpness must be > 0; got {self.sharpness!r}")
        if not 0 <= self.unsure < 1:
            raise ConfigError(f"unsure must be in [0, 1); got {self.unsure!r}")

    def _membership(self, similarities: FloatArray) -> tuple[IntArray | None, FloatArray]:
        exponent = self.sharpness * (similarities - similarities.max(axis=1, keepdims=True))
        likely = np.exp(exponent)
        return None, likely / likely.sum(axis=1, keepdims=True)

    def _mixed(self, chosen: IntArray | None, weight: FloatArray) -> tuple[FloatArray, FloatArray]:
        mean, std = super()._mixed(chosen, weight)
        sure = np.minimum(1.0, weight.max(axis=1, keepdims=True) / max(self.unsure, 1e-12))
        variance = (sure * std) ** 2 + (1.0 - sure) ** 2 * self.overall_variance_
        return sure * mean + (1.0 - sure) * self.overall_, np.sqrt(variance)
