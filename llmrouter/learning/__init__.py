"""The learning loop: what makes a better router out of one-sided logs, safely."""

from llmrouter.learning._answers_kept import AnswerFile, KeptAnswer
from llmrouter.learning._audit import Audit, ModelAudit, NearOutcome, SourceEffect, audit
from llmrouter.learning._card_prior import CardPrior, PublicCard, card_prior
from llmrouter.learning._columns import ScoredPrompts, replaced, repriced, with_prior, with_scored, without_model
from llmrouter.learning._decided import decided_by
from llmrouter.learning._drift import DriftMonitor, DriftParameters, ModelDrift, calibration_error
from llmrouter.learning._gate import Gate, GateVerdict
from llmrouter.learning._gate_needed import Needed
from llmrouter.learning._judge import DEFAULT_RUBRIC, Comparison, Judgement, LLMJudge
from llmrouter.learning._judged import Judgements, Standing, standings
from llmrouter.learning._log_source import outcomes_of
from llmrouter.learning._missing_arms import MISSING, Completion, Missing, complete_arms, fit_completed
from llmrouter.learning._online import OnlineLearner, OnlineParameters, OnlineState
from llmrouter.learning._online_residuals import ResidualPrior
from llmrouter.learning._online_snapshot import load_online, save_online
from llmrouter.learning._placement import Place, Placement, placement
from llmrouter.learning._profile import (
    ProfilePlan,
    ProfileProgress,
    ProfileResult,
    ProfileSettings,
    plan_profile,
    run_profile,
)
from llmrouter.learning._promotion import (
    ListedArtifact,
    Move,
    current_artifact,
    list_artifacts,
    promote_artifact,
    read_history,
    rollback_artifact,
)
from llmrouter.learning._reward_model import DEFAULT_ROUTER as DEFAULT_REWARD_ROUTER
from llmrouter.learning._reward_model import cross_fitted
from llmrouter.learning._scored import scored_from_profile, scored_from_rows, scored_from_table
from llmrouter.learning._scorers import (
    FunctionScorer,
    JudgeScorer,
    Question,
    References,
    ReferenceScorer,
    Score,
    Scorer,
    check_plain,
    read_lines,
    read_references,
    references_of,
)
from llmrouter.learning._training_log import TrainingLog
from llmrouter.learning._trust import SourceTrust, TrustPolicy, TrustReport, trusted_weights
from llmrouter.learning._trust_settings import TrustSettings

__all__ = [
    "DEFAULT_REWARD_ROUTER",
    "DEFAULT_RUBRIC",
    "MISSING",
    "AnswerFile",
    "Audit",
    "CardPrior",
    "Comparison",
    "Completion",
    "DriftMonitor",
    "DriftParameters",
    "FunctionScorer",
    "Gate",
    "GateVerdict",
    "JudgeScorer",
    "Judgement",
    "Judgements",
    "KeptAnswer",
    "LLMJudge",
    "ListedArtifact",
    "Missing",
    "ModelAudit",
    "ModelDrift",
    "Move",
    "NearOutcome",
    "Needed",
    "OnlineLearner",
    "OnlineParameters",
    "OnlineState",
    "Place",
    "Placement",
    "ProfilePlan",
    "ProfileProgress",
    "ProfileResult",
    "ProfileSettings",
    "PublicCard",
    "Question",
    "ReferenceScorer",
    "References",
    "ResidualPrior",
    "Score",
    "ScoredPrompts",
    "Scorer",
    "SourceEffect",
    "SourceTrust",
    "Standing",
    "TrainingLog",
    "TrustPolicy",
    "TrustReport",
    "TrustSettings",
    "audit",
    "calibration_error",
    "card_prior",
    "check_plain",
    "complete_arms",
    "cross_fitted",
    "current_artifact",
    "decided_by",
    "fit_completed",
    "list_artifacts",
    "load_online",
    "outcomes_of",
    "placement",
    "plan_profile",
    "promote_artifact",
    "read_history",
    "read_lines",
    "read_references",
    "references_of",
    "replaced",
    "repriced",
    "rollback_artifact",
    "run_profile",
    "save_online",
    "scored_from_profile",
    "scored_from_rows",
    "scored_from_table",
    "standings",
    "trusted_weights",
    "with_prior",
    "with_scored",
    "without_model",
]
