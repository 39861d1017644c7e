"""What a decoding step takes by its rows, and how many requests share it: the two parts of a token's price."""

from __future__ import annotations

import math
from dataclasses import dataclass

COMPANY_S = 10.0
"""Time constant of the company, seconds: in so long a change of the load comes through to 63%."""

_FORGET = 0.99  # weight of the past at each step: the last few hundred steps count
_SPREAD = 0.1  # least variance of the batch size from which a slope is read


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of a step, ``fixed_s + row_s * rows``, both at least 0 and not both 0.

    Attributes
    ----------
    measured : bool
        Whether batches of different sizes were seen; else all of the mean step is put on its rows.
    """

    fixed_s: float
    row_s: float
    measured: bool

    def of(self, rows: float) -> float:
        """Return the seconds of a step of `rows` rows."""
        return self.fixed_s + self.row_s * rows

    def share(self, rows: float) -> float:
        """Return the seconds of a token that shares the fixed part with `rows` rows, its own included."""
        return self.fixed_s / rows + self.row_s


class StepFit:
    """Least squares of steps' seconds on their rows over the last steps, weighted towards the newest.

    Under a steady load all steps become alike and say nothing of the slope. The parts keep their proportion then, and
    follow the mean: a price must not jump because a measurement was forgotten.
    """

    def __init__(self) -> None:
        self._weight = self._rows = self._squares = self._seconds = self._products = 0.0
        self._read: StepTime | None = None

    def add(self, rows: int, seconds: float) -> None:
        """Take in a step."""
        self._weight = _FORGET * self._weight + 1
        self._rows = _FORGET * self._rows + rows
        self._squares = _FORGET * self._squares + rows * rows
        self._seconds = _FORGET * self._seconds + seconds
        self._products = _FORGET * self._products + rows * seconds
        mean_rows, mean_s = self._rows / self._weight, self._seconds / self._weight
        variance = self._squares / self._weight - mean_rows**2
        if variance >= _SPREAD:
            slope = (self._products / self._weight - mean_rows * mean_s) / variance
            slope = min(max(slope, 0.0), mean_s / mean_rows)
            self._read = StepTime(mean_s - slope * mean_rows, slope, measured=True)

    def time(self) -> StepTime | None:
        """Return the fit; None before the first step."""
        if not self._weight:
            return None
        mean_rows, mean_s = self._rows / self._weight, self._seconds / self._weight
        if self._read is None or not self._read.of(mean_rows):
            return StepTime(0.0, mean_s / mean_rows, measured=False)
        factor = mean_s / self._read.of(mean_rows)
        return StepTime(self._read.fixed_s * factor, self._read.row_s * factor, measured=True)


class Company:
    """How many requests generate at once, an idle machine counted as one: whoever comes has the step for itself.

    The mean over time, with weights that fall to 1/e in `COMPANY_S`.

    Parameters
    ----------
    now : float
        Seconds of a clock that does not go back, here as everywhere.
    """

    def __init__(self, now: float) -> None:
        self._mean = self._rows = 1.0
        self._at = now

    def set(self, running: int, now: float) -> None:
        """Say that from `now` on so many requests generate."""
        self._mean, self._at, self._rows = self.mean(now), now, float(max(running, 1))

    def mean(self, now: float) -> float:
        """Return the mean up to `now`, at least 1."""
        return self._rows + (self._mean - self._rows) * math.exp(-max(now - self._at, 0.0) / COMPANY_S)
