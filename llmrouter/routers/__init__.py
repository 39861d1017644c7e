"""Routers: regressors of quality and of output tokens, one algorithm a file."""

from llmrouter.routers._avengers import AvengersProRouter, AvengersRouter
from llmrouter.routers._bandit import LinearBanditRouter
from llmrouter.routers._base import BaseRouter, Router, weighted_mean
from llmrouter.routers._baselines import BaselineRouter, BestSingleRouter, CheapestRouter, MeanRouter, RandomRouter
from llmrouter.routers._boosting import BoostingRouter
from llmrouter.routers._carrot import CarrotRouter
from llmrouter.routers._condensed import CondensedKNNRouter
from llmrouter.routers._contrastive import ContrastiveRouter
from llmrouter.routers._cscr import CSCRRouter
from llmrouter.routers._factorisation import FactorisationRouter
from llmrouter.routers._forest import ForestRouter
from llmrouter.routers._irt import MIRTRouter, NIRTRouter
from llmrouter.routers._kernel_knn import KernelKNNRouter
from llmrouter.routers._kernel_ridge import KernelRidgeRouter
from llmrouter.routers._kmeans import UniRouteRouter
from llmrouter.routers._knn import KNNRouter
from llmrouter.routers._learned_map import LearnedMapRouter
from llmrouter.routers._linear import LogisticRouter, RidgeRouter
from llmrouter.routers._llm_bandit import LLMBanditRouter
from llmrouter.routers._llm_bandit_policy import PreferencePolicy
from llmrouter.routers._mlp import MLPRouter
from llmrouter.routers._neighbours import NeighbourRouter
from llmrouter.routers._online import OnlineRouter
from llmrouter.routers._pair import RouterPair, cost_target, fit_pair
from llmrouter.routers._prior import PRESUMED_PROMPTS
from llmrouter.routers._r2t2 import R2T2Router
from llmrouter.routers._routerdc import RouterDCRouter
from llmrouter.routers._selection import KNNSelectRouter
from llmrouter.routers._stack import FullStackRouter, StackRouter
from llmrouter.routers._svm import SVMRouter
from llmrouter.routers._two_step import TwoStepRouter
from llmrouter.routers.descriptors import Descriptor, ModelDescriptor, OutcomeFingerprint

__all__ = [
    "PRESUMED_PROMPTS",
    "AvengersProRouter",
    "AvengersRouter",
    "BaseRouter",
    "BaselineRouter",
    "BestSingleRouter",
    "BoostingRouter",
    "CSCRRouter",
    "CarrotRouter",
    "CheapestRouter",
    "CondensedKNNRouter",
    "ContrastiveRouter",
    "Descriptor",
    "FactorisationRouter",
    "ForestRouter",
    "FullStackRouter",
    "KNNRouter",
    "KNNSelectRouter",
    "KernelKNNRouter",
    "KernelRidgeRouter",
    "LLMBanditRouter",
    "LearnedMapRouter",
    "LinearBanditRouter",
    "LogisticRouter",
    "MIRTRouter",
    "MLPRouter",
    "MeanRouter",
    "ModelDescriptor",
    "NIRTRouter",
    "NeighbourRouter",
    "OnlineRouter",
    "OutcomeFingerprint",
    "PreferencePolicy",
    "R2T2Router",
    "RandomRouter",
    "RidgeRouter",
    "Router",
    "RouterDCRouter",
    "RouterPair",
    "SVMRouter",
    "StackRouter",
    "TwoStepRouter",
    "UniRouteRouter",
    "cost_target",
    "fit_pair",
    "weighted_mean",
]
