"""What counts where several judged one answer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrouter.exceptions import DataError
from llmrouter.outcomes import Feedback, MemoryOutcomeStore, join_feedback
from llmrouter.types import Outcome

OUTCOME = Outcome("r", 1.0, "m", overhead_cost_usd=0.5)
RETRY = Feedback("r", 0.0, "implicit:retry", 0.2, 3.0)
TRUNCATED = Feedback("r", 0.3, "implicit:truncated", 0.2, 2.0)
VERIFIED = Feedback("r", 1.0, "verifier:numeric", 1.0, 1.0)
JUDGED = Feedback("r", 0.4, "judge:big", 0.5, 1.0, cost_usd=0.01)
USER = Feedback("r", 0.0, "user", 1.0, 1.0, by="key-1")

_ANY = st.lists(st.sampled_from([RETRY, TRUNCATED, VERIFIED, JUDGED, USER]), unique=True, min_size=1)


def test_guesses_count_while_nobody_judged() -> None:
    joined = join_feedback(OUTCOME, [RETRY, TRUNCATED])
    assert joined.quality == pytest.approx(0.15)
    assert joined.quality_weight == pytest.approx(0.4)
    assert joined.quality_source == "implicit:retry, implicit:truncated"


@pytest.mark.parametrize("judgement", [VERIFIED, JUDGED, USER])
def test_any_judgement_outweighs_all_guesses(judgement: Feedback) -> None:
    joined = join_feedback(OUTCOME, [RETRY, judgement, TRUNCATED])
    assert (joined.quality, joined.quality_weight) == (judgement.quality, judgement.weight)
    assert (joined.quality_source, joined.quality_by) == (judgement.source, (judgement.by,))
    assert joined.quality_time == 1.0


def test_a_stored_quality_outweighs_guesses() -> None:
    outcome = Outcome("r", 1.0, "m", quality=0.9, quality_source="benchmark")
    assert join_feedback(outcome, [RETRY]).quality == 0.9


def test_judgements_are_averaged_by_weight() -> None:
    joined = join_feedback(OUTCOME, [VERIFIED, JUDGED, USER])
    assert joined.quality == pytest.approx((1.0 + 0.5 * 0.4 + 0.0) / 2.5)
    assert joined.quality_by == ("", "key-1")


@settings(deadline=None)
@given(_ANY, st.randoms())
def test_the_order_of_judgements_means_nothing(judgements: list[Feedback], random: object) -> None:
    shuffled = list(judgements)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert join_feedback(OUTCOME, judgements) == join_feedback(OUTCOME, shuffled)


def test_what_judging_cost_is_added_once() -> None:
    store = MemoryOutcomeStore()
    store.append([OUTCOME])
    for _ in range(3):
        store.feedback(JUDGED)
    found = store.get("r")
    assert found is not None
    assert found.overhead_cost_usd == pytest.approx(0.51)
    assert join_feedback(OUTCOME, [USER]).overhead_cost_usd == 0.5


@pytest.mark.parametrize("cost", [-1.0, float("nan"), float("inf")])
def test_a_wrong_cost_is_refused(cost: float) -> None:
    with pytest.raises(DataError, match="cost_usd"):
        MemoryOutcomeStore().feedback(Feedback("r", 1.0, cost_usd=cost))
