"""Percentiles and medians of measurements."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the sorted values lie, interpolated linearly.

    Parameters
    ----------
    values : sequence of float
        Sorted, at least one.
    share : float
        In [0, 1].
    """
    if not values:
        raise ValueError("a percentile of no values was asked for")
    position = share * (len(values) - 1)
    below = int(position)
    above = min(below + 1, len(values) - 1)
    return values[below] + (values[above] - values[below]) * (position - below)


def median(values: Iterable[float]) -> float:
    """Return the median; at least one value is needed."""
    return percentile(sorted(values), 0.5)


def summary(values: Iterable[float]) -> dict[str, float]:
    """Return count, mean, p50, p90, p99 and the largest; only the count where there are none."""
    ordered = sorted(values)
    if not ordered:
        return {"count": 0}
    return {
        "count": len(ordered),
        "mean": sum(ordered) / len(ordered),
        "p50": percentile(ordered, 0.5),
        "p90": percentile(ordered, 0.9),
        "p99": percentile(ordered, 0.99),
        "max": ordered[-1],
    }


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the slope of the least-squares line through (x, y) points; at least two different x are needed."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
