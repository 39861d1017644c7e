"""The protocols of the leaderboard: new models, other tasks, less data, one-sided logs."""

from __future__ import annotations

from typing import Any

_HIDDEN = ("gpt-4-1106-preview", "zero-one-ai/Yi-34B-Chat")
_NEW: dict[str, Any] = {"protocol": "new-models", "hidden": _HIDDEN, "draws": 10}
_ROUTERS = ("stack", "ridge", "knn:k=200,shrinkage=5", "knn:k=40", "uniroute:clusters=20", "linear-bandit:penalty=30.0")
_FEW = ("stack", "ridge", "knn:k=200,shrinkage=5", "uniroute:clusters=20")

PROTOCOLS: dict[tuple[str, str], dict[str, Any]] = {
    ("routerbench_subset", "new-models-random"): {**_NEW, "choose": "random", "routers": _ROUTERS},
    ("routerbench_subset", "new-models-informative"): {**_NEW, "choose": "informative", "routers": _ROUTERS},
    ("routerbench_subset", "learning-curve"): {"protocol": "learning-curve", "draws": 2, "routers": _FEW},
    ("routerbench_subset", "missing"): {
        "protocol": "missing",
        "draws": 2,
        "routers": (*_FEW, "linear-bandit:penalty=30.0"),
    },
    ("routerbench_subset", "ood"): {"protocol": "ood", "routers": _FEW},
    ("routerbench_subset", "splits"): {"protocol": "splits", "draws": 4, "routers": _FEW},
    ("llmrouter_nim9", "learning-curve"): {"protocol": "learning-curve", "draws": 1, "routers": _FEW},
    ("llmrouter_nim9", "ood"): {"protocol": "ood", "routers": _FEW},
    ("routellm_pair", "learning-curve"): {"protocol": "learning-curve", "draws": 1, "routers": _FEW},
}
"""(data set, label) -> arguments of `llmrouter.evaluation.run_protocol`."""
