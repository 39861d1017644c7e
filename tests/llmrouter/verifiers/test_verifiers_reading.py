"""Verifiers that read: exact, numeric, regular expression, JSON schema."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrouter import registry
from llmrouter.exceptions import ConfigError, SignalError
from llmrouter.verifiers import Verifier, create_verifier, fenced_blocks

NUMERIC = {"kind": "numeric", "answer": 42}


def judge(spec: dict[str, Any], answer: str) -> float:
    return create_verifier(spec).verify(answer).quality


@pytest.mark.parametrize(
    ("spec", "answer", "quality"),
    [
        ({"answer": "Paris"}, " paris\n", 1),
        ({"answer": "Paris", "ignore_case": False}, "paris", 0),
        ({"answer": ["Paris", "Paname"]}, "PANAME", 1),
        ({"answer": "Paris"}, "It is Paris", 0),
        ({"answer": "Paris"}, "Paris.", 0),
        ({"answer": "Paris", "ignore_punctuation": True}, "Paris!", 1),
        ({"answer": "the  Beatles", "ignore_articles": True}, "Beatles", 1),
        ({"answer": "B", "part": "last_line"}, "Because of this,\nB\n\n", 1),
        ({"answer": "B", "part": "last_line"}, "   \n", 0),
        ({"answer": "x^{2}", "part": "boxed"}, r"so \boxed{1} no, \boxed{x^{2}}.", 1),
        ({"answer": "1", "part": "boxed"}, r"\boxed{1", 0),
        ({"answer": "\ufb01ne"}, "fine", 1),
        ({"answer": ""}, "", 1),
    ],
)
def test_exact(spec: dict[str, Any], answer: str, quality: float) -> None:
    assert judge({"kind": "exact", **spec}, answer) == quality


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("The answer is 42.", 42),
        ("1,234.5 apples", 1234.5),
        ("first 1 then -5", -5),
        ("10-5", 5),
        ("3/4", 0.75),
        (r"\boxed{\frac{3}{4}}, not 9", 0.75),
        (r"\boxed{-\frac{1}{2}}", -0.5),
        (r"\boxed{x} then 7", 7),
        ("75%", 75),
        ("1e-3", 0.001),
        ("#### 42", 42),
        ("\u22123", -3),
        (".5", 0.5),
        ("1/0 = 2", 2),
        ("1/0", None),
        ("none at all", None),
        ("", None),
    ],
)
def test_numeric_reads(answer: str, found: float | None) -> None:
    assert judge({"kind": "numeric", "answer": 42 if found is None else found}, answer) == (found is not None)
    assert judge({"kind": "numeric", "answer": 987654321}, answer) == 0


def test_numeric_tolerances_are_inclusive_and_the_larger_counts() -> None:
    assert judge({**NUMERIC, "absolute": 1}, "43") == 1
    assert judge({**NUMERIC, "absolute": 1}, "43.001") == 0
    assert judge({**NUMERIC, "relative": 0.5}, "63") == 1
    assert judge({**NUMERIC, "relative": 0}, "42.0000000001") == 0


@settings(deadline=None)
@given(st.floats(-1e12, 1e12), st.text(st.characters(categories=["Lu", "Ll", "Zs"]), max_size=20))
def test_numeric_finds_whatever_was_written(value: float, words: str) -> None:
    assert judge({"kind": "numeric", "answer": value, "absolute": 1e-9}, f"{words} {value!r}") == 1


@settings(deadline=None)
@given(st.text())
def test_no_text_is_too_odd(text: str) -> None:
    schema = {"kind": "json_schema", "schema": {"type": "integer"}}
    for spec in (NUMERIC, {"kind": "exact", "answer": "x"}, schema, {"kind": "regex", "pattern": "^$"}):
        assert judge(spec, text) in (0, 1)


@pytest.mark.parametrize(
    ("spec", "answer", "quality"),
    [
        ({"pattern": "b+"}, "abbc", 1),
        ({"pattern": "b+", "full": True}, "abbc", 0),
        ({"pattern": "b+", "full": True}, " bb\n", 1),
        ({"pattern": "B"}, "b", 0),
        ({"pattern": "B", "ignore_case": True}, "b", 1),
        ({"pattern": "sorry", "expect": False}, "here it is", 1),
        ({"pattern": "sorry", "expect": False}, "sorry, no", 0),
    ],
)
def test_regex(spec: dict[str, Any], answer: str, quality: float) -> None:
    assert judge({"kind": "regex", **spec}, answer) == quality


OBJECT = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("answer", "quality"),
    [
        ('{"a": 1}', 1),
        ('{"a": "1"}', 0),
        ("{}", 0),
        ("a: 1", 0),
        ("", 0),
        ('Here:\n```json\n{"a": 2}\n```\nDone.', 1),
        ('```\n{"a": 2}\n```', 1),
        ('```python\n{"a": 2}\n```', 0),
        ('{"a": NaN}', 0),
        ("[" * 100_000, 0),
    ],
)
def test_json_schema(answer: str, quality: float) -> None:
    assert judge({"kind": "json_schema", "schema": OBJECT}, answer) == quality


def test_json_outside_fences_only_where_that_is_asked() -> None:
    spec = {"kind": "json_schema", "schema": OBJECT, "fenced": False}
    assert judge(spec, '```json\n{"a": 2}\n```') == 0
    assert judge(spec, '{"a": 2}') == 1


def test_a_schema_fetches_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.3)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/schema.json"
        with pytest.raises(SignalError, match="cannot be used"):
            judge({"kind": "json_schema", "schema": {"$ref": url}}, "{}")
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_wrong_schema_is_no_judgement() -> None:
    with pytest.raises(SignalError, match="schema is wrong"):
        judge({"kind": "json_schema", "schema": {"type": "objekt"}}, "{}")


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"kind": "exact", "answer": 5}, "answer"),
        ({"kind": "exact", "answer": []}, "answer"),
        ({"kind": "exact", "answer": "a", "part": "all"}, "part"),
        ({"kind": "exact", "answer": "a", "ignore_case": 1}, "ignore_case"),
        ({"kind": "numeric", "answer": "42"}, "answer"),
        ({"kind": "numeric", "answer": True}, "answer"),
        ({"kind": "numeric", "answer": float("nan")}, "answer"),
        ({"kind": "numeric", "answer": 10**400}, "answer"),
        ({"kind": "numeric", "answer": 1, "absolute": -1}, "absolute"),
        ({"kind": "regex", "pattern": "("}, "pattern"),
        ({"kind": "regex", "pattern": ""}, "pattern"),
        ({"kind": "regex", "pattern": "a" * 2001}, "pattern"),
        ({"kind": "regex", "pattern": "(" * 1000 + ")" * 1000}, "pattern"),
        ({"kind": "json_schema", "schema": "x"}, "schema"),
        ({"kind": "json_schema", "schema": {"enum": ["x" * 70_000]}}, "schema"),
        ({"kind": 5}, "kind"),
        ({}, "kind"),
    ],
)
def test_wrong_parameters_are_named(spec: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        create_verifier(spec)
    assert caught.value.path == path


@pytest.mark.parametrize("spec", [{"kind": "magic"}, {"kind": "numeric"}, {"kind": "numeric", "answer": 1, "hue": 2}])
def test_what_is_unknown_or_missing_is_refused(spec: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        create_verifier(spec)


def test_all_kinds_keep_the_contract() -> None:
    made = {
        "exact": {"answer": "a"},
        "numeric": {"answer": 1},
        "regex": {"pattern": "a"},
        "json_schema": {"schema": {}},
        "unit_tests": {"tests": "assert True"},
    }
    assert set(registry.available("verifier")) == set(made)
    for kind, parameters in made.items():
        assert isinstance(create_verifier({"kind": kind, **parameters}), Verifier)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["", "python", "json"]), st.text("ab \n", max_size=20)), max_size=4))
def test_fenced_blocks_come_back_as_written(blocks: list[tuple[str, str]]) -> None:
    text = "".join(f"Text.\n```{language}\n{content}\n```\n" for language, content in blocks)
    assert fenced_blocks(text) == [(language, f"{content}\n") for language, content in blocks]


def test_an_open_fence_is_no_block() -> None:
    assert fenced_blocks("```python\nx = 1") == []
    assert json.dumps(fenced_blocks("a ``` b")) == "[]"
