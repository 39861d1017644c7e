"""Which data sets, which routers, and how they are compared."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from llmrouter.evaluation import CostAxis

POCKET = Path(__file__).parents[2] / "llmrouter" / "assets" / "pocket" / "outcomes"

LEARNED = (
    "stack",
    "stack-full",
    "forest",
    "kernel-ridge",
    "ridge",
    "logistic",
    "svm",
    "mlp",
    "boosting",
    "mf",
    "mirt",
    "nirt",
    "carrot:estimator=knn",
    "carrot:estimator=linear",
    "carrot:estimator=mlp",
    "knn",
    "kernel-knn",
    "condensed-knn",
    "knn-select",
    "r2t2",
    "uniroute",
    "learned-map",
    "avengers",
    "avengers-pro",
    "two-step",
    "cscr",
    "routerdc",
    "llm-bandit",
    "linear-bandit",
)
PLAIN = ("knn:k=40", "knn:k=100", "knn:k=200", "logistic:penalty=10.0,sharing=0.0")
SHORT = ("stack", "knn", *PLAIN)
"""Compared on other encoders than the default."""
POLICIES = (
    "quality_floor:floor=0.95",
    "quality_floor:floor=0.97",
    "quality_floor:floor=0.99",
    "budget",
    "category_map",
    "subset:max_models=3",
    "ucb",
    "thompson",
)
FLOWS = ("cascade", "cascade-routing", "cascade:judge_error=0.0", "cascade:judge_error=0.1")


@dataclass(frozen=True)
class DataSet:
    """A data set of the leaderboard.

    Attributes
    ----------
    name : str
        Its folder under LLMROUTER_DATA; ``pocket`` ships with the package.
    cost : str
        Cost axis.
    encoders : tuple of str
        The first is the one all routers are compared on, the others are for the short list.
    policies, flows : bool
        Whether they are replayed too, over the stack.
    """

    name: str
    cost: CostAxis
    encoders: tuple[str, ...] = ("form", "static")
    policies: bool = False
    flows: bool = True

    @property
    def folder(self) -> Path | None:
        """Where it lies; None where it is not on this machine."""
        if self.name == "pocket":
            return POCKET
        shared = os.environ.get("LLMROUTER_DATA")
        folder = Path(shared) / self.name if shared else None
        return folder if folder is not None and folder.is_dir() else None


SETS = (
    DataSet("routerdc_open7", "calls", encoders=("form",), flows=False),
    DataSet("routellm_pair", "calls"),
    DataSet("llmrouter_nim9", "list_price", encoders=("form", "static", "minilm"), policies=True),
    DataSet("lookahead_open", "calls", flows=False),
    DataSet("routerbench_subset", "usd", encoders=("form", "static", "minilm"), policies=True),
    DataSet("pocket", "usd", policies=True),
    DataSet("routerarena_cached", "usd", encoders=("form",), flows=False),
    DataSet("llmrouterbench_sample", "usd", encoders=(), flows=False),
)
"""The largest first, so that two processes end together."""
