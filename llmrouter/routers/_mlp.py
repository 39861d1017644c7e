"""Multilayer perceptrons, a small ensemble of them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from llmrouter.exceptions import ConfigError
from llmrouter.index import VectorIndex
from llmrouter.routers._axes import BoolArray
from llmrouter.routers._base import BaseRouter, Learned
from llmrouter.routers._ensemble import Targets, bootstraps, mean_and_error
from llmrouter.types import FloatArray

_BATCH = 256
_PATIENCE = 4
_DECAY = (0.9, 0.999)

Layers = list[tuple[FloatArray, FloatArray]]


class MLPRouter(BaseRouter):
    """Perceptrons with one output a model, trained with Adam on the observed cells.

    RouterBench (arXiv 2403.12031) fits one scikit-learn `MLPRegressor` a model: one hidden layer of 100, or 100 and
    100, ReLU, Adam with learning rate 1e-3, at most 200 epochs. Ours shares the hidden layers among the models, as
    CARROT (arXiv 2502.03261) shares an encoder, and learns qualities with a logistic output; a loss over observed
    cells only, which scikit-learn's perceptrons lack, is why the few lines of training are our own. Each member of
    the ensemble sees another Bayesian bootstrap of the prompts and stops by a tenth that it holds out.

    The standard error is the spread between members (see `llmrouter.routers._ensemble`). Taking in a new model needs N
    scored prompts (`add_column`).

    Parameters
    ----------
    hidden : sequence of int, or int
        Sizes of the hidden layers.
    members : int
        Perceptrons, averaged.
    learning_rate : float
        Of Adam.
    decay : float
        L2 penalty on weights, a prompt.
    epochs : int
        At most.
    seed : int
        Of bootstraps, first weights and batches.

    Attributes
    ----------
    layers_ : list of list of (weights, shift)
        Of each member.
    """

    grid: ClassVar[tuple[Mapping[str, Any], ...]] = ({"decay": 3e-3}, {"decay": 1e-2})

    def __init__(
        self,
        hidden: Sequence[int] | int = (100,),
        *,
        members: int = 5,
        learning_rate: float = 1e-3,
        decay: float = 3e-3,
        epochs: int = 60,
        seed: int = 0,
    ) -> None:
        self.hidden = hidden
        self.members = members
        self.learning_rate = learning_rate
        self.decay = decay
        self.epochs = epochs
        self.seed = seed

    @property
    def _sizes(self) -> tuple[int, ...]:
        return (self.hidden,) if isinstance(self.hidden, int | np.integer) else tuple(self.hidden)

    def _check_parameters(self) -> None:
        if not self._sizes or not all(isinstance(size, int | np.integer) and size > 0 for size in self._sizes):
            raise ConfigError(f"hidden must be whole numbers > 0; got {self.hidden!r}")
        for name in ("members", "epochs"):
            if not isinstance(getattr(self, name), int | np.integer) or getattr(self, name) < 1:
                raise ConfigError(f"{name} must be a whole number >= 1; got {getattr(self, name)!r}")
        if not self.learning_rate > 0 or not self.decay >= 0:
            raise ConfigError(
                f"learning_rate must be > 0 and decay >= 0; got {self.learning_rate!r} and {self.decay!r}"
            )

    def _learn(self, X: FloatArray, y: FloatArray, weight: FloatArray) -> None:
        self._check_parameters()
        targets = Targets.make(y, weight, bounds=(self.lower_, self.upper_))
        self.centre_ = X.mean(axis=0, dtype=np.float64)
        spread = float(np.sqrt(((X - self.centre_) ** 2).mean()))
        self.scale_ = spread if spread > 0 else 1.0
        inputs = ((X - self.centre_) / self.scale_).astype(np.float32)
        self.layers_ = []
        for share, held_out, generator in bootstraps(len(X), int(self.members), seed=self.seed):
            training = _Training(inputs, targets, share, learning_rate=self.learning_rate, decay=self.decay)
            layers = _first_layers((X.shape[1], *self._sizes, y.shape[1]), targets.start, generator)
            found = training.run(layers, held_out, epochs=int(self.epochs), generator=generator)
            self.layers_.append([(slopes.astype(np.float64), shift.astype(np.float64)) for slopes, shift in found])
        self.level_, self.unit_, self.least_ = targets.level, targets.unit, targets.least
        self.quality_ = targets.quality
        self.count_ = (targets.cells > 0).sum(axis=0).astype(np.float64)
        self.between_ = np.zeros(y.shape[1])
        if self.members > 1:
            sample = X[np.linspace(0, len(X) - 1, min(len(X), 1000)).astype(np.int64)]
            self.between_ = self._members(sample).var(axis=0, ddof=1).mean(axis=0)

    def _members(self, X: FloatArray) -> FloatArray:
        """Return each member's predictions, shape (members, n, m)."""
        inputs = (X.astype(np.float64) - self.centre_) / self.scale_
        values = np.stack([_forward(layers, inputs)[-1] for layers in self.layers_])
        if self.quality_:
            return np.asarray(0.5 * (1.0 + np.tanh(0.5 * values)) * self.unit_)
        return np.asarray(np.clip(self.level_ + self.unit_ * values, self.least_, self.upper_))

    def _estimate(self, X: FloatArray) -> tuple[FloatArray, FloatArray]:
        return mean_and_error(self._members(X), self.between_, count=self.count_, quality=self.quality_)

    def _learned(self) -> Learned:
        arrays = {name: getattr(self, f"{name}_") for name in self._arrays}
        for member, layers in enumerate(self.layers_):
            for number, (slopes, shift) in enumerate(layers):
                arrays |= {f"slopes.{member}.{number}": slopes, f"shift.{member}.{number}": shift}
        return arrays, {
            "scale": self.scale_,
            "quality": self.quality_,
            "shape": [len(self.layers_), len(self._sizes) + 1],
        }

    _arrays = ("centre", "level", "unit", "least", "count", "between")

    def _restore(self, arrays: Mapping[str, FloatArray], values: Mapping[str, Any], index: VectorIndex | None) -> None:
        del index
        for name in self._arrays:
            setattr(self, f"{name}_", arrays[name])
        self.scale_, self.quality_ = values["scale"], values["quality"]
        members, depth = values["shape"]
        self.layers_ = [
            [(arrays[f"slopes.{member}.{number}"], arrays[f"shift.{member}.{number}"]) for number in range(depth)]
            for member in range(members)
        ]


