"""Requests for embeddings are checked, and their size is told."""

from __future__ import annotations

import pytest

from service.dialects import parse_embeddings
from service.errors import APIError


@pytest.mark.parametrize(
    ("given", "texts", "inputs", "tokens"),
    [
        ("a" * 8, ("a" * 8,), 1, 2),
        (["a" * 8, "b"], ("a" * 8, "b"), 2, 3),
        ([1, 2, 3], (), 1, 3),
        ([[1, 2, 3], [4]], (), 2, 4),
    ],
)
def test_inputs(given, texts, inputs, tokens):
    asked = parse_embeddings({"model": "m", "input": given, "dimensions": 8, "encoding_format": "base64", "user": "u"})
    assert (asked.model, asked.texts, asked.inputs, asked.prompt_tokens) == ("m", texts, inputs, tokens)


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"model": None}, "model", "missing_required_parameter"),
        ({"model": 1}, "model", "invalid_type"),
        ({"input": None}, "input", "missing_required_parameter"),
        ({"input": 1}, "input", "invalid_type"),
        ({"input": []}, "input", "empty_array"),
        ({"input": [None]}, "input", "invalid_type"),
        ({"input": [True]}, "input", "invalid_type"),
        ({"input": ["a", 1]}, "input[1]", "invalid_type"),
        ({"input": [1, "a"]}, "input[1]", "invalid_type"),
        ({"input": [[1], "a"]}, "input[1]", "invalid_type"),
        ({"input": [[1, 0.5]]}, "input[0][1]", "invalid_type"),
        ({"dimensions": 0}, "dimensions", "integer_below_min_value"),
        ({"encoding_format": 1}, "encoding_format", "invalid_type"),
        ({"user": 1}, "user", "invalid_type"),
    ],
)
def test_errors_name_the_field(body, param, code):
    with pytest.raises(APIError) as caught:
        parse_embeddings({"model": "m", "input": "a", **body})
    error = caught.value.body["error"]
    assert (error["param"], error["code"]) == (param, code)
