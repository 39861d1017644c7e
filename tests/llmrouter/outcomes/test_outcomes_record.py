"""Outcomes as lines of JSON."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from outcome_samples import make_outcome
from test_outcomes_stores import FULL

from llmrouter.exceptions import DataError
from llmrouter.outcomes import outcome_from_json, outcome_to_json
from llmrouter.types import Outcome


def test_every_field_comes_back() -> None:
    record = outcome_to_json(FULL)
    assert b"\n" not in record
    assert outcome_from_json(record) == FULL


def test_what_says_nothing_takes_no_room() -> None:
    assert outcome_to_json(make_outcome("r")) == b'{"request_id":"r","time":100.0,"model":"m"}'


def test_what_nobody_knows_stays_unknown() -> None:
    outcome = make_outcome("r", propensity=math.nan, candidates={"m": {"quality": math.nan, "cost_usd": 1.0}})
    found = outcome_from_json(outcome_to_json(outcome))
    assert math.isnan(found.propensity)
    assert math.isnan(found.candidates["m"]["quality"])
    assert found.candidates["m"]["cost_usd"] == 1.0


def test_embeddings_are_kept_in_single_precision() -> None:
    vector = np.linspace(-1, 1, 256)
    found = outcome_from_json(outcome_to_json(make_outcome("r", embedding=vector)))
    assert found.embedding == tuple(vector.astype(np.float32).tolist())
    assert len(outcome_to_json(found)) < 1500


def test_records_of_other_versions() -> None:
    listed = b'{"request_id":"r","time":1,"model":"m","embedding":[0.5,1.0],"fallbacks":null,"of_a_later_version":[1]}'
    assert outcome_from_json(listed) == Outcome("r", 1.0, "m", embedding=(0.5, 1.0))


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b"{}",
        b'{"request_id":"r","model":"m"}',
        b'{"request_id":7,"model":"m","time":1}',
        b'{"request_id":"r","model":"m","time":"now"}',
        b'{"request_id":"r","model":"m","time":1,"candidates":[1]}',
        b'{"request_id":"r","model":"m","time":1,"embedding":"?"}',
        b'{"request_id":"r","model":"m","time":1,"embedding":"AAA="}',
    ],
)
def test_what_is_no_record_is_refused(record: bytes) -> None:
    with pytest.raises(DataError, match="is no outcome"):
        outcome_from_json(record)


def test_a_count_beyond_64_bits_is_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"outcome.input_tokens .* of request 'r' does not fit"):
        outcome_to_json(make_outcome("r", input_tokens=2**70))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(), max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    st.text(st.characters(), min_size=1, max_size=8),
    st.none() | st.text(st.characters(), max_size=20),
    st.none() | st.dictionaries(st.text(st.characters(), max_size=4), JSON, max_size=4),
)
def test_whatever_an_upstream_says_is_kept_as_far_as_json_can(name: str, error: str | None, usage: Any) -> None:
    found = outcome_from_json(outcome_to_json(make_outcome(name, error=error, usage=usage, cost_usd=0.5)))
    assert found.request_id == name.encode("utf-8", "replace").decode()
    assert found.cost_usd == 0.5
    assert (found.error is None) == (error is None)
    assert (found.usage is None) == (usage is None)
