"""Routers: regressors of quality and of output tokens, one algorithm a file."""

from llmrouter.routers._base import BaseRouter, Router, weighted_mean
from llmrouter.routers._baselines import BestSingleRouter, CheapestRouter, MeanRouter, RandomRouter
from llmrouter.routers._knn import KNNRouter
from llmrouter.routers._pair import RouterPair, cost_target, fit_pair

__all__ = [
    "BaseRouter",
    "BestSingleRouter",
    "CheapestRouter",
    "KNNRouter",
    "MeanRouter",
    "RandomRouter",
    "Router",
    "RouterPair",
    "cost_target",
    "fit_pair",
    "weighted_mean",
]
