"""The columns of the leaderboard: which figure, how it is written, which way is better, what it means."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from llmrouter.evaluation._result import RouterResult

Form = Literal["number", "share", "cost", "usd", "seconds", "microseconds"]


@dataclass(frozen=True)
class Group:
    """Columns of one source; `open` says whether they are seen at first."""

    identity: str
    title: str
    source: str
    open: bool = False


@dataclass(frozen=True)
class Column:
    """One figure.

    `name` is an attribute of the result, an interval or a metric; `better` is 1 where more is better, -1 where less is,
    0 where neither; `interval` asks for the interval beside it.
    """

    name: str
    group: str
    title: str
    definition: str
    form: Form = "number"
    better: int = 1
    interval: bool = False

    def value(self, router: RouterResult) -> float:
        """Return the figure of a router; NaN where it has none."""
        if self.name in router.intervals and self.name not in _ATTRIBUTES:
            return router.intervals[self.name].estimate
        if self.name in _ATTRIBUTES:
            return float(getattr(router, self.name))
        return float(router.metrics.get(self.name, math.nan))


_ATTRIBUTES = ("aiq", "aiq_code", "qnc", "dearest_share", "peak_quality", "peak_cost", "fit_s", "decide_us")

GROUPS = (
    Group("headline", "Headline", "RouterBench, arXiv:2403.12031, with paired bootstrap intervals", open=True),
    Group("routerbench", "RouterBench", "Hu et al., arXiv:2403.12031", open=True),
    Group("routellm", "RouteLLM", "Ong et al., arXiv:2406.18665"),
    Group("uniroute", "UniRoute", "Jitkrittum et al., arXiv:2502.08773"),
    Group("arena", "RouterArena", "Lu et al., arXiv:2510.00202"),
    Group("lrb", "LLMRouterBench", "arXiv:2601.07206"),
    Group("regret", "Regret", "of the policy's own utility"),
    Group("calibration", "Calibration", "Guo et al., arXiv:1706.04599; Brier 1950"),
    Group("speed", "Speed", "measured where the evaluation ran", open=True),
    Group("other", "Other", ""),
)

_PAIR = "weak is the cheapest model, strong the best single model, both by train"
_HINDSIGHT = "the point is chosen by its test outcomes, which flatters"

COLUMNS = (
    Column(
        "aiq",
        "headline",
        "AIQ",
        "mean height of the non-decreasing convex hull of (cost, quality) over the cost range of the Zero router "
        "(mixtures of single models) on these prompts; the same range for all",
    ),
    Column("aiq_minus_zero", "headline", "minus Zero", "AIQ minus the Zero router's, paired", interval=True),
    Column(
        "aiq_minus_best_single",
        "headline",
        "minus best single",
        "AIQ minus that of mixing the cheapest model with the model that was best on train, paired",
        interval=True,
    ),
    Column(
        "quality_minus_best_single",
        "headline",
        "quality minus best single",
        "mean quality where quality alone counts (cost weight 0; the peak where there are no weights) minus that of "
        "the best single model, paired",
        interval=True,
    ),
    Column(
        "aiq_code", "routerbench", "AIQ (code)", "as RouterBench's released code computes it; not comparable with AIQ"
    ),
    Column("peak_quality", "routerbench", "Peak", f"highest quality of the curve; {_HINDSIGHT}"),
    Column("peak_cost", "routerbench", "at cost", "cost of the peak", "cost", -1),
    Column(
        "apgr",
        "routellm",
        "APGR",
        f"average performance gap recovered over the share of strong calls, at 10 quantile thresholds; {_PAIR}; "
        "a random router has 0.5",
    ),
    Column("apgr_exact", "routellm", "APGR exact", "the same at every threshold"),
    Column("cpt_20", "routellm", "CPT(20%)", "share of strong calls that recovers 20% of the gap", "share", -1),
    Column("cpt_50", "routellm", "CPT(50%)", "share of strong calls that recovers 50% of the gap", "share", -1),
    Column("cpt_80", "routellm", "CPT(80%)", "share of strong calls that recovers 80% of the gap", "share", -1),
    Column(
        "deferral_area",
        "uniroute",
        "Area",
        "area under the deferral curve, cost divided by the dearest model's, 0 to 1",
    ),
    Column("deferral_area_50", "uniroute", "Area 50%", "the same up to half the dearest model's cost"),
    Column(
        "qnc",
        "uniroute",
        "QNC",
        "cost of matching the most accurate model on test, as a share of its cost",
        "share",
        -1,
    ),
    Column(
        "dearest_share",
        "uniroute",
        "QNC (dearest)",
        "the same for the dearest model by train instead of the most accurate one; not in the paper",
        "share",
        -1,
    ),
    Column(
        "arena_score", "arena", "Arena score", f"(1 + b) A C / (b A + C), b = 0.1, A quality, C log cost; {_HINDSIGHT}"
    ),
    Column("arena_cost_per_1k", "arena", "at $ per 1K", "cost of that point, US dollars per 1,000 prompts", "usd", -1),
    Column(
        "optimal_selection",
        "arena",
        "Optimal selection",
        "share of prompts for which a correct model of the lowest cost was chosen, at that point",
        "share",
    ),
    Column(
        "optimal_cost",
        "arena",
        "Optimal cost",
        "cost of the cheapest correct models by the cost paid, over the prompts that some model solves; above 1 for "
        "who saves by answering wrongly",
        "share",
        0,
    ),
    Column(
        "optimal_accuracy",
        "arena",
        "Optimal accuracy",
        "share of the prompts that some model solves which were answered correctly",
        "share",
    ),
    Column("avg_acc", "lrb", "AvgAcc", "mean over tasks of the quality where quality alone counts"),
    Column("gain_random", "lrb", "Gain@R", "AvgAcc relative to a random choice of model", "share"),
    Column("gain_best", "lrb", "Gain@B", "AvgAcc relative to the best single model by train", "share"),
    Column("gap_oracle", "lrb", "Gap@O", "what is missing to the oracle, relative to it", "share", -1),
    Column(
        "perf_gain",
        "lrb",
        "PerfGain",
        f"best quality relative to the best single model by train; {_HINDSIGHT}",
        "share",
    ),
    Column(
        "cost_save",
        "lrb",
        "CostSave",
        "1 - cost of the cheapest operating point at least as good as the best single model by train, as a share of "
        f"its cost; {_HINDSIGHT}; negative if dearer",
        "share",
    ),
    Column(
        "pareto_dist",
        "lrb",
        "ParetoDist",
        "mean normalised distance of the operating points to the joint Pareto frontier of everything compared here",
        "number",
        -1,
    ),
    Column("regret_0", "regret", "at weight 0", "utility lost against the oracle at cost weight 0", "number", -1),
    Column("regret_0.1", "regret", "at 0.1", "the same at cost weight 0.1", "number", -1),
    Column("regret_0.3", "regret", "at 0.3", "the same at cost weight 0.3", "number", -1),
    Column("regret_1", "regret", "at 1", "the same at cost weight 1", "number", -1),
    Column(
        "ece",
        "calibration",
        "ECE",
        "expected calibration error of the predicted quality, 10 bins of equal counts, all prompts and models",
        "number",
        -1,
    ),
    Column("ece_equal_width", "calibration", "ECE (width)", "the same with 10 bins of equal width", "number", -1),
    Column("brier", "calibration", "Brier", "mean squared error of the predicted quality", "number", -1),
    Column("fit_s", "speed", "Fit, s", "seconds to fit", "seconds", -1),
    Column(
        "decide_us",
        "speed",
        "Decide, µs",
        "microseconds a prompt to estimate quality and cost, in batches, without encoding the prompt",
        "microseconds",
        -1,
    ),
)

# Of one bound only, and told in its notes.
_NOT_SHOWN = ("oracle_independent",)


def columns_for(routers: Iterable[RouterResult]) -> list[Column]:
    """Return the columns that some router has a figure in, in order; metrics without a definition come last."""
    routers = list(routers)
    known = {column.name for column in COLUMNS}
    extra = dict.fromkeys(name for router in routers for name in router.metrics if name not in known)
    found = [
        *COLUMNS,
        *(Column(name, "other", name, "no definition here", better=0) for name in extra if name not in _NOT_SHOWN),
    ]
    needed = ("aiq", "peak_quality")
    return [
        column
        for column in found
        if column.name in needed or any(not math.isnan(column.value(router)) for router in routers)
    ]
