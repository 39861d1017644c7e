"""Small tables and outcomes for the tests of this folder; light enough to import in the programs that they kill."""

from __future__ import annotations

import numpy as np

from llmrouter.outcomes import OutcomeTable
from llmrouter.types import Outcome, Price


def make_table(n: int = 3, *, name: str = "demo", text: str = "prompt") -> OutcomeTable:
    quality = np.full((n, 2), 0.5)
    quality[0, 1] = np.nan
    unknown = np.full((n, 2), np.nan)
    return OutcomeTable(
        prompt_ids=tuple(f"p{i}" for i in range(n)),
        models=("b", "a"),
        texts=(None, *(f"{text} {i}" for i in range(1, n))),
        tasks=("t", *[None] * (n - 1)),
        splits=("test", *["train"] * (n - 1)),
        quality=quality,
        cost_usd=unknown,
        input_tokens=np.where(np.isnan(quality), np.nan, 10.0),
        output_tokens=np.where(np.isnan(quality), np.nan, 20.0),
        propensity=np.where(np.isnan(quality), np.nan, 1.0),
        prices=(Price(1.0, 2.0, 0.5), None),
        name=name,
    )


def make_outcome(request_id: str, *, time: float = 100.0, **values: object) -> Outcome:
    return Outcome(request_id=request_id, time=time, **{"model": "m", **values})
