"""Routes in words: what is wrong with a list of them, and what of a conversation is looked at."""

import pytest

from llmrouter.exceptions import ConfigError
from llmrouter.routes import Route, check_routes, checked_routes, conversation_of, read_labelled, within
from llmrouter.types import estimate_tokens

POOL = ("small", "large")
GOOD = Route("code", "Writing and fixing programs", models=("large",))


def test_good_routes_are_taken_as_they_are():
    assert checked_routes([GOOD, Route("talk", "Small talk", policy={"kind": "utility"})], POOL)[0] is GOOD


@pytest.mark.parametrize(
    ("routes", "place", "said"),
    [
        ([], (), "is empty; write at least one route"),
        ([Route("", "x", models=POOL)], (0, "name"), "got ''"),
        ([Route("two words", "x", models=POOL)], (0, "name"), "got 'two words': write e.g. code_review"),
        ([Route("other", "x", models=POOL)], (0, "name"), "'other' is what is on none of the routes"),
        ([GOOD, Route("code", "y", models=POOL)], (1, "name"), "'code' is the name of routes[0] already"),
        ([Route("code", "  ", models=POOL)], (0, "description"), "got '  ': say in a sentence"),
        ([Route("code", "x")], (0, "models"), "name pool models in order of preference (small, large)"),
        ([Route("code", "x", models=("lrge",))], (0, "models", 0), "'lrge' is no model of the pool"),
        ([Route("code", "x", models=("lrge",))], (0, "models", 0), "did you mean 'large'?"),
        ([Route("code", "x", models=("large", "large"))], (0, "models", 1), "'large' is there twice"),
        ([Route("code", "x", only=True, policy={"kind": "utility"})], (0, "only"), "true needs models"),
        ([Route("code", "x", ("a", " "), models=POOL)], (0, "examples", 1), "is empty; got ' '"),
        (
            [Route("code", "x", ("fix  it",), models=POOL), Route("talk", "y", ("fix it",), models=POOL)],
            (1, "examples", 0),
            "is routes[0].examples[0] already, of another route",
        ),
    ],
)
def test_what_is_wrong_is_named_with_place_value_and_remedy(routes, place, said):
    problems = check_routes(routes, POOL)
    assert list(problems) == [place]
    assert said in problems[place]
    with pytest.raises(ConfigError, match="routes"):
        checked_routes(routes, POOL)


def test_more_routes_than_fit_into_a_prompt_are_refused():
    many = [Route(f"r{i}", "x", models=POOL) for i in range(101)]
    assert "at most 100" in check_routes(many, POOL)[()]


def chat(*said):
    return [{"role": role, "content": text} for role, text in said]


def test_a_conversation_ends_with_the_last_question_and_has_no_machine_output():
    messages = [
        *chat(("system", "Be brief"), ("user", "Find me a flight"), ("assistant", "Where to?"), ("user", "Rome")),
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "content": "a very long table"},
        *chat(("assistant", "I found one")),
    ]
    expected = (("user", "Find me a flight"), ("assistant", "Where to?"), ("user", "Rome"))
    assert conversation_of(messages) == expected
    assert conversation_of(messages[:4]) == expected, "every step of an agent's loop sees the same"
    assert conversation_of(chat(("system", "x"), ("assistant", "y"))) == ()
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": "x"}}]
    assert conversation_of([{"role": "user", "content": parts}]) == (("user", "What is this?"),)


def test_the_newest_that_fits_is_kept_whole_and_a_long_last_message_loses_its_middle():
    conversation = tuple(("user" if i % 2 == 0 else "assistant", f"{i} " * 40) for i in range(9))
    shown = within(conversation, 100)
    assert shown == conversation[-len(shown) :]
    assert 1 < len(shown) < 9
    assert sum(estimate_tokens(text) for _, text in shown) <= 100
    ((role, text),) = within((("user", "x"), ("user", "begin" + "m" * 5000 + "end")), 64)
    assert role == "user"
    assert text.startswith("begin")
    assert text.endswith("end")
    assert "cut" in text
    assert estimate_tokens(text) <= 64
    assert within((), 64) == ()


def test_labelled_utterances_are_read_and_bad_lines_are_named(tmp_path):
    file = tmp_path / "labels.jsonl"
    file.write_text('{"text": "Hi", "route": "talk"}\n\n{"text": "Fix it", "route": "code"}\n')
    assert read_labelled(file) == {"talk": ["Hi"], "code": ["Fix it"]}
    for line, said in [
        ("nonsense", "line 1 is no JSON"),
        ("[1]", "must be an object"),
        ('{"text": "Hi"}', "route must be a text that is not empty; got None"),
        ('{"text": " ", "route": "talk"}', "text must be a text that is not empty; got ' '"),
        ("", "holds no utterance"),
    ]:
        file.write_text(line)
        with pytest.raises(ConfigError, match="labels.jsonl") as caught:
            read_labelled(file)
        assert said in str(caught.value)
    with pytest.raises(ConfigError, match="cannot read"):
        read_labelled(tmp_path / "none.jsonl")
