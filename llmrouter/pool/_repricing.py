"""Costs computed again from what the log keeps: the provider's own usage, and prices as they are known today."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Protocol

from llmrouter.pool._usage import parse_usage
from llmrouter.types import Outcome, Price, Usage

if TYPE_CHECKING:
    from llmrouter.outcomes import OutcomeStore

_OWN_CACHE = frozenset({"hit", "semantic"})
# A cost that was computed in another order of operations differs in its last bits.
_SAME = 1e-9


class Prices(Protocol):
    """What repricing needs of a `PriceBook`."""

    def price(self, model: str, /) -> Price | None:
        """Return the price of a model of the pool, or None."""
        ...


@dataclass(frozen=True, slots=True)
class Repriced:
    """One outcome whose cost comes out otherwise: US dollars before (None: unknown) and after."""

    request_id: str
    model: str
    before_usd: float | None
    after_usd: float
    stamp: str


@dataclass(frozen=True, slots=True)
class ModelDifference:
    """Costs of one model in US dollars: of `n` outcomes as recorded, and as computed with the price named `stamp`."""

    model: str
    n: int
    before_usd: float
    after_usd: float
    stamp: str

    @property
    def difference_usd(self) -> float:
        """How much more they cost than was recorded."""
        return self.after_usd - self.before_usd


@dataclass(frozen=True, slots=True)
class RepricingReport:
    """What recomputing the costs of a log found.

    Attributes
    ----------
    n : int
        Outcomes that were looked at.
    computed : int
        Of these, how many have tokens and a price.
    changed : int
        Of these, how many come out otherwise than recorded, or had no cost.
    from_cache : int
        Answered by the gateway's own cache: they cost nothing, and are left as they are.
    without_usage : int
        The provider did not count the tokens, or nobody answered.
    without_price : mapping of str to int
        Models of no known price -> outcomes.
    total_before_usd, total_after_usd : float
        US dollars over the computed outcomes; one without a cost counts as nothing before.
    models : tuple of ModelDifference
        The same by model, the largest difference first.
    """

    n: int
    computed: int
    changed: int
    from_cache: int
    without_usage: int
    without_price: Mapping[str, int]
    total_before_usd: float
    total_after_usd: float
    models: tuple[ModelDifference, ...]


@dataclass(slots=True)
class _Sums:
    stamp: str
    n: int = 0
    before: Decimal = Decimal(0)
    after: Decimal = Decimal(0)


@dataclass(slots=True)
class _Tally:
    n: int = 0
    changed: int = 0
    from_cache: int = 0
    without_usage: int = 0
    without_price: Counter[str] = field(default_factory=Counter)
    models: dict[str, _Sums] = field(default_factory=dict)


def recompute_costs(
    outcomes: OutcomeStore | Iterable[Outcome],
    prices: Prices,
    *,
    since: float = 0.0,
    on_change: Callable[[Repriced], None] | None = None,
) -> RepricingReport:
    """Compute the costs of logged outcomes again, and say how they differ. The log is not changed.

    Parameters
    ----------
    outcomes : OutcomeStore or iterable of Outcome
        The log; a store is scanned.
    prices : PriceBook
        Asked for the price of the model that answered.
    since : float
        Leave out outcomes before this time, seconds since the epoch.
    on_change : callable, optional
        Called with every outcome that comes out otherwise, in order.
    """
    logged: Iterable[Outcome] = outcomes if isinstance(outcomes, Iterable) else outcomes.scan(since)
    tally = _Tally()
    for outcome in logged:
        if outcome.time >= since:
            repriced = _reprice(outcome, prices, tally)
            if repriced is not None and on_change is not None:
                on_change(repriced)
    return _report(tally)


def usage_of(outcome: Outcome) -> Usage:
    """Return the tokens of an outcome: read anew from the provider's own usage, else from the counts kept of it."""
    if outcome.usage is not None:
        return parse_usage(outcome.usage)
    return Usage(outcome.input_tokens, outcome.output_tokens, outcome.cached_tokens, outcome.reasoning_tokens)


def _reprice(outcome: Outcome, prices: Prices, tally: _Tally) -> Repriced | None:
    tally.n += 1
    if outcome.cache in _OWN_CACHE:
        tally.from_cache += 1
        return None
    usage = usage_of(outcome)
    if usage.input_tokens is None or usage.output_tokens is None:
        tally.without_usage += 1
        return None
    model = outcome.served_by or outcome.model
    price = prices.price(model)
    exact = None if price is None else price.exact_cost_of(usage)
    if price is None or exact is None:
        tally.without_price[model] += 1
        return None
    before, after = outcome.cost_usd, float(exact)
    sums = tally.models.setdefault(model, _Sums(price.stamp))
    sums.n += 1
    sums.after += exact
    if before is not None:
        sums.before += Decimal(repr(float(before)))
        if math.isclose(before, after, rel_tol=_SAME):
            return None
    tally.changed += 1
    return Repriced(outcome.request_id, model, before, after, price.stamp)


def _report(tally: _Tally) -> RepricingReport:
    models = [
        ModelDifference(model, sums.n, float(sums.before), float(sums.after), sums.stamp)
        for model, sums in tally.models.items()
    ]
    return RepricingReport(
        n=tally.n,
        computed=sum(model.n for model in models),
        changed=tally.changed,
        from_cache=tally.from_cache,
        without_usage=tally.without_usage,
        without_price=dict(tally.without_price),
        total_before_usd=float(sum((sums.before for sums in tally.models.values()), Decimal(0))),
        total_after_usd=float(sum((sums.after for sums in tally.models.values()), Decimal(0))),
        models=tuple(sorted(models, key=lambda model: (-abs(model.difference_usd), model.model))),
    )
