"""The gateway's own log as a training table."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from outcome_samples import make_outcome

from llmrouter.exceptions import DataError
from llmrouter.outcomes import Feedback, MemoryOutcomeStore, assign_split, store_to_table
from llmrouter.types import Outcome, Price

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


class Doubling:
    """An encoder of texts to (length, twice the length)."""

    dimension = 2

    @staticmethod
    def encode(texts: Sequence[str]) -> np.ndarray:
        return np.array([[len(text), 2.0 * len(text)] for text in texts], dtype=np.float32)


def encoded(outcomes: list[Outcome]) -> list[list[float]]:
    X = store_to_table(outcomes).encoded(Doubling.dimension, Doubling.encode)
    assert X.shape == (len(outcomes), 2)
    return X.tolist()


def test_embeddings_stand_for_texts_that_were_not_kept() -> None:
    vector = make_outcome("v", embedding=(0.5, -1.0), quality=1.0)
    text = make_outcome("t", prompt="abc", quality=0.0)
    assert store_to_table([text]).embeddings is None
    table = store_to_table([vector, text])
    assert table.embeddings is not None
    np.testing.assert_array_equal(table.embeddings, [[0.5, -1.0], [np.nan, np.nan]])
    assert encoded([vector, text]) == [[0.5, -1.0], [3.0, 6.0]]
    assert encoded([text]) == [[3.0, 6.0]]
    assert encoded([vector]) == [[0.5, -1.0]]
    np.testing.assert_array_equal(table.select([1, 0]).embeddings, table.embeddings[::-1])


def test_embeddings_of_another_encoder_are_refused() -> None:
    with pytest.raises(DataError, match="embeddings of dimensions 2, 3: the encoder was changed"):
        store_to_table([make_outcome("a", embedding=(1.0, 2.0)), make_outcome("b", embedding=(1.0, 2.0, 3.0))])
    with pytest.raises(DataError, match="holds embeddings of dimension 3, the encoder makes 2"):
        encoded([make_outcome("b", embedding=(1.0, 2.0, 3.0))])
    with pytest.raises(DataError, match=r"1 prompts have neither text nor embedding \(first: h\)"):
        encoded([make_outcome("b", embedding=(1.0, 2.0)), make_outcome("h", prompt_sha256="f")])
    table = store_to_table([make_outcome("b", embedding=(1.0, 2.0))])
    with pytest.raises(DataError, match="embeddings must have a row for each of 1 prompts"):
        dataclasses.replace(table, embeddings=np.zeros((3, 2)))
