"""Matrix factorisation: a vector for each model, a projection for prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from llmrouter.routers._bilinear_fit import fit_bilinear
from llmrouter.routers._latent import LatentRouter
from llmrouter.routers._logistic_fit import LogisticProblem


class FactorisationRouter(LatentRouter):
    """Low-rank bilinear logistic regression of prompt and model.

    ::

        P(model m is right on x) = sigmoid(level_m + v_m . (W x))

    This is the form of RouteLLM's matrix factorisation router (arXiv 2406.18665) and of EmbedLLM (arXiv 2410.02223),
    whose scoring vector w2 in ``w2 . (v_m * (W x))`` is absorbed in v_m. RouteLLM fits it to preferences between two
    models (Bradley-Terry, rank 128), EmbedLLM to correctness of 112 models (rank 232, noise on embeddings, 50
    epochs). Ours is fitted to outcomes anywhere in [0, 1], missing ones left out, by L-BFGS from the singular vectors
    of a full logistic regression; a pool of ten models needs no larger rank than that. The penalty
    ``penalty / 2 * (|W|^2 + |V|^2)`` is that of the nuclear norm of the slopes.

    Taking in a new model fits its level and v_m only, drawn towards the mean of the known ones (see `LatentRouter`),
    from N scored prompts. Cost is estimated by `ridge`.

    Parameters
    ----------
    rank : int
        Length of the vectors; cut to the number of models.
    penalty : float
        On embeddings of unit length 10 to 30 is usual.
    """

    grid: ClassVar[tuple[Mapping[str, Any], ...]] = tuple(
        {"rank": rank, "penalty": penalty} for rank in (3, 8) for penalty in (9.0, 18.0)
    )

    def __init__(self, rank: int = 8, *, penalty: float = 16.0) -> None:
        self.rank = rank
        self.penalty = penalty

    def _fit_maps(self, problem: LogisticProblem) -> None:
        found = fit_bilinear(problem, self.rank, penalty=float(self.penalty), item_response=False)
        projection = problem.axes.directions @ found.maps
        # The first feature is 1, and its entry of a vector the level.
        self.projection_ = np.column_stack([np.zeros(len(projection)), projection])
        self.shift_ = np.append(1.0, -problem.axes.centre @ projection)
        self.prompt_, self.prompt_shift_ = np.zeros(len(projection)), np.zeros(())
        self.vectors_ = np.column_stack([found.levels, found.vectors])
