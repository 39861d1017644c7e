"""A full-information table played back as one-armed traffic of a policy that explores evenly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from llmrouter.encoders import encode_cached, load_encoder
from llmrouter.outcomes import OutcomeTable, load_table
from llmrouter.registry import create
from llmrouter.types import FloatArray, IntArray

COST_WEIGHT = 0.3


@dataclass(frozen=True)
class Traffic:
    """n prompts with the outcome of every model, m of them."""

    table: OutcomeTable
    X: FloatArray

    def __len__(self) -> int:
        return len(self.table)

    @property
    def quality(self) -> FloatArray:
        """Quality of every answer, shape (n, m)."""
        return self.table.quality

    @property
    def cost(self) -> FloatArray:
        """Cost of every call in US dollars, shape (n, m)."""
        return self.table.cost_usd

    @property
    def reference(self) -> float:
        """The dearest model's mean cost."""
        return float(self.cost.mean(axis=0).max())

    @property
    def utility(self) -> FloatArray:
        """``quality - 0.3 * cost / reference``, shape (n, m)."""
        return np.asarray(self.quality - COST_WEIGHT * self.cost / self.reference)

    def policy(self, rows: IntArray, kind: str, *, router: str = "ridge") -> IntArray:
        """Return the choice for every prompt, shape (n,): of the best single model, or of a router fitted on `rows`."""
        cost = COST_WEIGHT * self.cost[rows].mean(axis=0) / self.reference
        level = self.quality[rows].mean(axis=0) - cost
        if kind == "best-single":
            return np.full(len(self), int(level.argmax()), dtype=np.int64)
        expected = create("router", router).fit(self.X[rows], self.quality[rows]).predict(self.X)
        chosen: IntArray = (expected - cost).argmax(axis=1)
        return chosen

    def propensities(self, live: IntArray, *, share: float) -> FloatArray:
        """Return the probabilities, shape (n, m), of choices (n,) of which a share is dealt evenly among all models."""
        m = len(self.table.models)
        chance = np.full((len(live), m), share / m)
        chance[np.arange(len(live)), live] += 1 - share
        return chance

    def played(
        self, prompts: IntArray, live: IntArray, *, rows: int, share: float, random: np.random.Generator
    ) -> tuple[OutcomeTable, FloatArray]:
        """Return a log of `rows` requests, prompts drawn with replacement, as a one-sided table and its embeddings."""
        drawn = random.choice(prompts, rows)
        chance = self.propensities(live, share=share)[drawn]
        chosen = (random.random(rows)[:, None] > chance.cumsum(axis=1)).sum(axis=1)
        seen = np.zeros(chance.shape, dtype=bool)
        seen[np.arange(rows), chosen] = True
        table = _copies(self.table, drawn)

        def hidden(values: FloatArray) -> FloatArray:
            return np.where(seen, values, np.nan)

        return (
            replace(
                table,
                quality=hidden(self.quality[drawn]),
                cost_usd=hidden(self.cost[drawn]),
                propensity=hidden(chance),
            ),
            self.X[drawn],
        )


def load_traffic(data: Path, name: str, *, encoder: str = "form") -> Traffic:
    """Read the train split of a data set and embed its prompts."""
    table = load_table(data / name)
    X = encode_cached(load_encoder(encoder), table.router_texts())
    rows = np.flatnonzero(np.asarray([split == "train" for split in table.splits], dtype=bool))
    return Traffic(table.select(rows), X[rows])


def _copies(table: OutcomeTable, rows: IntArray) -> OutcomeTable:
    """Return rows of a table, some more than once, under new ids."""
    pick = rows.tolist()
    return replace(
        table,
        prompt_ids=tuple(f"{table.prompt_ids[row]}#{number}" for number, row in enumerate(pick)),
        texts=tuple(table.texts[row] for row in pick),
        tasks=tuple(table.tasks[row] for row in pick),
        splits=tuple(table.splits[row] for row in pick),
        quality=table.quality[rows],
        cost_usd=table.cost_usd[rows],
        input_tokens=table.input_tokens[rows],
        output_tokens=table.output_tokens[rows],
        propensity=table.propensity[rows],
        weight=None if table.weight is None else table.weight[rows],
    )
