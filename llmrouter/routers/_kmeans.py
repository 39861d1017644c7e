"""UniRoute's k-means router."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from llmrouter.routers._cluster_router import ClusterRouter
from llmrouter.routers._clusters import nearest_clusters
from llmrouter.types import FloatArray, IntArray


class UniRouteRouter(ClusterRouter):
    """Predict each model's outcome as its mean in the prompt's cluster.

    The k-means form of "Universal Model Routing" (UniRoute, arXiv 2502.08773): the expected loss of model h on prompt x
    is ``Phi(x) . Psi(h)`` with Phi the indicator of the cluster of x and Psi_k(h) the mean loss of h on the scored
    prompts in cluster k; K = 1 is the Zero router. The paper tries K in {5, 10, 25, ..., 300} on validation prompts
    and does not shrink.

    Ours differs in three points. Clusters are those of spherical k-means, and prompts are assigned by the same rule
    (cosine with unit centroids) at fit and at serving; a re-implementation that fitted by Euclidean distance and
    assigned by cosine was found much weaker than the method. Cluster means are shrunk towards the model's mean, by
    empirical Bayes unless a strength is given. The outcome may be any amount, so cost is estimated the same way,
    where the paper has one cost a model.

    Standard errors are those of the shrunk cluster mean (see `ClusterRouter`).

    A new model needs N scored prompts and no gradient (the paper: about 400): its cluster means are shrunk towards
    what the known models' say, hierarchically, so that 20 to 50 prompts already place it (`ClusterRouter`).

    Parameters
    ----------
    clusters : int
        K.
    shrinkage : float or None
        Weight of the model's mean, in prompts; None estimates it.
    seed : int
        Of k-means++.
    """

    grid: ClassVar[tuple[Mapping[str, Any], ...]] = tuple({"clusters": count} for count in (10, 20, 40, 80))

    def __init__(self, clusters: int = 40, *, shrinkage: float | None = None, seed: int = 0) -> None:
        self.clusters = clusters
        self.shrinkage = shrinkage
        self.seed = seed

    def _membership(self, similarities: FloatArray) -> tuple[IntArray | None, FloatArray]:
        return nearest_clusters(similarities, 1), np.ones((len(similarities), 1))
