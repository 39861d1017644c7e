"""Metrics, replay, intervals and plots: what a router is worth on logged outcomes."""

from llmrouter.evaluation._bounds import Bound, Oracle, ZeroRouter
from llmrouter.evaluation._costs import CostAxis, workable_axes
from llmrouter.evaluation._evaluate import evaluate
from llmrouter.evaluation._files import results_as_json, write_decisions, write_report
from llmrouter.evaluation._intervals import Interval, bootstrap_aiq, percentile_interval
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
from llmrouter.evaluation._page import render_page
from llmrouter.evaluation._plot import save_plot
from llmrouter.evaluation._provenance import log_test_look, table_hash
from llmrouter.evaluation._replay import Curve, choose, replay, sweep_weights
from llmrouter.evaluation._result import EvaluationResult, OperatingPoint, RouterResult
from llmrouter.evaluation._text import format_result
from llmrouter.evaluation._tune import Tuning, tune_knn

__all__ = [
    "Bound",
    "CostAxis",
    "Curve",
    "EvaluationResult",
    "Hull",
    "Interval",
    "OperatingPoint",
    "Oracle",
    "RouterResult",
    "Tuning",
    "ZeroRouter",
    "aiq",
    "aiq_code",
    "bootstrap_aiq",
    "choose",
    "cost_at_quality",
    "cost_share_to_match",
    "evaluate",
    "format_result",
    "log_test_look",
    "non_decreasing_hull",
    "percentile_interval",
    "qnc",
    "quality_at_cost",
    "render_page",
    "replay",
    "results_as_json",
    "save_plot",
    "sweep_weights",
    "table_hash",
    "tune_knn",
    "workable_axes",
    "write_decisions",
    "write_report",
]
