from __future__ import annotations

import pytest
from cache_samples import body, make_cache, plan
from hypothesis import given, settings
from hypothesis import strategies as st

from service.cache.directives import NOTHING_ASKED, Directives, parse_directives
from service.cache.plan import digest, keepable

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def key(asked, *, scope="key:a", endpoint="chat", models=None):
    return digest(scope, endpoint, models, asked)


def shuffled(value, order):
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: (order.random(), name))
        return {name: shuffled(value[name], order) for name in names}
    return [shuffled(item, order) for item in value] if isinstance(value, list) else value


@given(st.dictionaries(st.text(max_size=4), JSON, max_size=4), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_the_order_of_keys_does_not_matter(extra, order):
    asked = body(**{f"x_{name}": value for name, value in extra.items()})
    assert key(asked) == key(shuffled(asked, order))


def test_the_order_of_messages_does():
    one, two = {"role": "user", "content": "a"}, {"role": "user", "content": "b"}
    assert key({"model": "auto", "messages": [one, two]}) != key({"model": "auto", "messages": [two, one]})


@pytest.mark.parametrize("name", ["response_format", "tools"])
def test_the_order_of_a_schemas_fields_does(name):
    fields = {"reason": {"type": "string"}, "answer": {"type": "string"}}
    other = dict(reversed(fields.items()))
    assert key(body(**{name: [{"function": fields}]})) != key(body(**{name: [{"function": other}]}))


@pytest.mark.parametrize(
    "more",
    [
        {"stream": True},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"user": "someone"},
        {"metadata": {"a": "b"}},
        {"store": False},
        {"prompt_cache_key": "x"},
        {"n": 1},
        {"temperature": None},
    ],
)
def test_what_does_not_change_the_answer_does_not_change_the_key(more):
    assert key(body(**more)) == key(body())


@pytest.mark.parametrize(
    "more",
    [
        {"temperature": 0.5},
        {"n": 2},
        {"seed": 1},
        {"max_tokens": 5},
        {"model": "other"},
        {"logprobs": True},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"llmrouter": {"wishes": (0.5, None, None, None)}},
        {"unknown_field": 1},
    ],
)
def test_what_may_change_the_answer_changes_the_key(more):
    assert key(body(**more)) != key(body())


def test_scope_endpoint_and_allowed_models_are_part_of_the_key():
    keys = {
        key(body()),
        key(body(), scope="key:b"),
        key(body(), scope="team:a"),
        key(body(), endpoint="messages"),
        key(body(), models=("m1",)),
    }
    assert len(keys) == 5


def test_a_body_without_json_has_no_key():
    assert key(body("\ud800")) is None


@pytest.mark.parametrize(
    "more",
    [
        {"store": True},
        {"web_search_options": {"search_context_size": "low"}},
        {"plugins": [{"id": "web"}]},
        {"modalities": ["text", "audio"]},
        {"audio": {"voice": "alloy"}},
        {"tools": [{"type": "web_search"}]},
    ],
)
def test_what_is_live_or_spoken_is_not_kept(more):
    assert not keepable(body(**more), only_deterministic=False)


def test_own_tools_are_kept():
    asked = body(tools=[{"type": "function", "function": {"name": "f"}}, {"type": "custom", "custom": {"name": "g"}}])
    assert keepable(asked, only_deterministic=False)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, False),
        ({"temperature": 1}, False),
        ({"temperature": 0}, True),
        ({"seed": 0}, True),
        ({"seed": None}, False),
    ],
)
def test_only_deterministic(more, expected):
    assert keepable(body(**more), only_deterministic=True) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no-cache", Directives(no_cache=True)),
        ("NO-STORE", Directives(no_store=True)),
        ("max-age=60", Directives(max_age_s=60.0)),
        ('max-age="60"', Directives(max_age_s=60.0)),
        ("max-age=60, max-age=5", Directives(max_age_s=5.0)),
        ("max-age=0", Directives(no_cache=True, max_age_s=0.0)),
        ("max-age=-1", Directives(no_cache=True, max_age_s=0.0)),
        ("max-age", Directives(no_cache=True, max_age_s=0.0)),
        ("max-age=" + "9" * 30, Directives(no_cache=True, max_age_s=0.0)),
        ("max-age=9999999999", Directives(max_age_s=2.0**31)),
        ("only-if-cached , max-stale=5", Directives(only_if_cached=True)),
        ('x="no-store, no-cache", no-transform', NOTHING_ASKED),
        (",,;=,", NOTHING_ASKED),
        ("", NOTHING_ASKED),
    ],
)
def test_cache_control(text, expected):
    assert parse_directives(text) == expected


@given(st.text(max_size=60))
@settings(max_examples=150, deadline=None)
def test_no_cache_control_breaks_the_parser(text):
    parse_directives(text)


@pytest.mark.parametrize(
    ("control", "may_read"), [("", True), ("no-cache", False), ("max-age=0", False), ("max-age=9", True)]
)
def test_who_may_be_given_a_kept_answer(control, may_read):
    made = plan(make_cache(), control=control)
    assert (made.may_read, made.may_store) == (may_read, True)


@pytest.mark.parametrize(("control", "asked"), [("no-store", body()), ("", body(store=True))])
def test_the_cache_has_no_part_in_it(control, asked):
    assert plan(make_cache(), asked, control=control) is None


@pytest.mark.parametrize(
    ("setting", "team", "expected"),
    [
        ("key", "t", "key:k1"),
        ("team", "t", "team:t"),
        ("team", None, "key:k1"),
        ("global", "t", "global"),
    ],
)
def test_scopes(setting, team, expected):
    assert plan(make_cache(scope=setting), team=team).scope == expected
