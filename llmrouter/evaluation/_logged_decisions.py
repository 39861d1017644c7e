"""What a log says of decisions: which model was asked, with what probability, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmrouter.exceptions import DataError
from llmrouter.types import FloatArray, IntArray

_SUM_TOLERANCE = 1e-3
_ROUNDING = 1e-6


@dataclass(frozen=True)
class LoggedDecisions:
    """n logged decisions among m models, of which only the chosen model's reward is known.

    Attributes
    ----------
    chosen : array of shape (n,), int
        Column of the model that was asked.
    reward : array of shape (n,)
        What came of it, e.g. quality, or quality less weighted cost; NaN where nobody judged it.
    propensity : array of shape (n,)
        Probability with which the logging policy chose that model, in (0, 1]; NaN where nobody can say, e.g. where a
        fallback answered.
    propensities : array of shape (n, m), optional
        The same of every model, zero where one could not be chosen; a row of NaN where the log does not say. With
        them intervals are much better on short logs, and missing overlap is known rather than guessed.
    weight : array of shape (n,), optional
        How much each row counts, >= 0; by default 1.
    cluster : array of shape (n,), optional
        Rows of one cluster (conversation, key) depend on each other; by default all rows are independent.

    Raises
    ------
    DataError
        If shapes disagree or a value is out of its range.
    """

    chosen: IntArray
    reward: FloatArray
    propensity: FloatArray
    propensities: FloatArray | None = None
    weight: FloatArray | None = None
    cluster: npt.NDArray[np.generic] | None = None

    def __post_init__(self) -> None:
        n = len(self.chosen)
        for name in ("reward", "propensity", "weight", "cluster"):
            values = getattr(self, name)
            if values is not None and np.shape(values) != (n,):
                raise DataError(f"{name} must be ({n},), one value a decision; got {np.shape(values)}")
        if self.chosen.dtype.kind not in "iu" or (n and self.chosen.min() < 0):
            raise DataError("chosen must hold columns, integers >= 0")
        if np.isinf(self.reward).any():
            raise DataError("reward has infinite values; use NaN where nobody judged")
        known = self.propensity[np.isfinite(self.propensity)]
        if known.size and (known.min() <= 0 or known.max() > 1 + _ROUNDING):
            raise DataError(
                f"propensity must lie in (0, 1] or be NaN; got [{known.min():g}, {known.max():g}]: a model that was "
                "chosen cannot have had the probability 0"
            )
        if self.weight is not None and (not np.isfinite(self.weight).all() or (self.weight < 0).any()):
            raise DataError("weight must be finite and >= 0")
        if self.propensities is not None:
            self._check_propensities(self.propensities)

    def _check_propensities(self, full: FloatArray) -> None:
        n = len(self.chosen)
        if full.ndim != 2 or len(full) != n:
            raise DataError(f"propensities must be ({n}, m); got {full.shape}")
        if n and self.chosen.max() >= full.shape[1]:
            raise DataError(f"chosen names column {self.chosen.max()}, but propensities have {full.shape[1]} columns")
        known = np.isfinite(full).all(axis=1)
        rows = full[known]
        if rows.size and (rows.min() < -_ROUNDING or np.abs(rows.sum(axis=1) - 1.0).max() > _SUM_TOLERANCE):
            raise DataError("propensities must be >= 0 and sum to 1 over the models of a row, or be NaN")
        both = known & np.isfinite(self.propensity)
        given = self.propensity[both]
        if given.size and np.abs(full[both, self.chosen[both]] - given).max() > _SUM_TOLERANCE:
            raise DataError("propensity and the chosen column of propensities disagree; they must be the same numbers")

    def __len__(self) -> int:
        """Return the number of decisions n."""
        return len(self.chosen)

    @property
    def usable(self) -> npt.NDArray[np.bool_]:
        """Where reward and propensity are known and the weight is above zero, shape (n,)."""
        known: npt.NDArray[np.bool_] = np.isfinite(self.reward) & np.isfinite(self.propensity)
        return known if self.weight is None else known & (self.weight > 0)

    @property
    def left_out(self) -> dict[str, int]:
        """How many rows cannot be used, by reason."""
        judged = np.isfinite(self.reward)
        by_chance = np.isfinite(self.propensity)
        counted = np.ones(len(self), dtype=bool) if self.weight is None else self.weight > 0
        return {
            "reward unknown": int((~judged).sum()),
            "propensity unknown": int((judged & ~by_chance).sum()),
            "weight zero": int((judged & by_chance & ~counted).sum()),
        }

    def select(self, rows: npt.NDArray[np.bool_] | IntArray) -> LoggedDecisions:
        """Return some of the decisions, given as indices or as a mask of length n."""

        def part(values: npt.NDArray[np.generic] | None) -> npt.NDArray[np.generic] | None:
            return None if values is None else values[rows]

        return LoggedDecisions(
            self.chosen[rows],
            self.reward[rows],
            self.propensity[rows],
            None if self.propensities is None else self.propensities[rows],
            None if self.weight is None else self.weight[rows],
            part(self.cluster),
        )
