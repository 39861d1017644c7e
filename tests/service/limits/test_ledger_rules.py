from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.limits.ledger import Ledger
from service.limits.periods import as_text, period_end, period_id
from service.limits.settings import Limits
from service.limits.subjects import Subject

NOON = 1_700_000_000.0


def subject(**limits):
    return Subject("key", "alice", Limits(**limits))


def take(ledger, who, *, grant="g", tokens=0, cost=0.0, now=NOON):
    return ledger.take(grant, (who,), tokens=tokens, cost_usd=cost, now=now)


def settle(ledger, who, *, grant="g", taken=0, tokens=None, cost=None, now=NOON):
    return ledger.settle(grant, (who,), tokens_taken=taken, tokens=tokens, cost_usd=cost, now=now)


def test_a_minutes_requests_pass_at_once_and_the_next_when_one_has_refilled():
    ledger, who = Ledger(), subject(rpm=6)
    assert [take(ledger, who, grant=str(i)).refusal for i in range(6)] == [None] * 6
    refusal = take(ledger, who, grant="7").refusal
    assert (refusal.dimension, refusal.wait_s) == ("requests", pytest.approx(10.0))
    assert take(ledger, who, grant="8", now=NOON + 10.001).refusal is None


def test_unused_tokens_come_back_and_used_ones_are_added():
    ledger, who = Ledger(), subject(tpm=1000)
    take(ledger, who, tokens=900)
    assert take(ledger, who, grant="h", tokens=200).refusal.dimension == "tokens"
    settle(ledger, who, taken=900, tokens=100)
    assert take(ledger, who, grant="h", tokens=200).refusal is None
    settle(ledger, who, grant="h", taken=200, tokens=1200)
    refusal = take(ledger, who, grant="i", tokens=1).refusal
    assert refusal.wait_s == pytest.approx((100 + 1200 + 1 - 1000) * 0.06)


def test_unknown_tokens_count_as_taken():
    ledger, who = Ledger(), subject(tpm=1000)
    take(ledger, who, tokens=1000)
    settle(ledger, who, taken=1000, tokens=None)
    assert take(ledger, who, grant="h", tokens=1).refusal is not None


def test_a_request_larger_than_a_minute_passes_only_where_the_ledger_is_lenient_and_the_bucket_full():
    ledger, who = Ledger(), subject(tpm=100)
    assert take(ledger, who, tokens=101).refusal.dimension == "tokens"
    assert ledger.take("a", (who,), tokens=300, cost_usd=0, now=NOON, lenient=True).refusal is None
    assert ledger.take("b", (who,), tokens=1, cost_usd=0, now=NOON + 100, lenient=True).refusal is not None
    assert ledger.take("b", (who,), tokens=1, cost_usd=0, now=NOON + 181, lenient=True).refusal is None


def test_cancelled_requests_leave_no_trace():
    ledger, who = Ledger(), subject(rpm=1, tpm=10, concurrency=1, budget_usd=1)
    take(ledger, who, tokens=10, cost=0.05)
    ledger.cancel("g", (who,), tokens_taken=10, now=NOON)
    assert take(ledger, who, grant="h", tokens=10, cost=0.05).refusal is None


def test_a_request_counts_for_all_subjects_or_for_none():
    ledger, many, one = Ledger(), subject(rpm=10), Subject("team", "blue", Limits(rpm=1))
    assert ledger.take("a", (many, one), tokens=0, cost_usd=0, now=NOON).refusal is None
    refused = ledger.take("b", (many, one), tokens=0, cost_usd=0, now=NOON)
    assert (refused.refusal.place, refused.refusal.dimension) == (1, "requests")
    assert refused.views[0].requests_full == pytest.approx(NOON + 6)
    assert refused.views[0].in_flight == 1


def test_requests_at_the_same_time_are_counted_exactly():
    ledger, who = Ledger(), subject(concurrency=2)
    assert take(ledger, who, grant="a").refusal is None
    assert take(ledger, who, grant="b").refusal is None
    assert take(ledger, who, grant="c").refusal.dimension == "concurrency"
    settle(ledger, who, grant="a")
    settle(ledger, who, grant="a")
    assert take(ledger, who, grant="c").refusal is None
    assert take(ledger, who, grant="d").refusal.dimension == "concurrency"


