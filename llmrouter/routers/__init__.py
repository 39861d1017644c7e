"""Routers: regressors of quality and of output tokens, one algorithm a file."""

from llmrouter.routers._base import BaseRouter, Router, weighted_mean
from llmrouter.routers._baselines import BestSingleRouter, CheapestRouter, MeanRouter, RandomRouter
from llmrouter.routers._knn import KNNRouter

__all__ = [
    "BaseRouter",
    "BestSingleRouter",
    "CheapestRouter",
    "KNNRouter",
    "MeanRouter",
    "RandomRouter",
    "Router",
    "weighted_mean",
]
