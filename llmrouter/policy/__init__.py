"""Policies: estimates in, a ranking out."""

from llmrouter.policy._bandit import ThompsonPolicy, UCBPolicy
from llmrouter.policy._base import BasePolicy, Policy
from llmrouter.policy._budget import BudgetPolicy
from llmrouter.policy._calibration_files import load_calibration, save_calibration
from llmrouter.policy._category_map import CategoryMap, CategoryMapPolicy
from llmrouter.policy._chance import uniform_of
from llmrouter.policy._config import policy_from_config
from llmrouter.policy._eligibility import PoolCandidates
from llmrouter.policy._explore import ExplorePolicy
from llmrouter.policy._explore_budget import DailyLedger, Ledger
from llmrouter.policy._facts import Calibration, TrainingFacts
from llmrouter.policy._latency import LatencyPolicy
from llmrouter.policy._learn_then_test import FloorCalibrator, FloorCertificate
from llmrouter.policy._quality_floor import QualityFloorPolicy
from llmrouter.policy._quota import QuotaPolicy
from llmrouter.policy._ranking import Appraisal, View
from llmrouter.policy._speeds import LiveSpeed
from llmrouter.policy._sticky import StickyPolicy
from llmrouter.policy._subset import SubsetPolicy
from llmrouter.policy._subset_search import SubsetChoice
from llmrouter.policy._utility import UtilityPolicy
from llmrouter.policy._wrapping import WrappingPolicy

__all__ = [
    "Appraisal",
    "BasePolicy",
    "BudgetPolicy",
    "Calibration",
    "CategoryMap",
    "CategoryMapPolicy",
    "DailyLedger",
    "ExplorePolicy",
    "FloorCalibrator",
    "FloorCertificate",
    "LatencyPolicy",
    "Ledger",
    "LiveSpeed",
    "Policy",
    "PoolCandidates",
    "QualityFloorPolicy",
    "QuotaPolicy",
    "StickyPolicy",
    "SubsetChoice",
    "SubsetPolicy",
    "ThompsonPolicy",
    "TrainingFacts",
    "UCBPolicy",
    "UtilityPolicy",
    "View",
    "WrappingPolicy",
    "load_calibration",
    "policy_from_config",
    "save_calibration",
    "uniform_of",
]
