"""Policies: estimates in, a ranking out."""

from llmrouter.policy._base import Policy
from llmrouter.policy._eligibility import candidates_for
from llmrouter.policy._utility import UtilityPolicy

__all__ = ["Policy", "UtilityPolicy", "candidates_for"]