class TestBudget:
    def test_is_spent_and_then_refuses(self):
        ledger, who = Ledger(), subject(budget_usd=1.0)
        take(ledger, who, cost=0.5)
        settle(ledger, who, cost=0.8)
        assert take(ledger, who, cost=0.5).refusal.dimension == "budget"
        assert take(ledger, who, cost=0.2).refusal is None

    def test_unseen_costs_are_reserved_tenfold(self):
        ledger, who = Ledger(), subject(budget_usd=1.0)
        take(ledger, who, grant="a", cost=0.04)
        take(ledger, who, grant="b", cost=0.04)
        assert take(ledger, who, grant="c", cost=0.04).refusal.dimension == "reserved"

    def test_a_request_of_unknown_cost_reserves_all_that_is_left_until_a_cost_was_seen(self):
        ledger, who = Ledger(), subject(budget_usd=1.0)
        assert take(ledger, who, grant="a", cost=None).views[0].held == 1.0
        assert take(ledger, who, grant="b", cost=None).refusal.dimension == "reserved"
        settle(ledger, who, grant="a", cost=0.1)
        assert take(ledger, who, grant="b", cost=None).views[0].held == pytest.approx(0.1)

    def test_what_was_learned_holds_for_requests_under_way(self):
        ledger, who = Ledger(), subject(budget_usd=1.0)
        for i in range(5):
            assert take(ledger, who, grant=str(i), cost=0.01).refusal is None
        settle(ledger, who, grant="0", cost=0.2)
        # Four under way may cost 0.2 each, as the fifth did.
        assert take(ledger, who, grant="next", cost=0.01).refusal.dimension == "reserved"

    def test_one_dear_request_does_not_lock_out_what_fits(self):
        ledger, who = Ledger(), subject(budget_usd=1.0)
        take(ledger, who, cost=0.01)
        settle(ledger, who, cost=0.6)
        assert take(ledger, who, grant="h", cost=0.01).refusal is None
        assert take(ledger, who, grant="i", cost=0.01).refusal.dimension == "reserved"

    def test_unknown_cost_is_charged_as_reserved(self):
        ledger, who = Ledger(), subject(budget_usd=1.0)
        take(ledger, who, cost=0.05)
        view = settle(ledger, who, cost=None).views[0]
        assert (view.spent, view.reserved) == (pytest.approx(0.5), 0.0)

    def test_free_models_pass_a_spent_budget(self):
        ledger, who = Ledger(), subject(budget_usd=0.1)
        take(ledger, who, cost=0.01)
        settle(ledger, who, cost=0.2)
        assert take(ledger, who, cost=0.0).refusal is None
        assert take(ledger, who, grant="h", cost=0.001).refusal.dimension == "budget"

    def test_a_budget_of_zero_lets_nothing_through_that_costs(self):
        assert take(Ledger(), subject(budget_usd=0), cost=None).refusal.dimension == "budget"

    def test_begins_anew_with_the_period_and_keeps_what_it_learned(self):
        ledger, who = Ledger(), subject(budget_usd=1.0, budget_period="day")
        take(ledger, who, cost=0.01)
        settle(ledger, who, cost=0.99)
        assert take(ledger, who, grant="h", cost=0.02).refusal.dimension == "budget"
        tomorrow = NOON + 86_400
        verdict = take(ledger, who, grant="h", cost=0.02, now=tomorrow)
        assert (verdict.refusal, verdict.views[0].spent) == (None, 0.0)
        assert verdict.views[0].held == pytest.approx(0.99)


def test_calendar_periods():
    sunday_night, monday = 1_700_438_399.0, 1_700_438_400.0  # 19 and 20 November 2023
    assert period_id("week", sunday_night) != period_id("week", monday)
    assert period_end("week", sunday_night) == monday
    assert period_end("day", sunday_night) == monday
    assert as_text(period_end("month", sunday_night)) == "2023-12-01T00:00:00Z"
    assert as_text(period_end("month", 1_703_000_000.0)) == "2024-01-01T00:00:00Z"
    assert period_end("total", monday) is None
    assert period_id("total", 0.0) == period_id("total", monday)


