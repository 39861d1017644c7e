"""Trains the projection heads of contrastive routers inside `fit`: Adam with decoupled decay, in numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from llmrouter.encoders._head import ProjectionHead, unit
from llmrouter.types import FloatArray, IntArray

Trained = tuple[ProjectionHead, FloatArray]
Objective = Callable[[FloatArray, FloatArray, IntArray, bool], tuple[float, FloatArray, FloatArray | None]]
"""From unit queries (b, D), model vectors (m, D), rows (b,) and whether they are learned from (else judged) to the loss
and its gradients by the first two; None where the model vectors are fixed."""

_DECAYS = (0.9, 0.999)
_LEAST_GAIN = 1e-4
_LEARNING, _JUDGING = True, False


@dataclass(frozen=True)
class Schedule:
    """How long, how fast, and when to stop.

    Attributes
    ----------
    epochs, patience : int
        At most; epochs without a better held-out loss before stopping.
    batch : int
        Prompts a step.
    learning_rate, decay : float
        Of AdamW.
    """

    epochs: int
    patience: int
    batch: int
    learning_rate: float
    decay: float


def train_head(
    X: FloatArray,
    start: Trained,
    objective: Objective,
    *,
    rows: IntArray,
    held_out: IntArray,
    schedule: Schedule,
    generator: np.random.Generator,
) -> Trained:
    """Return head and model vectors at the epoch of the lowest held-out loss, the start included.

    Parameters
    ----------
    X : array of shape (n, d)
        Embeddings.
    start : tuple of ProjectionHead and array of shape (m, D)
        First weights.
    objective : callable
        See `Objective`.
    rows, held_out : arrays
        Prompts to learn from, and to judge by; without the latter all epochs are run.
    schedule : Schedule
        Of the training.
    generator : Generator
        Shuffles.
    """
    inputs = np.ascontiguousarray(X, dtype=np.float32)
    weights = [*(np.array(layer, dtype=np.float32) for layer in start[0].layers), start[1].astype(np.float32)]
    moments = [(np.zeros_like(weight), np.zeros_like(weight)) for weight in weights]
    best, kept, waited, step = np.inf, [weight.copy() for weight in weights], 0, 0
    if len(held_out):
        best = _loss(inputs, weights, objective, held_out)
    for _ in range(schedule.epochs):
        order = generator.permutation(rows)
        for begin in range(0, len(order), schedule.batch):
            step += 1
            gradients = _gradients(inputs, weights, objective, order[begin : begin + schedule.batch])
            _adam_step(weights, gradients, moments, step, schedule)
        if not len(held_out):
            continue
        loss = _loss(inputs, weights, objective, held_out)
        if loss < best - _LEAST_GAIN:
            best, kept, waited = loss, [weight.copy() for weight in weights], 0
        else:
            waited += 1
            if waited >= schedule.patience:
                break
    if not len(held_out):
        kept = weights
    return ProjectionHead(tuple(weight.astype(np.float64) for weight in kept[:-1])), kept[-1].astype(np.float64)


def _loss(inputs: FloatArray, weights: list[FloatArray], objective: Objective, rows: IntArray) -> float:
    queries = ProjectionHead(tuple(weights[:-1])).project(inputs[rows])
    return objective(queries, weights[-1], rows, _JUDGING)[0]


def _gradients(
    inputs: FloatArray, weights: list[FloatArray], objective: Objective, rows: IntArray
) -> list[FloatArray | None]:
    """Return the gradient of the objective by every weight; None for one that is fixed."""
    active = ProjectionHead(tuple(weights[:-1])).activations(inputs[rows])
    queries, lengths = unit(active[-1])
    _, by_query, by_vector = objective(queries, weights[-1], rows, _LEARNING)
    error = (by_query - queries * (queries * by_query).sum(axis=1, keepdims=True)) / lengths
    gradients: list[FloatArray | None] = [by_vector]
    for number in range(len(weights) - 2, -1, -1):
        gradients.append(active[number].T @ error)
        if number:
            error = (error @ weights[number].T) * (active[number] > 0)
    return gradients[::-1]


def _adam_step(
    weights: list[FloatArray],
    gradients: list[FloatArray | None],
    moments: list[tuple[FloatArray, FloatArray]],
    step: int,
    schedule: Schedule,
) -> None:
    """Move the weights and their moments in place."""
    rate = schedule.learning_rate * np.sqrt(1.0 - _DECAYS[1] ** step) / (1.0 - _DECAYS[0] ** step)
    for weight, gradient, (first, second) in zip(weights, gradients, moments, strict=True):
        if gradient is None:
            continue
        first += np.float32(1.0 - _DECAYS[0]) * (gradient - first)
        second += np.float32(1.0 - _DECAYS[1]) * (gradient**2 - second)
        weight *= np.float32(1.0 - schedule.learning_rate * schedule.decay)
        weight -= np.float32(rate) * first / (np.sqrt(second) + np.float32(1e-8))
