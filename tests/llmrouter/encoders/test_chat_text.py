import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.encoders import chat_text
from llmrouter.exceptions import ConfigError, EncoderError


def message(role, content=None, **more):
    return {"role": role, "content": content, **more}


TALK = [
    message("system", "You are a tutor."),
    message("user", "first question"),
    message("assistant", "first answer"),
    message("user", "second question"),
    message("assistant", "second answer"),
    message("user", "third question"),
]


def test_last_user_turn_is_the_default():
    assert chat_text(TALK) == "third question"
    assert chat_text(TALK[:2]) == "first question"


def test_consecutive_user_messages_are_one_turn():
    messages = [*TALK[:3], message("user", "here is a table"), message("user", " sum it \n")]
    assert chat_text(messages) == "here is a table\n\nsum it"


def test_every_step_of_an_agents_loop_is_routed_by_its_question():
    loop = [
        *TALK,
        message("assistant", None, tool_calls=[{"id": "1", "function": {"name": "add", "arguments": '{"a": 1}'}}]),
        message("tool", "a very long result", tool_call_id="1"),
    ]
    assert chat_text(loop) == "third question"
    assert chat_text([*loop, message("assistant", "it says"), message("tool", "more")]) == "third question"
    assert chat_text([*loop, message("function", "legacy", name="f")]) == "third question"


def test_system_and_last_turns():
    assert chat_text(TALK, "system_and_last_turns") == "You are a tutor.\n\nthird question"
    assert chat_text(TALK, "system_and_last_turns", turns=2) == (
        "You are a tutor.\n\nsecond question\n\nsecond answer\n\nthird question"
    )
    whole = chat_text(TALK, "system_and_last_turns", turns=99)
    assert whole == "\n\n".join(each["content"] for each in TALK)
    tools = [*TALK, message("assistant", "let me see"), message("tool", "machine output")]
    assert chat_text(tools, "system_and_last_turns").endswith("third question\n\nlet me see")
    late = [*TALK, message("developer", "Be brief.")]
    assert chat_text(late, "system_and_last_turns") == "You are a tutor.\n\nBe brief.\n\nthird question"


def test_an_assistant_that_speaks_first_answers_nobody():
    messages = [message("assistant", "Hi, how can I help?"), message("user", "add 1 and 2")]
    assert chat_text(messages, "system_and_last_turns", turns=5) == "add 1 and 2"


def test_parts():
    content = [
        {"type": "text", "text": "What is on"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "text", "text": "this picture?"},
        {"type": "something_new", "text": 3},
    ]
    assert chat_text([message("user", content)]) == "What is on\nthis picture?"


def test_a_picture_alone_leaves_the_turn_before():
    picture = [{"type": "image_url", "image_url": {"url": "x"}}]
    assert chat_text([message("user", "describe what follows"), message("user", picture)]) == "describe what follows"
    assert chat_text([*TALK, message("assistant", "ok"), message("user", picture)]) == "third question"


@pytest.mark.parametrize("mode", ["last_user_turn", "system_and_last_turns"])
def test_without_user_text(mode):
    assert chat_text([], mode) == ""
    assert chat_text([message("user", None), message("user", []), message("user", "  ")], mode) == ""
    assert chat_text([message("system", "Write a poem."), message("user", "")], mode) == "Write a poem."
    assert (
        chat_text([message("system", "Go on."), message("assistant", "Once upon a time")], mode) == "Once upon a time"
    )
    assert chat_text([message("system", "Sum up."), message("tool", "42 rows")], mode) == "42 rows"


@pytest.mark.parametrize(
    ("messages", "where"),
    [
        (["hi"], r"messages\[0\] must be an object"),
        ([{"content": "hi"}], r"messages\[0\].role"),
        ([message(3, "hi")], r"messages\[0\].role"),
        ([*TALK, message("user", 3)], r"messages\[6\].content must be .* not int"),
        ([message("user", {"type": "text"})], r"messages\[0\].content"),
        ([message("user", b"hi")], r"messages\[0\].content"),
        ([message("user", ["hi"])], r"messages\[0\].content\[0\] must be an object"),
        ([message("user", [{"type": "text", "text": None}])], r"messages\[0\].content\[0\].text"),
    ],
)
def test_bad_messages_are_named(messages, where):
    with pytest.raises(EncoderError, match=where):
        chat_text(messages)


def test_bad_options():
    with pytest.raises(ConfigError, match="'last_turn'; one of last_user_turn, system_and_last_turns"):
        chat_text(TALK, "last_turn")
    for turns in (0, -1, 1.0, True, None):
        with pytest.raises(ConfigError, match="turns must be an integer >= 1"):
            chat_text(TALK, "system_and_last_turns", turns=turns)


roles = st.sampled_from(["system", "developer", "user", "assistant", "tool"])
chats = st.lists(st.builds(message, roles, st.one_of(st.none(), st.text(max_size=8))), max_size=10)


@given(chats, st.integers(1, 4))
def test_any_chat_gives_text_if_it_has_any(messages, turns):
    spoken = [each for each in messages if (each["content"] or "").strip()]
    for mode in ("last_user_turn", "system_and_last_turns"):
        text = chat_text(messages, mode, turns=turns)
        assert bool(text) == bool(spoken)
        assert text == text.strip()
    asked = [each["content"].strip() for each in spoken if each["role"] == "user"]
    if asked:
        assert chat_text(messages).endswith(asked[-1])
