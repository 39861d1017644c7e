"""What a model card lets one expect of a model before it answered anything."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from llmrouter._completion import PRIOR_OUTPUT_TOKENS, PRIOR_STD
from llmrouter.engine import TrainedRouters
from llmrouter.exceptions import ConfigError
from llmrouter.types import Price

_STD_OF_GIVEN, _STD_OF_SIBLING, _STD_OF_NOTHING = 0.15, 0.15, PRIOR_STD
_LEAST_STD = 0.12
_SMALLEST_ERROR = 0.08
_FEW = 3.0
_FREE_USD = 1e-9
_LIKE_LEVEL = 0.15
_FAMILY_BONUS = 4.0


@dataclass(frozen=True)
class CardPrior:
    """An expectation without observations.

    Attributes
    ----------
    quality, std : float
        Mean quality in [0, 1] and its standard error.
    output_tokens, cost_usd, token_ratio : float
        Mean completion tokens and cost of a call; real prompt tokens per estimated one.
    likeness : mapping of str to float
        How much each known model says about it.
    evidence : tuple of str
        What the quality rests on, for people.
    """

    quality: float
    std: float
    output_tokens: float
    cost_usd: float
    token_ratio: float = 1.0
    likeness: Mapping[str, float] = field(default_factory=dict)
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True)
class PublicCard:
    """What its maker says of a model, beside its price.

    Attributes
    ----------
    family : str or None
        E.g. ``llama-3``.
    siblings : tuple of str
        Known models of the same family, by pool name.
    scores : mapping of str to float
        Public benchmark -> score of the new model, in [0, 1].
    known_scores : mapping of str to mapping
        Known model -> the same benchmarks.
    quality : float or None
        Expected mean quality on your traffic, where you have an opinion.
    """

    family: str | None = None
    siblings: tuple[str, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    known_scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    quality: float | None = None


def card_prior(
    trained: TrainedRouters, price: Price, card: PublicCard | None = None, *, prices: Mapping[str, Price] | None = None
) -> CardPrior:
    """Return what family, price and public scores let one expect of a model.

    Each source gives a mean and an error: the card's own `quality`, the mean of its siblings, a regression of the known
    models' quality on their public scores, and one on the logarithm of their price (a dearer model is not expected to
    be worse). They are combined by their precisions; the error is never below 0.12, so that exploration looks.

    Parameters
    ----------
    trained : TrainedRouters
        The artifact: means of the known models.
    price : Price
        Of the new model.
    card : PublicCard, optional
        By default only the price speaks.
    prices : mapping of str to Price, optional
        Of the known models.

    Raises
    ------
    ConfigError
        If a score or quality lies outside [0, 1], or a sibling is not known.
    """
    card = PublicCard() if card is None else card
    _check(card, trained)
    means = {name: value for name, value in trained.mean_quality.items() if math.isfinite(value)}
    if not means:
        raise ConfigError("the artifact holds no mean qualities, so nothing can be expected of a new model by likeness")
    found: list[tuple[float, float, str]] = []
    if card.quality is not None:
        found.append((card.quality, _STD_OF_GIVEN, "the card's own quality"))
    siblings = [name for name in card.siblings if name in means]
    if siblings:
        mean = float(np.mean([means[name] for name in siblings]))
        found.append((mean, _STD_OF_SIBLING, f"siblings {', '.join(siblings)}"))
    by_score = _by_scores(card, means)
    if by_score is not None:
        found.append(by_score)
    by_price = _by_price(price, means, prices or {})
    if by_price is not None:
        found.append(by_price)
    precision = np.array([1.0 / std**2 for _, std, _ in found])
    if precision.sum() < _STD_OF_NOTHING**-2:  # far from all known models, say: that is no better than to know nothing
        found.append((float(np.mean(list(means.values()))), _STD_OF_NOTHING, "the mean of the known models"))
        precision = np.append(precision, _STD_OF_NOTHING**-2)
    quality = float(np.clip(precision @ np.array([mean for mean, _, _ in found]) / precision.sum(), 0.0, 1.0))
    std = max(float(1.0 / math.sqrt(precision.sum())), _LEAST_STD)
    likeness = {
        name: math.exp(-abs(value - quality) / _LIKE_LEVEL) * (_FAMILY_BONUS if name in siblings else 1.0)
        for name, value in means.items()
    }
    tokens = _typical(trained.mean_output_tokens, siblings, PRIOR_OUTPUT_TOKENS)
    ratio = _typical(trained.token_ratio, siblings, 1.0)
    return CardPrior(
        quality=quality,
        std=std,
        output_tokens=tokens,
        cost_usd=_cost(trained, price, prices or {}, tokens),
        token_ratio=ratio,
        likeness=likeness,
        evidence=tuple(f"{what}: {mean:.3f} +- {error:.3f}" for mean, error, what in found),
    )


def _check(card: PublicCard, trained: TrainedRouters) -> None:
    unknown = [name for name in card.siblings if name not in trained.models]
    if unknown:
        raise ConfigError(
            f"the artifact does not know {', '.join(unknown)}; siblings are among {', '.join(trained.models)}",
            path="siblings",
        )
    scores = {"scores": card.scores, **{f"known_scores.{name}": own for name, own in card.known_scores.items()}}
    for path, values in scores.items():
        for benchmark, value in values.items():
            if not (math.isfinite(value) and 0 <= value <= 1):
                raise ConfigError(f"must lie in [0, 1]; got {value!r}", path=f"{path}.{benchmark}")
    if card.quality is not None and not (math.isfinite(card.quality) and 0 <= card.quality <= 1):
        raise ConfigError(f"must lie in [0, 1]; got {card.quality!r}", path="quality")


def _by_scores(card: PublicCard, means: Mapping[str, float]) -> tuple[float, float, str] | None:
    """Return the expectation from public scores: mean score against mean quality of the models that have both."""
    pairs = []
    for name, scores in card.known_scores.items():
        shared = [benchmark for benchmark in card.scores if benchmark in scores]
        if name in means and shared:
            known = float(np.mean([scores[benchmark] for benchmark in shared]))
            own = float(np.mean([card.scores[benchmark] for benchmark in shared]))
            pairs.append((known - own, means[name]))
    if not pairs:
        return None
    mean, std = _at_zero(pairs, slope=1.0)
    return mean, std, f"public scores beside {len(pairs)} known models"


def _by_price(price: Price, means: Mapping[str, float], prices: Mapping[str, Price]) -> tuple[float, float, str] | None:
    own = _blended(price)
    known = {name: _blended(prices[name]) for name in means if name in prices}
    pairs = [(math.log(value / own), means[name]) for name, value in known.items() if min(value, own) > _FREE_USD]
    if len(pairs) < 2:
        return None
    mean, std = _at_zero(pairs, slope=0.0)
    return mean, std, f"price beside {len(pairs)} known models"


def _at_zero(pairs: Sequence[tuple[float, float]], *, slope: float) -> tuple[float, float]:
    """Return the expectation at 0 of a line through (x, quality), its slope shrunk to `slope` and not negative."""
    x, y = (np.array(values) for values in zip(*pairs, strict=True))
    spread = x - x.mean()
    unit = float((spread**2).mean()) or 1.0
    strength = _FEW * unit
    fitted = float((spread @ (y - y.mean()) + strength * slope) / (spread @ spread + strength))
    fitted = max(fitted, 0.0)
    residual = y - y.mean() - fitted * spread
    n = len(pairs)
    error = max(float(np.sqrt((residual @ residual + _FEW * _STD_OF_NOTHING**2) / (n + 1))), _SMALLEST_ERROR)
    far = 1.0 + 1.0 / n + float(x.mean() ** 2) / (n * unit + strength)
    return float(np.clip(y.mean() - fitted * x.mean(), 0.0, 1.0)), error * math.sqrt(far)


def _blended(price: Price) -> float:
    """Return dollars for three tokens read and one written, the mix that price lists are often compared by."""
    return 3 * price.input + price.output


def _typical(values: Mapping[str, float], siblings: Sequence[str], otherwise: float) -> float:
    own = [values[name] for name in siblings if name in values] or list(values.values())
    return float(np.mean(own)) if own else otherwise


def _cost(trained: TrainedRouters, price: Price, prices: Mapping[str, Price], tokens: float) -> float:
    """Return a mean cost: known models' mean cost at their own prices says how many prompt tokens a call has."""
    read = []
    for name, cost in trained.mean_cost_usd.items():
        known = prices.get(name)
        if known is not None and known.input > 0:
            rest = cost - known.cost_usd(0.0, trained.mean_output_tokens.get(name, 0.0))
            read.append(max(rest, 0.0) * 1e6 / known.input)
    if read:
        return price.cost_usd(float(np.mean(read)), tokens)
    return float(np.mean(list(trained.mean_cost_usd.values()))) if trained.mean_cost_usd else price.cost_usd(0, tokens)