def _first_layers(sizes: Sequence[int], start: FloatArray, generator: np.random.Generator) -> Layers:
    """Return He's first weights; the last layer begins at the columns' constant predictions."""
    layers = []
    for inputs, outputs in itertools.pairwise(sizes):
        slopes = generator.normal(scale=np.sqrt(2.0 / inputs), size=(inputs, outputs)).astype(np.float32)
        layers.append((slopes, np.zeros(outputs, dtype=np.float32)))
    layers[-1] = (0.1 * layers[-1][0], start.astype(np.float32))
    return layers


def _forward(layers: Layers, inputs: FloatArray) -> list[FloatArray]:
    """Return the activations of every layer, inputs first; the last has no ReLU."""
    active = [inputs]
    for number, (slopes, shift) in enumerate(layers):
        value = active[-1] @ slopes + shift
        active.append(np.maximum(value, 0.0) if number < len(layers) - 1 else value)
    return active


class _Training:
    """Adam on the weighted loss of the observed cells, in float32."""

    def __init__(
        self, inputs: FloatArray, targets: Targets, share: FloatArray, *, learning_rate: float, decay: float
    ) -> None:
        self.inputs, self.targets = inputs, targets
        self.learning_rate, self.decay = learning_rate, decay
        cells = targets.cells * share[:, None]
        self.cells = (cells / max(float(cells.sum()), 1e-12) * len(inputs)).astype(np.float32)
        self.y = targets.y.astype(np.float32)

    def run(self, layers: Layers, held_out: BoolArray, *, epochs: int, generator: np.random.Generator) -> Layers:
        """Train until the held-out loss has not fallen for some epochs; return the weights of the best one."""
        rows = np.flatnonzero(~held_out)
        moments = [[np.zeros_like(part) for part in layer for _ in range(2)] for layer in layers]
        best, kept, waited, step = np.inf, layers, 0, 0
        for _ in range(epochs):
            order = generator.permutation(rows)
            for start in range(0, len(order), _BATCH):
                step += 1
                gradients = self._gradients(layers, np.sort(order[start : start + _BATCH]))
                layers = [
                    self._step(layer, gradient, moment, step)
                    for layer, gradient, moment in zip(layers, gradients, moments, strict=True)
                ]
            if not held_out.any():
                kept = layers
                continue
            loss = self.targets.loss(_forward(layers, self.inputs[held_out])[-1].astype(np.float64), held_out)
            if loss < best - 1e-5:
                best, kept, waited = loss, layers, 0
            else:
                waited += 1
                if waited >= _PATIENCE:
                    break
        return kept

    def _gradients(self, layers: Layers, rows: Any) -> Layers:
        active = _forward(layers, self.inputs[rows])
        error = self.cells[rows] * (self.targets.link(active[-1]) - self.y[rows]) / np.float32(len(rows))
        gradients: Layers = []
        for number in range(len(layers) - 1, -1, -1):
            slopes = layers[number][0]
            gradients.append((active[number].T @ error + np.float32(self.decay) * slopes, error.sum(axis=0)))
            if number:
                error = (error @ slopes.T) * (active[number] > 0)
        return gradients[::-1]

    def _step(self, layer: Any, gradient: Any, moments: list[FloatArray], step: int) -> tuple[FloatArray, FloatArray]:
        """Return the layer after one step of Adam, whose moments are updated in place."""
        moved = []
        rate = np.float32(self.learning_rate * np.sqrt(1.0 - _DECAY[1] ** step) / (1.0 - _DECAY[0] ** step))
        for part, slope, first, second in zip(layer, gradient, moments[::2], moments[1::2], strict=True):
            first += np.float32(1.0 - _DECAY[0]) * (slope - first)
            second += np.float32(1.0 - _DECAY[1]) * (slope**2 - second)
            moved.append(part - rate * first / (np.sqrt(second) + np.float32(1e-8)))
        return moved[0], moved[1]
