"""Variance and skewness of off-policy estimates, with rare choices counted as often as they were to be expected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llmrouter.types import FloatArray

if TYPE_CHECKING:
    from llmrouter.evaluation._off_policy_scores import Contrast

_PRIOR_ROWS = 10.0


@dataclass(frozen=True)
class Moments:
    """What an interval needs to know of the mean of n terms.

    Attributes
    ----------
    variance : float
        Of the mean; NaN where the log lacks the propensities that it needs.
    freedom : float
        Degrees of freedom of the variance.
    skewness : float
        Of the mean.
    coupling : float
        Covariance of the standardised mean with the relative error of its variance. Where terms are skewed to the
        left, logs that lack the rare bad ones have a mean that is too high and a variance that is too low at once.
    """

    variance: float
    freedom: float = np.inf
    skewness: float = 0.0
    coupling: float = 0.0


@dataclass(frozen=True)
class _Side:
    """One side of a contrast: what the target does more often, or what the baseline does.

    Attributes
    ----------
    second : array of shape (known rows,)
        Expected square of each row's importance weight.
    third : float
        Mean expected cube of it.
    square, cube : float
        Mean square and mean cube of the amount.
    central : float
        Mean of ``amount^3 - square * amount``: how the mean square moves with the mean.
    rows : float
        Effective number of rows behind the mean square.
    doubt : float
        Relative variance of the mean square.
    """

    second: FloatArray
    third: float
    square: float
    cube: float
    central: float
    rows: float
    doubt: float


def assisted(contrast: Contrast, amount: FloatArray, expected: FloatArray, *, threshold: float = np.inf) -> Moments:
    """Return the moments of a mean of ``expected + importance * amount``, with rare choices counted as expected.

    With all propensities known, the mean square of the importance weights needs no luck:
    ``E[weight^2 | prompt] = sum_a C_a^2 / p_a``, whether or not a rare choice came up. Only the mean square (and cube)
    of `amount` is estimated, for either side of the contrast by itself, and shrunk by `_PRIOR_ROWS` rows towards what
    it is among all that the side's policy does. The usual sample variance is near zero where no rare choice has come
    up yet, and so promises most where least is known.

    Parameters
    ----------
    contrast : Contrast
        On n usable rows.
    amount, expected : array of shape (n,)
        What is weighted, and what is added to it.
    threshold : float
        Larger importance weights are ignored.
    """
    if not contrast.known.any():
        return Moments(float("nan"))
    n, once = len(contrast.share), contrast.share[contrast.known]
    centred = contrast.share * (expected - contrast.mean(expected))
    spread = float(np.square(centred).sum()) / max(n - 1, 1)
    sides = [_side(contrast, amount, sign, threshold) for sign in (1, -1)]
    parts = [float((np.square(once) * side.second).mean()) * side.square for side in sides]
    total = sum(parts) + spread
    if not total > 0:
        return Moments(0.0)
    doubt = sum(part**2 * side.doubt for part, side in zip(parts, sides, strict=True))
    doubt += 2 * spread**2 / max(n - 1, 1)
    freedom = 2 * total**2 / doubt if doubt > 0 else np.inf  # Satterthwaite
    # Where the expectation is far from its mean, weights may be larger or smaller than elsewhere.
    tilt = sum(float((centred[contrast.known] * np.square(once) * side.second).mean()) * side.square for side in sides)
    tilt_and_spread = tilt + float((centred**3).mean())
    signed = list(zip((1, -1), sides, strict=True))
    third = sum(sign * side.third * side.cube for sign, side in signed) + 2 * tilt
    learned = sum(sign * _trust(side.rows) * side.third * side.central for sign, side in signed)
    scale = total**1.5 * np.sqrt(n)
    return Moments(total / n, freedom, (third + tilt_and_spread) / scale, (learned + tilt_and_spread) / scale)


def effective(weight: FloatArray) -> float:
    """Return the effective sample size ``(sum w)^2 / sum w^2`` of weights >= 0."""
    squares = float(np.square(weight).sum())
    return float(weight.sum()) ** 2 / squares if squares > 0 else 0.0


def _side(contrast: Contrast, amount: FloatArray, sign: int, threshold: float) -> _Side:
    row, ratio, size = contrast.entries[sign]
    kept = ratio <= threshold
    row, ratio, once = row[kept], ratio[kept], contrast.share[contrast.known]
    mass = ratio * size[kept]
    count = len(once)
    weight = np.maximum(sign * contrast.importance, 0.0)
    weight = contrast.share * np.where(weight <= threshold, weight, 0.0)
    squares, square_of = weight * weight, amount * amount
    cubes, rows = squares * weight, effective(squares)
    prior_square, prior_cube = _prior(contrast, amount, sign)
    square = _shrunk(squares, square_of, rows, prior_square)
    wrong = _mean(squares * squares, np.square(square_of - square), 0.0)
    return _Side(
        second=np.bincount(row, weights=mass, minlength=count),
        third=float((once[row] ** 3 * ratio * mass).sum()) / count,
        square=square,
        cube=_shrunk(cubes, square_of * amount, effective(cubes), prior_cube),
        central=_mean(cubes, square_of * amount - square * amount, 0.0),
        rows=rows,
        doubt=_trust(rows) ** 2 * wrong / (rows * square**2) if rows * square > 0 else 0.0,
    )


def _prior(contrast: Contrast, amount: FloatArray, sign: int) -> tuple[float, float]:
    """Return mean square and mean cube of the amount among all that the policy on one side does.

    These rest on more rows than means in proportion to squared weights. As far as they are few too, they are shrunk
    towards the means over all rows and models.
    """
    own = np.maximum(sign * contrast.importance, 0.0)
    if contrast.sides is not None:
        own = contrast.sides[0 if sign > 0 else 1].importance
    own = contrast.share * own
    inverse, rows, square = contrast.share / contrast.log.propensity, effective(own), amount * amount
    return (
        _shrunk(own, square, rows, _mean(inverse, square, 0.0)),
        _shrunk(own, square * amount, rows, _mean(inverse, square * amount, 0.0)),
    )


def _trust(rows: float) -> float:
    return rows / (rows + _PRIOR_ROWS)


def _shrunk(weight: FloatArray, values: FloatArray, rows: float, prior: float) -> float:
    return prior + _trust(rows) * (_mean(weight, values, prior) - prior)


def _mean(weight: FloatArray, values: FloatArray, otherwise: float) -> float:
    total = float(weight.sum())
    return float((weight * values).sum()) / total if total > 0 else otherwise
