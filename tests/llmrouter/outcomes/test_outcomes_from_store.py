"""The gateway's own log as a training table."""

from __future__ import annotations

import numpy as np
import pytest
from outcome_samples import make_outcome

from llmrouter.exceptions import DataError
from llmrouter.outcomes import Feedback, MemoryOutcomeStore, assign_split, store_to_table
from llmrouter.types import Price

OUTCOMES = [
    make_outcome("a", model="m", propensity=0.25, prompt="one", task="t", cost_usd=0.5, input_tokens=3),
    make_outcome("b", model="n", propensity=0.75, prompt="two", quality=1.0, output_tokens=4),
    make_outcome("c", model="m", served_by="n", fallbacks=("m",), propensity=0.9, quality=0.5, prompt_sha256="f" * 64),
    make_outcome("d", model="m", status="error", prompt="four"),
    make_outcome("e", model="m", status="partial", prompt="one", quality=0.0, quality_weight=3.0),
]


def test_one_model_a_row_with_its_propensity() -> None:
    table = store_to_table(OUTCOMES, prices={"n": Price(1.0, 2.0)})
    nan = np.nan
    assert (table.prompt_ids, table.models, table.prices) == (("a", "b", "c", "e"), ("m", "n"), (None, Price(1.0, 2.0)))
    assert table.texts == ("one", "two", None, "one")
    assert table.tasks == ("t", None, None, None)
    np.testing.assert_array_equal(table.quality, [[nan, nan], [nan, 1.0], [nan, 0.5], [0.0, nan]])
    np.testing.assert_array_equal(table.propensity, [[0.25, nan], [nan, 0.75], [nan, nan], [1.0, nan]])
    assert table.weight is not None
    np.testing.assert_array_equal(table.weight, [[nan, nan], [nan, 1.0], [nan, 1.0], [3.0, nan]])
    assert (table.cost_usd[0, 0], table.input_tokens[0, 0], table.output_tokens[1, 1]) == (0.5, 3.0, 4.0)
    assert np.isnan(table.cost_usd[1:]).all()


def test_equal_texts_fall_on_the_same_side() -> None:
    outcomes = [make_outcome(f"r{i}", prompt=f"text {i % 50}") for i in range(200)]
    table = store_to_table(outcomes)
    assert table.splits == tuple(assign_split(f"text {i % 50}") for i in range(200))
    assert set(store_to_table(outcomes, test_share=0.0).splits) == {"train"}


def test_chosen_columns_and_time() -> None:
    table = store_to_table(OUTCOMES, models=["x", "n"])
    assert (table.prompt_ids, table.models) == (("b", "c"), ("x", "n"))
    late = [*OUTCOMES, make_outcome("z", time=200.0)]
    assert store_to_table(late, since=150.0).prompt_ids == ("z",)


def test_a_store_is_scanned_with_its_feedback() -> None:
    store = MemoryOutcomeStore()
    store.append(OUTCOMES)
    store.feedback(Feedback("a", 0.25, weight=2.0))
    table = store_to_table(store)
    assert table.quality[0, 0] == 0.25
    assert table.weight is not None
    assert table.weight[0, 0] == 2.0
    assert store_to_table(OUTCOMES[:2]).weight is None


def test_nothing_to_learn_from() -> None:
    with pytest.raises(DataError, match="log has no usable outcome since 0"):
        store_to_table([])
    with pytest.raises(DataError, match="no usable outcome"):
        store_to_table(OUTCOMES, models=["other"])
    with pytest.raises(DataError, match="prompt ids are not unique"):
        store_to_table([OUTCOMES[0], OUTCOMES[0]])
