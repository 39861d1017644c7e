"""Item response theory: prompts have difficulty and discrimination, models have abilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from llmrouter.exceptions import ConfigError
from llmrouter.routers._bilinear_fit import Bilinear, fit_bilinear
from llmrouter.routers._interaction import Interaction, fit_interaction
from llmrouter.routers._latent import LatentRouter
from llmrouter.routers._logistic_fit import LogisticProblem
from llmrouter.types import FloatArray


class MIRTRouter(LatentRouter):
    """Multidimensional two-parameter item response model over embeddings (IRT-Router, arXiv 2506.01048).

    ::

        P(model m is right on x) = sigmoid(a(x) . theta_m - b(x))

    Discrimination a and difficulty b are linear in the embedding, theta_m is the model's ability vector. IRT-Router
    makes theta_m a linear map of an embedding of the model's description; here abilities are free parameters, which
    needs no description. Unlike in matrix factorisation (`FactorisationRouter`) all models share the difficulty, and
    a model's level is part of its abilities. Fitted by L-BFGS with the penalty
    ``penalty / 2 * (|a|^2 + |b|^2 + |theta|^2)`` on slopes and abilities. IRT-Router warms up a new prompt by mixing
    in the embeddings of similar ones; the penalty does that smoothing here.

    Taking in a new model fits theta_m, drawn towards the mean of the known ones, from N scored prompts (see
    `LatentRouter`). Cost is estimated by `ridge`.

    Parameters
    ----------
    rank : int
        Number of abilities; cut to the number of models.
    penalty : float
        On embeddings of unit length 5 to 20 is usual.
    """

    grid: ClassVar[tuple[Mapping[str, Any], ...]] = tuple(
        {"rank": rank, "penalty": penalty} for rank in (3, 8) for penalty in (7.0, 14.0)
    )

    def __init__(self, rank: int = 8, *, penalty: float = 10.0) -> None:
        self.rank = rank
        self.penalty = penalty

    def _fit_maps(self, problem: LogisticProblem) -> None:
        self._keep(problem, fit_bilinear(problem, self.rank, penalty=float(self.penalty), item_response=True))

    def _keep(self, problem: LogisticProblem, found: Bilinear) -> None:
        """Store maps found in principal coordinates as maps of embeddings."""
        self.projection_ = problem.axes.directions @ found.maps
        self.shift_ = found.constant - problem.axes.centre @ self.projection_
        self.prompt_ = problem.axes.directions @ found.prompt
        self.prompt_shift_ = np.asarray(found.levels[0] - problem.axes.centre @ self.prompt_)
        self.vectors_ = found.vectors


class NIRTRouter(MIRTRouter):
    """Item response theory with a neural interaction (the NIRT of IRT-Router, arXiv 2506.01048).

    ::

        P(model m is right on x) = sigmoid(sum(u) + output . tanh(hidden u + shift)),
        u = (a(x) * theta_m, -b(x))

    One hidden layer bends how ability, discrimination and difficulty combine; without it this is `MIRTRouter`, from
    whose fit L-BFGS starts, all parameters moving together. IRT-Router's layer works on named abilities that an LLM
    assigns to prompts; here the abilities are latent.

    Taking in a new model fits theta_m, with the layer fixed, from N scored prompts (see `LatentRouter`). Cost is
    estimated by `ridge`.

    Parameters
    ----------
    rank : int
        Number of abilities; cut to the number of models.
    penalty : float
        On embeddings of unit length 5 to 20 is usual.
    hidden : int
        Units of the layer.
    seed : int
        Of the layer's first weights.
    """

    grid: ClassVar[tuple[Mapping[str, Any], ...]] = ({"penalty": 10.0}, {"penalty": 20.0})

    _more_arrays = ("hidden", "hidden_shift", "output")

    def __init__(self, rank: int = 8, *, penalty: float = 15.0, hidden: int = 8, seed: int = 0) -> None:
        super().__init__(rank, penalty=penalty)
        self.hidden = hidden
        self.seed = seed

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if not isinstance(self.hidden, int | np.integer) or self.hidden < 1:
            raise ConfigError(f"hidden must be a whole number >= 1; got {self.hidden!r}")

    def _fit_maps(self, problem: LogisticProblem) -> None:
        start = fit_bilinear(problem, self.rank, penalty=float(self.penalty), item_response=True)
        found, layer = fit_interaction(
            problem, start, width=int(self.hidden), penalty=float(self.penalty), seed=self.seed
        )
        self._keep(problem, found)
        self.hidden_, self.hidden_shift_, self.output_ = layer.hidden, layer.shift, layer.output

    @property
    def _interaction(self) -> Interaction:
        return Interaction(self.hidden_, self.hidden_shift_, self.output_)

    def _logit(self, features: FloatArray, offset: FloatArray, vectors: FloatArray) -> FloatArray:
        layer = self._interaction
        return layer.logits(layer.inputs(features, offset, vectors)).T

    def _vector_slopes(self, features: FloatArray, offset: FloatArray, vectors: FloatArray) -> FloatArray:
        layer = self._interaction
        return np.asarray(layer.slopes(layer.inputs(features, offset, vectors))[:, :, :-1] * features)

    def _map_slopes(self, features: FloatArray, offset: FloatArray, vectors: FloatArray) -> FloatArray:
        layer = self._interaction
        slopes = layer.slopes(layer.inputs(features, offset, vectors))
        slopes[:, :, :-1] *= vectors[:, None, :]
        return slopes
