"""Cost axes, and what is left of a table with holes."""

import numpy as np
import pytest

from llmrouter.evaluation import workable_axes
from llmrouter.evaluation._costs import column_means, make_evaluable
from llmrouter.exceptions import ConfigError, DataError
from llmrouter.types import Price

NAN = np.nan


def test_workable_axes(table_of):
    quality = np.ones((4, 2))
    assert workable_axes(table_of(quality)) == ("calls",)
    assert workable_axes(table_of(quality, [1.0, 2.0])) == ("usd", "calls")
    assert workable_axes(table_of(quality, prices=[Price(1, 1), Price(2, 2)])) == ("list_price", "calls")
    assert workable_axes(table_of(quality, [1.0, NAN])) == ("calls",)
    assert workable_axes(table_of(np.full((4, 2), NAN))) == ()


def test_a_missing_axis_names_those_that_work(table_of):
    table = table_of(np.ones((4, 2)), prices=[Price(1, 1), Price(2, 2)])
    with pytest.raises(DataError, match=r"made-up has no data for the cost axis 'usd'; use list_price or calls"):
        make_evaluable(table, "usd")
    with pytest.raises(DataError, match="no outcomes at all"):
        make_evaluable(table_of(np.full((4, 2), NAN)), "usd")
    with pytest.raises(ConfigError, match="unknown cost axis 'euro'; one of usd, list_price, calls"):
        make_evaluable(table, "euro")


def test_list_price_is_the_mean_of_input_and_output_price(table_of):
    data = make_evaluable(table_of(np.ones((4, 2)), prices=[Price(1, 3), Price(10, 30)]), "list_price")
    assert data.test_cost.tolist() == [[2, 20], [2, 20]]
    assert data.constant_cost


def test_calls_count_the_dearest_by_cost_then_by_price_then_the_best(table_of):
    quality = np.tile([0.9, 0.5], (4, 1))
    assert make_evaluable(table_of(quality, [1.0, 2.0]), "calls").strongest == "org/model-1"
    priced = table_of(quality, prices=[Price(1, 1), Price(2, 2)])
    assert make_evaluable(priced, "calls").strongest == "org/model-1"
    data = make_evaluable(table_of(quality), "calls")
    assert data.strongest == "org/model-0"
    assert data.test_cost.tolist() == [[1, 0], [1, 0]]


@pytest.mark.parametrize("present", ["train", "test"])
def test_both_splits_are_needed(table_of, present):
    with pytest.raises(DataError, match="no rows in split"):
        make_evaluable(table_of(np.ones((4, 2)), [1.0, 2.0], splits=[present] * 4), "usd")


def test_models_seen_too_rarely_are_left_out_then_rows_with_holes(table_of):
    quality = np.ones((40, 3))
    quality[0, 0] = NAN  # one test row of 20
    quality[10:40, 2] = NAN  # most rows
    data = make_evaluable(table_of(quality, [1.0, 2.0, 3.0]), "usd")
    assert data.left_out_models == ("org/model-2",)
    assert data.left_out_rows == 1
    assert len(data.test) == 19
    assert data.test_rows.tolist() == list(range(2, 40, 2))
    assert len(data.train) == 20  # training keeps its holes


def test_a_model_without_cost_counts_as_not_observed(table_of):
    data = make_evaluable(table_of(np.ones((4, 3)), [1.0, 2.0, NAN]), "usd")
    assert data.test.models == ("org/model-0", "org/model-1")


def test_a_log_of_one_model_a_prompt_cannot_be_replayed(table_of):
    quality = np.full((8, 2), NAN)
    quality[np.arange(8), np.arange(8) // 4] = 1.0
    with pytest.raises(DataError, match="cannot be replayed"):
        make_evaluable(table_of(quality, [1.0, 2.0]), "usd")
    with pytest.raises(DataError, match="no test prompt has an outcome of every model"):
        make_evaluable(table_of(quality, [1.0, 2.0]), "usd", min_coverage=0.3)


def test_column_means_of_nothing_are_nan():
    assert column_means(np.array([[1.0, NAN], [3.0, NAN]])).tolist() == pytest.approx([2.0, NAN], nan_ok=True)
