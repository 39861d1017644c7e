"""RouterDC: learned model embeddings, and prompts drawn to those of the models that do best on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from llmrouter.encoders._head import ProjectionHead, unit
from llmrouter.exceptions import ConfigError
from llmrouter.routers._clusters import cosines, nearest_clusters, spherical_kmeans
from llmrouter.routers._contrastive import ContrastiveRouter, Split
from llmrouter.routers._contrastive_fit import Objective, Trained
from llmrouter.routers._contrastive_loss import sample_llm_loss, sample_sample_loss
from llmrouter.types import FloatArray, IntArray

_FIRST_SPREAD = 0.78


class RouterDCRouter(ContrastiveRouter):
    """Cosine of the projected prompt with a learned embedding of each model, read as quality.

    RouterDC (arXiv 2409.19886) fine-tunes a sentence encoder and learns one embedding a model by two contrastive
    losses: the three best models of a prompt against its three worst (`sample_llm_loss`), and prompts of one cluster
    against those of others (`sample_sample_loss`); it takes the model of the largest cosine.

    Ours, inside `fit`: a head over the frozen encoder in place of fine-tuning (`training.contrastive` fine-tunes the
    encoder, end to end), clusters by k-means of the embeddings in place of t-SNE and k-means, and cosines calibrated
    to quality on prompts that the head has not seen (`ContrastiveRouter`), so that cost can be traded against it. The
    cost-aware variant learns from outcomes less `cost_rate` times the cost, min-max normalised over the pool.

    A new model needs N scored prompts: the paper would retrain, here it is a column beside the others
    (`BaseRouter.add_column`).

    Parameters
    ----------
    dimension : int
        Length of the model embeddings.
    best, worst : int
        K+ and K-.
    temperature : float
        Of the sample-LLM softmax; 1 in the paper.
    sample_weight_ratio : float
        Weight of the sample-sample loss (lambda), >= 0.
    clusters, negatives : int
        Clusters of prompts, and prompts of other clusters for each (H).
    costs : sequence of float or str, optional
        Costs of the models in the order of the columns, in any unit; as text ``0.2|1|30``. None: all alike.
    cost_rate : float
        Outcome given up for the dearest model's cost, >= 0; 0 is the paper's main form.
    hidden : int
        Width of the hidden layer; 0 is a linear head.
    members : int
        Heads, each without another fold.
    epochs, patience, batch, learning_rate, decay : int, int, int, float, float
        Of AdamW and early stopping.
    seed : int
        Of clusters, folds, first weights and batches.
    """

    grid: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"best": 3, "worst": 3},
        {"best": 4, "worst": 4},
        {"best": 3, "worst": 3, "hidden": 0},
    )

    def __init__(
        self,
        dimension: int = 64,
        *,
        best: int = 3,
        worst: int = 3,
        temperature: float = 1.0,
        sample_weight_ratio: float = 1.0,
        clusters: int = 5,
        negatives: int = 3,
        costs: Sequence[float] | str | None = None,
        cost_rate: float = 0.0,
        hidden: int = 64,
        members: int = 5,
        epochs: int = 30,
        patience: int = 3,
        batch: int = 256,
        learning_rate: float = 3e-3,
        decay: float = 0.01,
        seed: int = 0,
    ) -> None:
        self.dimension = dimension
        self.best = best
        self.worst = worst
        self.temperature = temperature
        self.sample_weight_ratio = sample_weight_ratio
        self.clusters = clusters
        self.negatives = negatives
        self.costs = costs
        self.cost_rate = cost_rate
        self.hidden = hidden
        self.members = members
        self.epochs = epochs
        self.patience = patience
        self.batch = batch
        self.learning_rate = learning_rate
        self.decay = decay
        self.seed = seed

    def _check_parameters(self, models: int) -> None:
        super()._check_parameters(models)
        for name in ("dimension", "best", "worst", "clusters", "negatives"):
            if not isinstance(getattr(self, name), int | np.integer) or getattr(self, name) < 1:
                raise ConfigError(f"{name} must be a whole number >= 1; got {getattr(self, name)!r}")
        for name in ("sample_weight_ratio", "cost_rate"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must be >= 0; got {getattr(self, name)!r}")
        if not self.temperature > 0:
            raise ConfigError(f"temperature must be > 0; got {self.temperature!r}")

    def _start(
        self, X: FloatArray, y: FloatArray, weight: FloatArray, split: Split, generator: np.random.Generator
    ) -> tuple[Trained, Objective]:
        rest = split.rest
        centroids = spherical_kmeans(X[rest], int(self.clusters), weight=weight[rest], seed=self.seed)
        cluster = nearest_clusters(cosines(X, centroids), 1)[:, 0]
        costs = self._costs_of(y.shape[1])
        span = float(costs.max() - costs.min()) or 1.0
        score = self._relevance(y) - self.cost_rate * (costs - costs.min()) / span
        ties = np.random.default_rng([self.seed, split.number, 2]).random(y.shape)
        drawn = np.random.default_rng([self.seed, split.number, 1])

        def objective(
            queries: FloatArray, vectors: FloatArray, rows: IntArray, learning: bool
        ) -> tuple[float, FloatArray, FloatArray]:
            directions, lengths = unit(vectors)
            loss, slope = sample_llm_loss(
                queries @ directions.T, score[rows], weight[rows],
                best=int(self.best), worst=int(self.worst), temperature=self.temperature, ties=ties[rows],
            )  # fmt: skip
            slope = slope.astype(np.float32)
            by_query, by_direction = slope @ directions, slope.T @ queries
            if learning and self.sample_weight_ratio:  # held-out prompts are judged by how models are told apart alone
                more, towards = sample_sample_loss(
                    queries, cluster[rows], negatives=int(self.negatives), generator=drawn
                )
                loss += self.sample_weight_ratio * more
                by_query = by_query + np.float32(self.sample_weight_ratio) * towards
            across = (directions * by_direction).sum(axis=1, keepdims=True)
            return loss, by_query, (by_direction - directions * across) / lengths

        head = ProjectionHead.first(self._sizes(X.shape[1], int(self.dimension)), generator)
        return (head, generator.normal(scale=_FIRST_SPREAD, size=(y.shape[1], int(self.dimension)))), objective
