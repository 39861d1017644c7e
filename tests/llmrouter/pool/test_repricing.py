"""Costs computed again from the log."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.outcomes import MemoryOutcomeStore
from llmrouter.pool import ModelDifference, PriceBook, Repriced, parse_usage, recompute_costs
from llmrouter.types import Outcome, Price

BOOK = PriceBook(overrides={"a": Price(1.0, 2.0, 0.5, as_of="2026-11-01"), "b": Price(10.0, 10.0)})
RAW = {"prompt_tokens": 1000, "completion_tokens": 500, "prompt_tokens_details": {"cached_tokens": 400}}


def outcome(request_id: str, **values: object) -> Outcome:
    return Outcome(request_id, **{"time": 10.0, "model": "a", **values})


def test_costs_come_from_the_raw_usage_and_the_model_that_answered() -> None:
    changes: list[Repriced] = []
    report = recompute_costs(
        [
            outcome("wrong", usage=RAW, cost_usd=0.002, input_tokens=999_999, output_tokens=0),
            outcome("right", usage=RAW, cost_usd=0.0018),
            outcome("unknown before", served_by="b", input_tokens=20, output_tokens=20, fallbacks=("a",)),
            outcome("own cache", cache="hit", cost_usd=0.0, usage=RAW),
            outcome("cache missed", cache="miss", usage=RAW, cost_usd=0.0018),
            outcome("nobody answered", status="error"),
            outcome("no price", served_by="zz", usage=RAW, cost_usd=1.0),
        ],
        BOOK,
        on_change=changes.append,
    )
    assert changes == [
        Repriced("wrong", "a", 0.002, 0.0018, "2026-11-01"),
        Repriced("unknown before", "b", None, 0.0004, "config"),
    ]
    assert (report.n, report.computed, report.changed, report.from_cache, report.without_usage) == (7, 4, 2, 1, 1)
    assert report.without_price == {"zz": 1}
    assert report.models == (
        ModelDifference("b", 1, 0.0, 0.0004, "config"),
        ModelDifference("a", 3, 0.0056, 0.0054, "2026-11-01"),
    )
    assert (report.total_before_usd, report.total_after_usd) == (0.0056, 0.0058)


def test_the_time_limit_and_the_store() -> None:
    store = MemoryOutcomeStore()
    store.append([outcome("old", time=1.0, usage=RAW), outcome("new", time=5.0, usage=RAW)])
    assert recompute_costs(store, BOOK).n == 2
    assert recompute_costs(store, BOOK, since=5.0).n == 1
    assert recompute_costs(list(store.scan()), BOOK, since=5.0).n == 1
    found = store.get("new")
    assert found is not None
    assert found.cost_usd is None, "the log is not changed"


@given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**7), st.integers(0, 10**7))))
def test_what_was_charged_from_the_usage_is_found_again(calls: list[tuple[int, int, int]]) -> None:
    price = BOOK.price("a")
    assert price is not None
    outcomes = []
    for i, (prompt, completion, cached) in enumerate(calls):
        raw = {"input_tokens": prompt, "output_tokens": completion, "cache_read_input_tokens": cached}
        outcomes.append(outcome(str(i), usage=raw, cost_usd=price.cost_of(parse_usage(raw))))
    report = recompute_costs(outcomes, BOOK)
    assert report.changed == 0
    assert report.total_after_usd == pytest.approx(report.total_before_usd, rel=1e-12)
