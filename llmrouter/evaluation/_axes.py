"""The axes of the cost-quality plot: from cost and quality to pixels."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from llmrouter.evaluation._format import CONTENDERS, CostDisplay, plain_number
from llmrouter.evaluation._metrics import Hull
from llmrouter.evaluation._result import EvaluationResult
from llmrouter.types import FloatArray

LEFT, RIGHT, TOP, BOTTOM = 84.0, 980.0, 112.0, 686.0

# Beyond this ratio of dearest to cheapest, a linear axis would squeeze all but one model into a corner.
_LOG_FROM = 20.0
# Points dearer than this many times the dearest model (cascades that ask everybody) are left outside the plot.
_DEAREST_SHOWN = 1.5


@dataclass(frozen=True)
class Axis:
    """One axis: data range to pixel range, linear or logarithmic; `end` is the largest value to draw lines to."""

    low: float
    high: float
    start: float
    stop: float
    end: float
    log: bool = False
    intervals: int = 7

    def pixel(self, value: float) -> float:
        """Return the pixel of a value; on a logarithmic axis values below the range are moved to its end."""
        if self.log:
            position = (math.log(max(value, self.low)) - math.log(self.low)) / (math.log(self.high / self.low))
        else:
            position = (value - self.low) / (self.high - self.low)
        return self.start + position * (self.stop - self.start)

    def holds(self, value: float) -> bool:
        """Return whether a value lies in the range."""
        return self.low <= value <= self.high

    def ticks(self) -> list[float]:
        """Return round values inside the range."""
        if self.log:
            exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (1, 2, 5) if self.high / self.low < 2000 else (1,)
            found = [step * 10.0**exponent for exponent in exponents for step in steps]
        else:
            step = nice_step((self.high - self.low) / self.intervals)
            found = [step * index for index in range(math.floor(self.low / step), math.ceil(self.high / step) + 1)]
        slack = 1e-9 * abs(self.high)
        return [value for value in found if self.low - slack <= value <= self.high + slack]


def nice_step(rough: float) -> float:
    """Return the smallest of 1, 2, 5, 10 times a power of ten that is not below a length."""
    magnitude: float = 10.0 ** math.floor(math.log10(rough))
    return next(step * magnitude for step in (1, 2, 5, 10) if step * magnitude >= rough * 0.999)


def cost_range(result: EvaluationResult) -> tuple[float, float]:
    """Return the smallest and the largest cost to be shown."""
    shown = [router for router in result.routers.values() if router.kind in CONTENDERS]
    hulls = np.concatenate([result.model_cost, *(router.curve.hull.cost for router in shown)])
    limit = _DEAREST_SHOWN * float(hulls.max())
    costs = np.concatenate([hulls, *(router.curve.mean_cost for router in shown)])
    costs = costs[np.isfinite(costs) & (costs <= limit)]
    return float(costs.min()), float(costs.max())


def log_possible(result: EvaluationResult) -> bool:
    """Return whether costs can be shown on a logarithmic axis: they are all above 0 and not all equal."""
    low, high = cost_range(result)
    return low > 0 and high > low * 1.001


def log_preferred(result: EvaluationResult) -> bool:
    """Return whether a linear axis would squeeze all but one model into a corner."""
    low, high = cost_range(result)
    return low > 0 and high / low > _LOG_FROM


def make_axes(result: EvaluationResult, *, log: bool) -> tuple[Axis, Axis]:
    """Return the axes of cost and of quality."""
    shown = [router for router in result.routers.values() if router.kind in CONTENDERS]
    oracle = result.routers["oracle"].curve
    qualities = np.concatenate(
        [result.model_quality, oracle.mean_quality[:1], *(router.curve.hull.quality for router in shown)]
    )
    low, high = cost_range(result)
    if log:
        margin = (high / low) ** 0.03
        x_axis = Axis(low / margin, high * margin, LEFT, RIGHT, high, log=True)
    else:
        margin = 0.03 * (high - low) or 0.5 * high or 1.0
        x_axis = Axis(low - margin, high + margin, LEFT, RIGHT, high)
    bottom, top = float(qualities.min()), float(qualities.max())
    margin = 0.05 * (top - bottom) or 0.05
    return x_axis, Axis(bottom - margin, top + margin, BOTTOM, TOP, top, intervals=9)


def hull_pixels(hull: Hull, x_axis: Axis, y_axis: Axis) -> tuple[tuple[float, float], ...]:
    """Return a hull as pixels, flat to the largest cost shown; its straight mixing lines bend on a logarithmic axis."""
    costs: list[float] = []
    for start, stop in itertools.pairwise(hull.cost.tolist()):
        costs += np.linspace(start, stop, 30 if x_axis.log else 2).tolist()
        if x_axis.log and start > 0:
            costs += np.geomspace(start, stop, 30).tolist()
    dense: FloatArray = np.unique(np.array([*costs, *hull.cost.tolist(), x_axis.end]))
    first = max(x_axis.low, float(hull.cost[0]))
    dense = np.unique(np.append(dense[(dense >= first) & (dense <= x_axis.end)], min(first, x_axis.end)))
    qualities = np.maximum(np.interp(dense, hull.cost, hull.quality), y_axis.low)
    return tuple((x_axis.pixel(c), y_axis.pixel(q)) for c, q in zip(dense.tolist(), qualities.tolist(), strict=True))


def tick_text(value: float, display: CostDisplay) -> str:
    """Return the text beside a tick of the cost axis."""
    shown = round(value * display.scale, 10)
    number_text = plain_number(shown) if abs(shown) >= 10_000 else f"{shown:g}"
    if display.prefix and len(number_text) == 3 and number_text.startswith("0."):
        number_text += "0"  # $0.20, not $0.2
    return f"{display.prefix}{number_text}{display.suffix}"
