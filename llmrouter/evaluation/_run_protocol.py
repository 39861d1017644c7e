"""Run a protocol by name: what the command line offers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from llmrouter.evaluation._choose_prompts import Rule
from llmrouter.evaluation._costs import CostAxis
from llmrouter.evaluation._new_models import new_models
from llmrouter.evaluation._protocol_result import ProtocolResult
from llmrouter.evaluation._protocols import learning_curve, missing_outcomes, out_of_distribution, random_splits
from llmrouter.exceptions import ConfigError
from llmrouter.outcomes import OutcomeTable
from llmrouter.types import FloatArray

Protocol = Literal["splits", "new-models", "ood", "learning-curve", "missing"]


def run_protocol(
    protocol: Protocol,
    table: OutcomeTable,
    *,
    X: FloatArray,
    routers: Sequence[str],
    cost: CostAxis = "usd",
    seed: int = 0,
    draws: int = 5,
    hidden: Sequence[str] = (),
    choose: Rule = "random",
    look_log: Path | None = None,
) -> ProtocolResult:
    """Run a protocol over some routers with its default conditions.

    Parameters
    ----------
    protocol : str
        ``splits`` (`random_splits`), ``new-models`` (`new_models`), ``ood`` (`out_of_distribution`),
        ``learning-curve`` (`learning_curve`) or ``missing`` (`missing_outcomes`).
    table, X, routers, cost, seed, look_log
        As in those.
    draws : int
        Splits, or draws of each condition; ``ood`` has none.
    hidden, choose
        Of ``new-models``.

    Raises
    ------
    ConfigError
        If the protocol is unknown, or something it needs is missing.
    DataError
        If the table does not support it.
    """
    if protocol not in get_args(Protocol):
        raise ConfigError(f"unknown protocol {protocol!r}; one of {', '.join(get_args(Protocol))}")
    if not routers:
        raise ConfigError(f"the protocol {protocol!r} needs a router at least, and a table with prompt texts")
    if draws < 1:
        raise ConfigError(f"draws must be >= 1; got {draws}")
    shared: dict[str, Any] = {"cost": cost, "look_log": look_log}
    if protocol == "new-models":
        shared |= {"hidden": hidden, "choose": choose, "draws": draws, "seed": seed}
        return _merged([new_models(table, X, router=router, **shared) for router in routers])
    shared["routers"] = routers
    if protocol == "splits":
        return random_splits(table, X, seeds=range(seed, seed + draws), **shared)
    if protocol == "ood":
        return out_of_distribution(table, X, seed=seed, **shared)
    run = learning_curve if protocol == "learning-curve" else missing_outcomes
    return run(table, X, draws=draws, seed=seed, **shared)


def _merged(results: Sequence[ProtocolResult]) -> ProtocolResult:
    """Return results of one protocol on one table, a router each, as one."""
    settings = {**results[0].settings, "routers": [result.settings["router"] for result in results]}
    del settings["router"]
    cells = tuple(cell for result in results for cell in result.cells)
    return dataclasses.replace(results[0], cells=cells, settings=settings)
