"""The table in memory: what it refuses, and how rows and columns are picked."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from outcome_samples import make_table

from llmrouter.exceptions import DataError
from llmrouter.outcomes import OutcomeTable
from llmrouter.types import Price


def weighted() -> OutcomeTable:
    table = make_table(4)
    return dataclasses.replace(table, weight=np.arange(8.0).reshape(4, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"texts": ("a",)}, "texts has 1 entries for 3 prompts"),
        ({"splits": ("train",) * 4}, "splits has 4 entries for 3 prompts"),
        ({"prices": (None,)}, "prices has 1 entries for 2 models"),
        ({"quality": np.zeros((2, 3))}, r"quality must be \(3, 2\); got \(2, 3\)"),
        ({"propensity": np.zeros(3)}, r"propensity must be \(3, 2\); got \(3,\)"),
        ({"weight": np.zeros((3, 1))}, r"weight must be \(3, 2\) or None; got \(3, 1\)"),
        ({"prompt_ids": ("a", "b", "a")}, "prompt ids are not unique"),
        ({"models": ("m", "m")}, "model names are not unique"),
        ({"quality": np.full((3, 2), 1.7)}, r"quality must lie in \[0, 1\]; found \[1.7, 1.7\]"),
        ({"quality": np.full((3, 2), -np.inf)}, "infinite quality or cost"),
        ({"cost_usd": np.full((3, 2), np.inf)}, "infinite quality or cost"),
        ({"cost_usd": np.full((3, 2), -1e-9)}, "cost_usd has negative values"),
    ],
)
def test_what_a_table_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        dataclasses.replace(make_table(), **change)


@pytest.mark.parametrize("rows", [[2, 0], np.asarray([2, 0])])
def test_rows_by_index(rows: Any) -> None:
    table = weighted()
    picked = table.select(rows)
    assert picked.prompt_ids == ("p2", "p0")
    assert (picked.texts, picked.tasks, picked.splits) == (("prompt 2", None), (None, "t"), ("train", "test"))
    assert picked.weight is not None
    np.testing.assert_array_equal(picked.weight, [[4.0, 5.0], [0.0, 1.0]])
    for field in ("quality", "cost_usd", "input_tokens", "output_tokens", "propensity"):
        np.testing.assert_array_equal(getattr(picked, field), getattr(table, field)[[2, 0]])


def test_rows_by_mask_and_none_at_all() -> None:
    table = make_table(4)
    assert table.select(np.asarray([True, False, False, True])).prompt_ids == ("p0", "p3")
    assert len(table.select([])) == 0
    assert table.select([1]).weight is None


def test_models_in_the_order_asked_for() -> None:
    table = weighted()
    picked = table.select_models(["a", "b"])
    assert (picked.models, picked.prices) == (("a", "b"), (None, Price(1.0, 2.0, 0.5)))
    np.testing.assert_array_equal(picked.quality, table.quality[:, ::-1])
    assert picked.weight is not None
    np.testing.assert_array_equal(picked.weight[0], [1.0, 0.0])
    with pytest.raises(DataError, match=r"unknown model\(s\) x; the table has b, a"):
        table.select_models(["a", "x"])


def test_splits_and_what_was_observed() -> None:
    table = make_table(4)
    assert table.split("test").prompt_ids == ("p0",)
    assert len(table.split("train")) == 3
    assert table.observed.tolist() == [[True, False], *[[True, True]] * 3]
    with pytest.raises(DataError, match=r"demo has no rows in split 'dev'; it has \['test', 'train'\]"):
        table.split("dev")


def test_cards_carry_the_list_prices() -> None:
    assert [(card.name, card.price) for card in make_table().cards()] == [
        ("b", Price(1.0, 2.0, 0.5)),
        ("a", Price(0.0, 0.0)),
    ]
