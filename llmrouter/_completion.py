"""What routers predict of their models, completed for the models of a pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from llmrouter._trained import TrainedRouters
from llmrouter.types import TOKENS_PER_PRICE_UNIT, FloatArray, IntArray, ModelCard

PRIOR_STD = 0.25
"""Standard error given to a model that the artifact does not know: half the width of [0, 1], halved again."""
PRIOR_OUTPUT_TOKENS = 256.0
"""Completion tokens expected of a model where nothing at all is known."""


DECIMALS, _DOLLAR_DECIMALS = 9, 14


@dataclass(frozen=True)
class PoolArrays:
    """The cards as arrays, c of them, so that a decision completes its estimates without a loop."""

    names: tuple[str, ...]
    columns: IntArray
    known: npt.NDArray[np.bool_]
    ratio: FloatArray
    input_price: FloatArray
    output_price: FloatArray
    prior_quality: FloatArray
    prior_tokens: float
    in_dollars: bool
    input_rate: FloatArray
    same_columns: bool
    plain: bool
    listed: PoolArrays | None = None
    """Where the prices are those of the moment: the same with those of the configuration."""

    @classmethod
    def of(cls, cards: Sequence[ModelCard], trained: TrainedRouters) -> PoolArrays:
        names = tuple(card.name for card in cards)
        known = np.array([name in trained.models for name in names])
        columns = [trained.models.index(name) if name in trained.models else 0 for name in names]
        tokens = list(trained.mean_output_tokens.values())
        in_dollars = trained.cost_unit == "usd"
        ratio = np.array([trained.token_ratio.get(name, 1.0) for name in names])
        input_price = np.array([card.price.input for card in cards]) / TOKENS_PER_PRICE_UNIT
        return cls(
            names=names,
            columns=np.array(columns, dtype=np.int64),
            known=known,
            ratio=ratio,
            input_price=input_price,
            output_price=np.array([card.price.output for card in cards]) / TOKENS_PER_PRICE_UNIT,
            prior_quality=np.array([np.nan if card.prior_quality is None else card.prior_quality for card in cards]),
            prior_tokens=sum(tokens) / len(tokens) if tokens else PRIOR_OUTPUT_TOKENS,
            in_dollars=in_dollars,
            input_rate=ratio * input_price,
            same_columns=names == tuple(trained.models),
            plain=bool(known.all()) and not in_dollars,
        )

    def at_prices(self, cards: Sequence[ModelCard]) -> PoolArrays:
        """Return the same pool, its models in the same order, at the prices of other cards."""
        listed = self.listed or self
        input_price = np.array([card.price.input for card in cards]) / TOKENS_PER_PRICE_UNIT
        return replace(
            listed,
            input_price=input_price,
            output_price=np.array([card.price.output for card in cards]) / TOKENS_PER_PRICE_UNIT,
            input_rate=self.ratio * input_price,
            listed=listed,
        )

    def complete(
        self, quality: FloatArray, std: FloatArray, cost: FloatArray, prompt_tokens: Sequence[int]
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Return quality, standard error, cost in US dollars and completion tokens of the pool, each (n, c).

        Takes what the routers expect of their own m models, each (n, m). A model that they do not know, or never
        observed, gets its card's prior, else the mean of the known ones.
        """
        if self.same_columns:
            expected, error, amount = quality, std, cost
        else:
            expected, error = quality.take(self.columns, axis=1), std.take(self.columns, axis=1)
            amount = cost.take(self.columns, axis=1)
        if self.plain and np.isfinite(
            expected.sum() + amount.sum()
        ):  # nothing is missing: the usual case, in few steps
            tokens = np.maximum(amount, 0.0)
            dollars = np.asarray(prompt_tokens, dtype=np.float64)[:, None] * self.input_rate
            dollars += tokens * self.output_price
            return expected.round(DECIMALS), error.round(DECIMALS), dollars.round(_DOLLAR_DECIMALS), tokens
        missing = np.isnan(expected) | ~self.known
        if missing.any():
            expected = np.where(missing, self._priors(expected, missing), expected)
            error = np.where(missing, PRIOR_STD, error)
            amount = np.where(missing, np.nan, amount)
        unknown = np.isnan(amount)
        tokens = np.full(amount.shape, self.prior_tokens) if self.in_dollars else amount
        if not self.in_dollars and unknown.any():
            tokens = np.where(unknown, self.prior_tokens, amount)
        tokens = np.maximum(tokens, 0.0)
        estimated = np.asarray(prompt_tokens, dtype=np.float64)[:, None]
        dollars = estimated * self.ratio * self.input_price + tokens * self.output_price
        if self.in_dollars:
            learned = np.maximum(amount, 0.0)
            if self.listed is not None:
                learned = self._at_present(learned, dollars, estimated, tokens, self.listed)
            dollars = np.where(unknown, dollars, learned)
            tokens = np.where(unknown, tokens, np.nan)
        # How a matrix product rounds its last bits depends on how many rows it has, and a decision must not depend on
        # which requests came at the same moment.
        return expected.round(DECIMALS), error.round(DECIMALS), dollars.round(_DOLLAR_DECIMALS), tokens

    def _at_present(
        self, learned: FloatArray, dollars: FloatArray, estimated: FloatArray, tokens: FloatArray, listed: PoolArrays
    ) -> FloatArray:
        """Return costs that were learned in dollars, moved as the prices have moved for an answer of usual length."""
        before = estimated * listed.ratio * listed.input_price + tokens * listed.output_price
        factor = np.divide(dollars, before, out=np.ones_like(dollars), where=before > 0)
        moved = (self.input_price != listed.input_price) | (self.output_price != listed.output_price)
        # What was free cannot be scaled.
        result: FloatArray = np.where(moved & (before <= 0), dollars, learned * factor)
        return result

    def _priors(self, expected: FloatArray, missing: npt.NDArray[np.bool_]) -> FloatArray:
        count = (~missing).sum(axis=1, keepdims=True)
        mean = np.where(missing, 0.0, expected).sum(axis=1, keepdims=True) / np.maximum(count, 1)
        fallback = np.where(count > 0, mean, 0.5)
        return np.where(np.isnan(self.prior_quality), fallback, self.prior_quality)
