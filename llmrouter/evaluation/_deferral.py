"""Area under the deferral curve, as UniRoute reads it (arXiv:2502.08773)."""

from __future__ import annotations

import math

import numpy as np

from llmrouter.exceptions import DataError
from llmrouter.types import FloatArray


def deferral_area(cost: FloatArray, quality: FloatArray, *, dearest_cost: float, up_to: float = 1.0) -> float:
    """Return the area under the curve of (mean cost, mean quality), the cost divided by the dearest model's.

    The operating points are joined as they are, without a hull: quality may fall along the way. Of points of equal
    cost the best counts. Left of the cheapest point lies the line to (0, 0), not answering; right of the dearest point
    the curve is flat.

    Parameters
    ----------
    cost, quality : array of shape (p,)
        Operating points; one with a NaN coordinate is left out.
    dearest_cost : float
        Mean cost of the dearest single model.
    up_to : float
        Right end: 1 for the whole area, 0.5 for Area(50%), which is not divided by 0.5.

    Returns
    -------
    float
        In [0, up_to] for qualities in [0, 1]; NaN if the dearest model costs nothing or no point is known.

    Raises
    ------
    DataError
        If the shapes differ.
    """
    cost, quality = np.asarray(cost, dtype=np.float64), np.asarray(quality, dtype=np.float64)
    if cost.ndim != 1 or cost.shape != quality.shape:
        raise DataError(f"cost and quality must be 1-d of one length; got {cost.shape} and {quality.shape}")
    known = np.isfinite(cost) & np.isfinite(quality)
    if not dearest_cost > 0 or not known.any():
        return math.nan
    share, height = cost[known] / dearest_cost, quality[known]
    order = np.lexsort((-height, share))
    share, first = np.unique(share[order], return_index=True)
    height = height[order][first]
    if share[0] > 0:
        share, height = np.append(0.0, share), np.append(0.0, height)
    inside = share < up_to
    grid = np.append(share[inside], up_to)
    heights = np.append(height[inside], np.interp(up_to, share, height))
    return float(np.trapezoid(heights, grid))
