"""The neural interaction of prompt and model in NIRT: its value, its derivatives, and its fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmrouter.routers._axes import sigmoid
from llmrouter.routers._bilinear_fit import Bilinear
from llmrouter.routers._logistic_fit import LogisticProblem
from llmrouter.types import FloatArray

_WEIGHT_PENALTY = 100.0
_ITERATIONS = 30


@dataclass(frozen=True)
class Interaction:
    """``logit = sum(u) + output . tanh(hidden u + shift)`` over ``u = (a(x) * theta_m, -b(x))``.

    Attributes
    ----------
    hidden : array of shape (h, r + 1)
    shift, output : arrays of shape (h,)
    """

    hidden: FloatArray
    shift: FloatArray
    output: FloatArray

    def inputs(self, features: FloatArray, offset: FloatArray, vectors: FloatArray) -> FloatArray:
        """Return u, shape (m, n, r + 1)."""
        u = np.empty((len(vectors), len(features), features.shape[1] + 1))
        u[:, :, :-1] = features * vectors[:, None, :]
        u[:, :, -1] = offset
        return u

    def logits(self, u: FloatArray) -> FloatArray:
        """Return the logits (m, n) of inputs (m, n, r + 1)."""
        return np.asarray(u.sum(axis=-1) + np.tanh(u @ self.hidden.T + self.shift) @ self.output)

    def slopes(self, u: FloatArray) -> FloatArray:
        """Return the derivative of each logit by its inputs, shape (m, n, r + 1)."""
        bent = 1.0 - np.tanh(u @ self.hidden.T + self.shift) ** 2
        return np.asarray(1.0 + (bent * self.output) @ self.hidden)

    def backward(self, u: FloatArray, error: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Return the gradients by u, hidden, shift and output, from that by the logits (m, n)."""
        active = np.tanh(u @ self.hidden.T + self.shift)
        before = (1.0 - active**2) * (error[:, :, None] * self.output)
        by_u = error[:, :, None] + before @ self.hidden
        width = len(self.shift)
        by_hidden = before.reshape(-1, width).T @ u.reshape(-1, u.shape[-1])
        return by_u, by_hidden, before.sum(axis=(0, 1)), error.ravel() @ active.reshape(-1, width)


def fit_interaction(
    problem: LogisticProblem, start: Bilinear, *, width: int, penalty: float, seed: int
) -> tuple[Bilinear, Interaction]:
    """Fit maps, vectors and interaction together by L-BFGS, from a bilinear fit and a hidden layer that adds nothing.

    The maps, prompt slopes and vectors have the penalty of the bilinear fit, the layer's weights one of their own.
    """
    from scipy.optimize import minimize

    problem = problem.with_prior_prompt()
    generator = np.random.default_rng(seed)
    inputs = start.vectors.shape[1] + 1
    layer = (generator.normal(size=(width, inputs)), np.zeros(width), 0.01 * generator.normal(size=width))
    scale = 1.0 / np.sqrt(0.15 * problem.axes.values + penalty)
    ones = np.ones(1)
    scales = (ones, scale, scale[:, None], ones, ones, ones, ones, ones)
    parts = (*start.parts, *layer)
    strengths = (0.0, penalty, penalty, penalty, 0.0, *(3 * (_WEIGHT_PENALTY,)))
    ends = np.cumsum([part.size for part in parts])[:-1]

    def unpack(flat: FloatArray) -> list[FloatArray]:
        pieces = zip(np.split(flat, ends), parts, scales, strict=True)
        return [piece.reshape(like.shape) * unit for piece, like, unit in pieces]

    def loss(flat: FloatArray) -> tuple[float, FloatArray]:
        current = unpack(flat)
        value, gradients = _loss(problem, Bilinear(*current[:5]), Interaction(*current[5:]))
        value += 0.5 * sum(strength * float((part**2).sum()) for part, strength in zip(current, strengths, strict=True))
        pieces = zip(gradients, current, strengths, scales, strict=True)
        return value, np.concatenate([((slope + s * part) * unit).ravel() for slope, part, s, unit in pieces])

    flat = np.concatenate([(part / unit).ravel() for part, unit in zip(parts, scales, strict=True)])
    options = {"maxiter": _ITERATIONS, "ftol": 1e-8, "gtol": 1e-6 * problem.axes.total}
    found = unpack(minimize(loss, flat, jac=True, method="L-BFGS-B", options=options).x)
    return Bilinear(*found[:5]), Interaction(*found[5:])


def _loss(problem: LogisticProblem, maps: Bilinear, layer: Interaction) -> tuple[float, tuple[FloatArray, ...]]:
    """Return the log loss and its gradient by the parts of both."""
    features = problem.Z @ maps.maps + maps.constant
    offset = problem.Z @ maps.prompt + maps.levels
    u = layer.inputs(features, offset, maps.vectors)
    logit = layer.logits(u).T
    value = float((problem.cells * (np.logaddexp(0.0, logit) - problem.y * logit)).sum())
    error = problem.cells * (sigmoid(logit) - problem.y)
    by_u, *by_layer = layer.backward(u, error.T)
    by_features = (by_u[:, :, :-1] * maps.vectors[:, None, :]).sum(axis=0)
    by_offset = by_u[:, :, -1].sum(axis=0)
    by_vectors = (by_u[:, :, :-1] * features).sum(axis=1)
    by_maps = (by_offset.sum(keepdims=True), problem.Z.T @ by_offset, problem.Z.T @ by_features, by_vectors)
    return value, (*by_maps, by_features.sum(axis=0), *by_layer)
