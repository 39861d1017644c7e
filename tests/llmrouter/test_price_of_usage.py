"""What a call costs: every token once, at the price of its kind, exactly."""

from __future__ import annotations

import dataclasses
from decimal import Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from llmrouter.types import Price, PriceTier, Usage

COUNTS = st.integers(0, 10**9)
AMOUNTS = st.integers(0, 10**6).map(lambda n: n / 10_000)
OPTIONAL = st.none() | AMOUNTS


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    """Counts that add up: parts are never larger than their whole."""
    fresh, cached, written, audio_in, text, reasoning, audio_out = (draw(COUNTS) for _ in range(7))
    return Usage(
        input_tokens=fresh + cached + written + audio_in,
        output_tokens=text + reasoning + audio_out,
        cached_tokens=cached,
        reasoning_tokens=reasoning,
        cache_write_tokens=written,
        input_audio_tokens=audio_in,
        output_audio_tokens=audio_out,
    )


PRICES = st.builds(
    Price,
    input=AMOUNTS,
    output=AMOUNTS,
    cached_input=OPTIONAL,
    cache_write=OPTIONAL,
    reasoning_output=OPTIONAL,
    input_audio=OPTIONAL,
    output_audio=OPTIONAL,
)


def plus(a: Usage, b: Usage) -> Usage:
    names = [field.name for field in dataclasses.fields(Usage) if field.name != "raw"]
    return Usage(**{name: getattr(a, name) + getattr(b, name) for name in names})


@given(PRICES, usages(), usages())
def test_costs_add_up(price: Price, a: Usage, b: Usage) -> None:
    together, first, second = (price.exact_cost_of(usage) for usage in (plus(a, b), a, b))
    assert first is not None
    assert second is not None
    assert together == first + second


@given(PRICES, usages())
def test_every_token_is_paid_once(price: Price, usage: Usage) -> None:
    def rate(own: float | None, whole: float) -> Fraction:
        return Fraction(repr(whole if own is None else own))

    fresh = usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens - usage.input_audio_tokens
    text = usage.output_tokens - usage.reasoning_tokens - usage.output_audio_tokens
    expected = (
        fresh * rate(None, price.input)
        + usage.cached_tokens * rate(price.cached_input, price.input)
        + usage.cache_write_tokens * rate(price.cache_write, price.input)
        + usage.input_audio_tokens * rate(price.input_audio, price.input)
        + text * rate(None, price.output)
        + usage.reasoning_tokens * rate(price.reasoning_output, price.output)
        + usage.output_audio_tokens * rate(price.output_audio, price.output)
    ) / 1_000_000
    assert Fraction(price.exact_cost_of(usage)) == expected


@given(AMOUNTS, AMOUNTS, usages())
def test_without_prices_of_their_own_kinds_of_tokens_make_no_difference(
    fresh: float, output: float, usage: Usage
) -> None:
    price = Price(fresh, output)
    assert price.exact_cost_of(usage) == price.exact_cost_of(Usage(usage.input_tokens, usage.output_tokens))


@given(PRICES, COUNTS, COUNTS)
def test_cached_tokens_are_never_dearer_than_fresh_ones_unless_their_price_is(price: Price, fresh: int, n: int) -> None:
    cached = price.exact_cost_of(Usage(fresh + n, 0, cached_tokens=n))
    plain = price.exact_cost_of(Usage(fresh + n, 0))
    assert (cached <= plain) or price.cached_input > price.input


@given(PRICES, st.builds(Usage, *[st.none() | COUNTS] * 7))
def test_odd_counts_never_cost_less_than_nothing_nor_more_than_the_dearest_price(price: Price, usage: Usage) -> None:
    cost = price.exact_cost_of(usage)
    if usage.input_tokens is None or usage.output_tokens is None:
        assert cost is None
        assert price.cost_of(usage) is None
        return
    rates = [value for value in dataclasses.astuple(price)[:7] if value is not None]
    dearest = Decimal(repr(max(rates)))
    assert 0 <= cost <= (usage.input_tokens + usage.output_tokens) * dearest / 1_000_000


def test_amounts_are_those_a_person_computes() -> None:
    price = Price(0.15, 0.60, 0.075)
    assert price.cost_of(Usage(1000, 500, cached_tokens=200)) == 0.000435
    # 0.1 + 0.2 is not 0.3 in binary numbers.
    assert Price(0.1, 0.2).cost_of(Usage(1_000_000, 1_000_000)) == 0.3
    assert Price(0, 0, per_request=0.005).cost_of(Usage(10, 10)) == 0.005


def test_a_bill_of_a_provider_that_counts_reasoning() -> None:
    usage = Usage(10_120, 1_499 + 2_809, cached_tokens=128, reasoning_tokens=2_809)
    assert Price(1.25, 2.50, 0.20).cost_of(usage) == 0.0232856


def test_long_prompts_have_prices_of_their_own_for_the_whole_call() -> None:
    tiers = (PriceTier(200_000, 2.0, 20.0), PriceTier(500_000, 4.0, 40.0, cached_input=1.0))
    price = Price(1.0, 10.0, 0.5, tiers=tiers)
    assert price.cost_of(Usage(200_000, 1_000_000)) == 0.2 + 10
    assert price.cost_of(Usage(200_001, 1_000_000)) == 0.400002 + 20
    assert price.cost_of(Usage(300_000, 0, cached_tokens=100_000)) == 0.4 + 0.05
    assert price.cost_of(Usage(600_000, 0, cached_tokens=600_000)) == 0.6


def test_raw_usage_is_kept_and_not_compared() -> None:
    assert Usage(1, 2, raw={"a": 1}) == Usage(1, 2, raw={"a": 2})
    assert hash(Usage(1, 2, raw={"a": 1})) == hash(Usage(1, 2))
    assert "'a'" not in repr(Usage(1, 2, raw={"a": 1}))


def test_the_stamp_is_the_date_or_else_the_source() -> None:
    assert Price(1, 1, as_of="2026-11-01", source="file").stamp == "2026-11-01"
    assert Price(1, 1, source="litellm 1.106.2").stamp == "litellm 1.106.2"


def test_expectations_are_what_they_were() -> None:
    assert Price(2.0, 4.0, cached_input=1.0).cost_usd(1_000_000, 500_000, cached_tokens=250_000) == 3.75
