"""Metrics, replay, intervals and plots: what a router is worth on logged outcomes."""

from llmrouter.evaluation._arena import Optimality, arena_score, optimality
from llmrouter.evaluation._bounds import Bound, Oracle, ZeroRouter, independent_oracle
from llmrouter.evaluation._calibration import (
    Calibration,
    Reliability,
    brier_score,
    calibration,
    expected_calibration_error,
    reliability,
)
from llmrouter.evaluation._choose_prompts import choose_prompts
from llmrouter.evaluation._configurations import (
    average_accuracy,
    cost_save,
    gap_to_oracle,
    pareto_distances,
    pareto_frontier,
    relative_gain,
)
from llmrouter.evaluation._costs import CostAxis, workable_axes
from llmrouter.evaluation._crossfit import CrossFit, cross_fit
from llmrouter.evaluation._deferral import deferral_area
from llmrouter.evaluation._evaluate import evaluate
from llmrouter.evaluation._files import results_as_json, write_decisions, write_report
from llmrouter.evaluation._flows import replay_flow
from llmrouter.evaluation._intervals import Interval, bootstrap_aiq, bootstrap_means, percentile_interval
from llmrouter.evaluation._logged_decisions import LoggedDecisions
from llmrouter.evaluation._metrics import (
    Hull,
    aiq,
    aiq_code,
    cost_at_quality,
    cost_share_to_match,
    non_decreasing_hull,
    qnc,
    quality_at_cost,
)
from llmrouter.evaluation._new_models import new_models
from llmrouter.evaluation._off_policy import OffPolicyEstimate, OffPolicyResult, Overlap, off_policy_estimate
from llmrouter.evaluation._page import render_page
from llmrouter.evaluation._plot import save_plot
from llmrouter.evaluation._prepare import Prepared, prepare
from llmrouter.evaluation._protocol_result import (
    Cell,
    ProtocolResult,
    format_protocol,
    protocol_as_json,
    read_protocol,
    write_protocol,
)
from llmrouter.evaluation._protocols import (
    hide_outcomes,
    learning_curve,
    missing_outcomes,
    out_of_distribution,
    random_splits,
)
from llmrouter.evaluation._provenance import log_test_look, table_hash
from llmrouter.evaluation._regret import regret
from llmrouter.evaluation._replay import Curve, Guard, choose, replay, sweep_weights
from llmrouter.evaluation._result import EvaluationResult, OperatingPoint, RouterResult
from llmrouter.evaluation._run_protocol import Protocol, run_protocol
from llmrouter.evaluation._strong_weak import (
    StrongCalls,
    apgr,
    call_performance_threshold,
    performance_gap_recovered,
    strong_calls,
)
from llmrouter.evaluation._text import format_result
from llmrouter.evaluation._tune import Tuning, guard_from, tune, tune_guard

__all__ = [
    "Bound",
    "Calibration",
    "Cell",
    "CostAxis",
    "CrossFit",
    "Curve",
    "EvaluationResult",
    "Guard",
    "Hull",
    "Interval",
    "LoggedDecisions",
    "OffPolicyEstimate",
    "OffPolicyResult",
    "OperatingPoint",
    "Optimality",
    "Oracle",
    "Overlap",
    "Prepared",
    "Protocol",
    "ProtocolResult",
    "Reliability",
    "RouterResult",
    "StrongCalls",
    "Tuning",
    "ZeroRouter",
    "aiq",
    "aiq_code",
    "apgr",
    "arena_score",
    "average_accuracy",
    "bootstrap_aiq",
    "bootstrap_means",
    "brier_score",
    "calibration",
    "call_performance_threshold",
    "choose",
    "choose_prompts",
    "cost_at_quality",
    "cost_save",
    "cost_share_to_match",
    "cross_fit",
    "deferral_area",
    "evaluate",
    "expected_calibration_error",
    "format_protocol",
    "format_result",
    "gap_to_oracle",
    "guard_from",
    "hide_outcomes",
    "independent_oracle",
    "learning_curve",
    "log_test_look",
    "missing_outcomes",
    "new_models",
    "non_decreasing_hull",
    "off_policy_estimate",
    "optimality",
    "out_of_distribution",
    "pareto_distances",
    "pareto_frontier",
    "percentile_interval",
    "performance_gap_recovered",
    "prepare",
    "protocol_as_json",
    "qnc",
    "quality_at_cost",
    "random_splits",
    "read_protocol",
    "regret",
    "relative_gain",
    "reliability",
    "render_page",
    "replay",
    "replay_flow",
    "results_as_json",
    "run_protocol",
    "save_plot",
    "strong_calls",
    "sweep_weights",
    "table_hash",
    "tune",
    "tune_guard",
    "workable_axes",
    "write_decisions",
    "write_protocol",
    "write_report",
]