@given(st.sampled_from(["day", "week", "month"]), st.floats(0, 4e9))
def test_periods_meet_without_a_gap(kind, now):
    end = period_end(kind, now)
    assert now < end
    assert period_id(kind, math.nextafter(end, 0)) == period_id(kind, now) != period_id(kind, end)


arrivals = st.lists(st.tuples(st.floats(0, 5), st.integers(1, 40)), min_size=1, max_size=120)


@given(arrivals, st.integers(1, 30))
def test_no_window_sees_more_requests_than_documented(steps, rpm):
    ledger, who, now, passed = Ledger(), subject(rpm=rpm), NOON, []
    for i, (pause, _) in enumerate(steps):
        now += pause
        if take(ledger, who, grant=str(i), now=now).refusal is None:
            passed.append(now)
    for i, start in enumerate(passed):
        for j in range(i, len(passed)):
            assert j - i + 1 <= rpm * (1 + (passed[j] - start) / 60) + 1e-3


@given(arrivals, st.integers(40, 200), st.data())
def test_no_window_sees_more_tokens_than_documented(steps, tpm, data):
    """Requests use no more than they asked for; what they do not use may be used by others."""
    ledger, who, now, used = Ledger(), subject(tpm=tpm), NOON, []
    for i, (pause, tokens) in enumerate(steps):
        now += pause
        if take(ledger, who, grant=str(i), tokens=tokens, now=now).refusal is None:
            spent = data.draw(st.integers(0, tokens))
            settle(ledger, who, grant=str(i), taken=tokens, tokens=spent, now=now)
            used.append((now, spent))
    for i, (start, _) in enumerate(used):
        total = 0
        for moment, spent in used[i:]:
            total += spent
            assert total <= tpm * (1 + (moment - start) / 60) + 1e-3


costs = st.floats(0.001, 0.2)
events = st.lists(st.tuples(st.booleans(), costs, st.floats(0.1, 1.0), st.integers(0, 1000)), max_size=150)


@given(events)
def test_requests_that_cost_no_more_than_estimated_never_overspend(steps):
    """Whatever the order in which any number of requests begin and end."""
    ledger, who, under_way, spent = Ledger(), subject(budget_usd=1.0), {}, 0.0
    for i, (begin, estimate, share, which) in enumerate(steps):
        if begin or not under_way:
            if take(ledger, who, grant=str(i), cost=estimate).refusal is None:
                under_way[str(i)] = estimate * share
        else:
            grant = list(under_way)[which % len(under_way)]
            cost = under_way.pop(grant)
            spent += cost
            settle(ledger, who, grant=grant, cost=cost)
    assert spent + sum(under_way.values()) <= 1.0 + 1e-6


@given(events, st.one_of(st.none(), st.floats(0.1, 1.0)))
def test_equal_costs_overspend_by_one_request_at_most_although_estimates_are_too_low(steps, share):
    """An estimate of a tenth or more of the cost is made good by what unseen costs reserve; none at all as well."""
    cost = 0.07
    ledger, who, under_way, spent = Ledger(), subject(budget_usd=1.0), [], 0.0
    estimate = None if share is None else share * cost
    for i, (begin, _, _, which) in enumerate(steps):
        if begin or not under_way:
            if take(ledger, who, grant=str(i), cost=estimate).refusal is None:
                under_way.append(str(i))
        else:
            grant = under_way.pop(which % len(under_way))
            spent += cost
            settle(ledger, who, grant=grant, cost=cost)
    assert spent + cost * len(under_way) <= 1.0 + cost + 1e-6


@given(st.lists(st.tuples(costs, costs), min_size=1, max_size=60))
@settings(max_examples=50)
def test_overspend_is_what_requests_cost_beyond_their_reservations(pairs):
    ledger, who, spent, beyond = Ledger(), subject(budget_usd=1.0), 0.0, 0.0
    for i, (estimate, cost) in enumerate(pairs):
        verdict = take(ledger, who, grant=str(i), cost=estimate)
        if verdict.refusal is None:
            spent += cost
            beyond += max(cost - verdict.views[0].held, 0.0)
            if i % 2:
                settle(ledger, who, grant=str(i), cost=cost)
    assert spent <= 1.0 + beyond + 1e-6
