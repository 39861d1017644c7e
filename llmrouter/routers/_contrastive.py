"""Contrastive routers: prompts and models in one space, near where they go together (CSCR, RouterDC)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np

from llmrouter.encoders._head import ProjectionHead
from llmrouter.exceptions import ConfigError, DataError
from llmrouter.index import VectorIndex
from llmrouter.routers._base import BaseRouter, Learned
from llmrouter.routers._contrastive_fit import Objective, Schedule, Trained, train_head
from llmrouter.routers._similarity_map import SimilarityMap
from llmrouter.types import FloatArray, IntArray

_VALIDATION = 5
"""One member holds out a fifth."""


@dataclass(frozen=True)
class Split:
    """What one member learns from, `rest`, and what it is stopped and calibrated by, `held_out`; rows of the data."""

    number: int
    rest: IntArray
    held_out: IntArray


class ContrastiveRouter(BaseRouter):
    """What CSCR and RouterDC share: heads trained on folds, cosines with model vectors, cosines read as quality.

    Each of `members` heads is trained without one fold of the prompts, which stops it early and on which its cosines
    are related to the outcomes (`llmrouter.routers._similarity_map`): no prompt is calibrated by a head that has seen
    it. A decision is one product of the members' queries, side by side, with the models' vectors: the mean cosine.

    Standard errors are those of the calibration; the heads are taken as known.

    Attributes
    ----------
    heads_ : list of ProjectionHead
        One a member.
    vectors_ : array of shape (members, m, D)
        Unit vectors of the models; of those that joined included, where the method has vectors for them.
    map_ : SimilarityMap
        From cosine to outcome.
    """

    cost_router: ClassVar[str | None] = "uniroute"

    members: int
    hidden: int
    epochs: int
    learning_rate: float
    decay: float
    batch: int
    patience: int
    costs: Sequence[float] | str | None
    seed: int

    def similarity(self, X: FloatArray) -> FloatArray:
        """Return the mean cosine of prompts X (n, d) and models, (n, m): what the papers choose by, in no unit.

        Columns are those of `fit` and, where the method has vectors for them, of models that joined; dropped ones stay.
        """
        return self._cosines(self._check_predict(X))

    # What a subclass says

    def _start(
        self, X: FloatArray, y: FloatArray, weight: FloatArray, split: Split, generator: np.random.Generator
    ) -> tuple[Trained, Objective]:
        """Return first weights of one member and what it minimises."""
        raise NotImplementedError

    def adopt(
        self,
        X: FloatArray,
        y: FloatArray,
        trained: Trained,
        *,
        held_out: IntArray,
        sample_weight: FloatArray | None = None,
    ) -> Self:
        """Take a head and model vectors that were trained elsewhere, such as by `training.contrastive`.

        Parameters
        ----------
        X, y : arrays of shape (n, d) and (n, m)
            Embeddings and outcomes, as for `fit`.
        trained : tuple of ProjectionHead and array of shape (m, D)
            A head without layers takes the embeddings as they are: those of an encoder trained end to end.
        held_out : array of row numbers
            Prompts that the training has not seen; the cosines are calibrated on them alone.
        sample_weight : array of shape (n,), optional
            Weight of each prompt.

        Raises
        ------
        DataError
            If shapes disagree, or nothing is held out.
        """
        X, y, weight = self._check_fit(X, y, sample_weight)
        self._check_parameters(y.shape[1])
        head, vectors = trained
        inputs = head.layers[0].shape[0] if head.layers else vectors.shape[1]
        outputs = head.layers[-1].shape[1] if head.layers else X.shape[1]
        if inputs != X.shape[1] or vectors.shape != (y.shape[1], outputs):
            raise DataError(
                f"trained: the head takes {inputs} dimensions and gives {outputs}, the vectors have the shape "
                f"{vectors.shape}; X is {X.shape} and y {y.shape}: use the encoder and the models it was trained with"
            )
        if not len(held_out):
            raise DataError("held_out is empty; hold some prompts out of the training to calibrate on")
        self.heads_, self.vectors_ = [head], _unit_rows(vectors)[None]
        self.map_ = SimilarityMap.fit(self._cosines(X[held_out]), y[held_out], weight[held_out], upper=self.upper_)
        return self

    # Hooks of the base

    def _learn(self, X: FloatArray, y: FloatArray, weight: FloatArray) -> None:
        self._check_parameters(y.shape[1])
        keep = weight > 0
        X, y, weight = X[keep], y[keep], weight[keep]
        schedule = Schedule(self.epochs, self.patience, self.batch, self.learning_rate, self.decay)
        similarity = np.full(y.shape, np.nan)
        self.heads_, vectors = [], []
        for split in self._splits(len(X)):
            generator = np.random.default_rng([self.seed, split.number])
            start, objective = self._start(X, y, weight, split, generator)
            head, unscaled = train_head(
                X, start, objective, rows=split.rest, held_out=split.held_out, schedule=schedule, generator=generator
            )
            self.heads_.append(head)
            vectors.append(_unit_rows(unscaled))
            judged = split.held_out if len(split.held_out) else split.rest
            similarity[judged] = head.project(X[judged].astype(np.float64)) @ vectors[-1].T
        self.vectors_ = np.stack(vectors)
        scored = np.isfinite(similarity).all(axis=1)
        self.map_ = SimilarityMap.fit(similarity[scored], y[scored], weight[scored], upper=self.upper_)

    def _splits(self, n: int) -> list[Split]:
        order = np.random.default_rng(self.seed).permutation(n)
        if n == 1:
            return [Split(0, order, order[:0])]
        parts = np.array_split(order, min(n, max(self.members, _VALIDATION if self.members == 1 else 1)))
        return [
            Split(number, np.sort(np.setdiff1d(order, part)), np.sort(part))
            for number, part in enumerate(parts[: self.members])
        ]

    def _cosines(self, X: FloatArray) -> FloatArray:
        """Return the mean cosine of each prompt with each model that has a vector, (n, m)."""
        rows = X.astype(np.float64)
        # All members side by side are one query; model by model, not as one matrix product, so that a model's numbers
        # do not depend on how many others there are.
        queries = np.concatenate([head.project(rows) for head in self.heads_], axis=1)
        models = np.concatenate(list(self.vectors_), axis=1)
        return np.stack([np.vecdot(queries, model) for model in models], axis=1) / len(self.heads_)

    def _usual(self, similarity: FloatArray) -> FloatArray:
        """Return the mean cosine of each prompt with the models known at `fit`, (n,)."""
        return np.asarray(np.ascontiguousarray(similarity[:, : self._known_at_fit]).mean(axis=1))

    def _estimate(self, X: FloatArray) -> tuple[FloatArray, FloatArray]:
        similarity = self._cosines(X)
        mean, std = self.map_.expected(similarity, self._usual(similarity))
        return np.clip(mean, self.lower_, self.upper_), std

    @property
    def _known_at_fit(self) -> int:
        return self._fitted_models

    def _learned(self) -> Learned:
        arrays = {"vectors": self.vectors_} | self.map_.arrays()
        for number, head in enumerate(self.heads_):
            arrays |= head.arrays(f"head.{number}.")
        return arrays, {"members": len(self.heads_)}

    def _restore(self, arrays: Mapping[str, FloatArray], values: Mapping[str, Any], index: VectorIndex | None) -> None:
        del index
        self.vectors_, self.map_ = arrays["vectors"], SimilarityMap.from_arrays(arrays)
        self.heads_ = [ProjectionHead.from_arrays(arrays, f"head.{number}.") for number in range(values["members"])]

    # Parameters

    def _check_parameters(self, models: int) -> None:
        for name in ("members", "batch", "patience"):
            if not isinstance(getattr(self, name), int | np.integer) or getattr(self, name) < 1:
                raise ConfigError(f"{name} must be a whole number >= 1; got {getattr(self, name)!r}")
        for name in ("hidden", "epochs"):
            if not isinstance(getattr(self, name), int | np.integer) or getattr(self, name) < 0:
                raise ConfigError(f"{name} must be a whole number >= 0; got {getattr(self, name)!r}")
        if not self.learning_rate > 0 or not self.decay >= 0:
            raise ConfigError(
                f"learning_rate must be > 0 and decay >= 0; got {self.learning_rate!r} and {self.decay!r}"
            )
        self._costs_of(models)

    def _costs_of(self, models: int) -> FloatArray:
        """Return the costs of the models, (m,); all alike where none were given."""
        if self.costs is None:
            return np.zeros(models)
        try:
            parts = self.costs.split("|") if isinstance(self.costs, str) else self.costs
            costs = np.array([float(part) for part in parts])
        except (TypeError, ValueError) as error:
            raise ConfigError(f"costs must be numbers, as 0.2|1|30 or [0.2, 1, 30]; got {self.costs!r}") from error
        if costs.shape != (models,) or not np.isfinite(costs).all() or (costs < 0).any():
            raise ConfigError(
                f"costs must be {models} finite numbers >= 0, one for each model in the order of the columns; "
                f"got {self.costs!r}"
            )
        return costs

    def _sizes(self, inputs: int, outputs: int) -> tuple[int, ...]:
        return (inputs, self.hidden, outputs) if self.hidden else (inputs, outputs)

    def _relevance(self, y: FloatArray) -> FloatArray:
        """Return outcomes as degrees of being right, in [0, 1]; amounts by their share of the largest."""
        if np.isfinite(self.upper_):
            return y
        largest = float(np.nanmax(np.abs(y))) if np.isfinite(y).any() else 1.0
        return np.clip(y / (largest or 1.0), 0.0, 1.0)


def checked_choice(name: str, value: object, choices: Any) -> None:
    """Refuse a value that is not one of a Literal's.

    Raises
    ------
    ConfigError
        Naming the parameter, the value and the choices.
    """
    if value not in get_args(choices):
        raise ConfigError(f"{name} must be one of {', '.join(get_args(choices))}; got {value!r}")


def _unit_rows(vectors: FloatArray) -> FloatArray:
    lengths = np.sqrt((vectors * vectors).sum(axis=1, keepdims=True))
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1.0), dtype=np.float64)


Sign = Literal["minus", "plus"]
