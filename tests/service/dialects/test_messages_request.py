"""Messages requests become chat completions."""

from __future__ import annotations

import copy
import json

import pytest

from service.dialects import MessagesDialect, count_tokens, without_cache_control
from service.errors import APIError

CACHE = {"type": "ephemeral"}
TOOL = {"name": "weather", "description": "Tells it.", "input_schema": {"type": "object", "properties": {}}}


def to_chat(messages="Hi", **body):
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    asked = {"model": "auto", "max_tokens": 100, "messages": messages, **body}
    before = copy.deepcopy(asked)
    chat = MessagesDialect().to_chat(asked)
    assert asked == before
    return chat


def refused(messages="Hi", **body):
    with pytest.raises(APIError) as caught:
        to_chat(messages, **body)
    assert caught.value.status == 400
    return caught.value.body["error"]


def test_the_least_request():
    assert to_chat() == {
        "model": "auto",
        "max_completion_tokens": 100,
        "messages": [{"role": "user", "content": "Hi"}],
    }


def test_system_text_and_blocks():
    assert to_chat(system="Be brief.")["messages"][0] == {"role": "system", "content": "Be brief."}
    blocks = [{"type": "text", "text": "a"}, {"type": "text", "text": "b", "cache_control": CACHE}]
    assert to_chat(system=blocks)["messages"][0] == {"role": "system", "content": blocks}
    assert to_chat(system=[])["messages"][0]["role"] == "user"


def test_system_messages_stay_where_they_are():
    messages = [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]
    assert to_chat(messages)["messages"] == messages


def test_failed_tool_without_words():
    result = {"type": "tool_result", "tool_use_id": "t1", "is_error": True}
    assert to_chat([{"role": "user", "content": [result]}])["messages"] == [
        {"role": "tool", "tool_call_id": "t1", "content": "Error: the tool failed."}
    ]


def test_lone_text_block_is_a_string_and_marks_keep_it_a_part():
    assert to_chat([{"role": "user", "content": [{"type": "text", "text": "a"}]}])["messages"][0]["content"] == "a"
    marked = [{"type": "text", "text": "a", "cache_control": CACHE}]
    assert to_chat([{"role": "user", "content": marked}])["messages"][0]["content"] == marked


@pytest.mark.parametrize(
    ("source", "url"),
    [
        ({"type": "base64", "media_type": "image/png", "data": "QUJD"}, "data:image/png;base64,QUJD"),
        ({"type": "url", "url": "https://example.org/a.png"}, "https://example.org/a.png"),
    ],
)
def test_images(source, url):
    content = [{"type": "image", "source": source, "cache_control": CACHE}, {"type": "text", "text": "What?"}]
    assert to_chat([{"role": "user", "content": content}])["messages"][0]["content"] == [
        {"type": "image_url", "image_url": {"url": url}, "cache_control": CACHE},
        {"type": "text", "text": "What?"},
    ]


def test_documents():
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "QUJD"}
    content = [
        {"type": "document", "source": pdf, "title": "a.pdf"},
        {"type": "document", "source": pdf},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "words"}, "context": "C"},
        {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "inner"}]}},
    ]
    file = {"filename": "a.pdf", "file_data": "data:application/pdf;base64,QUJD"}
    assert to_chat([{"role": "user", "content": content}])["messages"][0]["content"] == [
        {"type": "text", "text": "a.pdf"},
        {"type": "file", "file": file},
        {"type": "file", "file": {**file, "filename": "document.pdf"}},
        {"type": "text", "text": "C\n\nwords"},
        {"type": "text", "text": "inner"},
    ]


def test_search_results_become_text():
    block = {"type": "search_result", "title": "T", "source": "S", "content": [{"type": "text", "text": "found"}]}
    assert to_chat([{"role": "user", "content": [block]}])["messages"][0]["content"] == "T\n\nS\n\nfound"


def test_a_loop_of_tools():
    messages = [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "Looking."},
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Köln"}},
                {"type": "tool_use", "id": "t2", "name": "weather", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "12 °C"},
                {"type": "tool_result", "tool_use_id": "t2", "content": [{"type": "text", "text": "down"}]}
                | {"is_error": True},
                {"type": "text", "text": "Go on."},
            ],
        },
    ]
    chat = to_chat(messages)["messages"]
    assert chat[1]["content"] == "Looking."
    assert [(call["id"], call["type"], call["function"]["name"]) for call in chat[1]["tool_calls"]] == [
        ("t1", "function", "weather"),
        ("t2", "function", "weather"),
    ]
    assert [json.loads(call["function"]["arguments"]) for call in chat[1]["tool_calls"]] == [{"city": "Köln"}, {}]
    assert chat[2:] == [
        {"role": "tool", "tool_call_id": "t1", "content": "12 °C"},
        {"role": "tool", "tool_call_id": "t2", "content": "Error: down"},
        {"role": "user", "content": "Go on."},
    ]


def test_call_without_text_has_no_content():
    call = {"type": "tool_use", "id": "t1", "name": "weather", "input": {}}
    messages = [{"role": "assistant", "content": [call]}]
    assert to_chat(messages)["messages"][0]["content"] is None


def test_images_of_results_follow_all_tool_messages():
    image = {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}
    content = [
        {"type": "tool_result", "tool_use_id": "t1", "content": [image]},
        {"type": "tool_result", "tool_use_id": "t2"},
    ]
    chat = to_chat([{"role": "user", "content": content}, {"role": "assistant", "content": "ok"}])["messages"]
    assert [message["role"] for message in chat] == ["tool", "tool", "user", "assistant"]
    assert chat[0]["content"] == "See the next message for what was returned."
    assert chat[1]["content"] == ""
    assert chat[2]["content"] == [
        {"type": "text", "text": "Returned by tool call t1:"},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
    ]


def test_marks_of_results_stay_on_their_text():
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "a", "cache_control": CACHE}
    chat = to_chat([{"role": "user", "content": [result]}])
    assert chat["messages"][0]["content"] == [{"type": "text", "text": "a", "cache_control": CACHE}]
    assert without_cache_control(chat)["messages"][0]["content"] == "a"


def test_tools():
    chat = to_chat(tools=[TOOL, {**TOOL, "type": "custom", "strict": True, "cache_control": CACHE}])
    function = {"name": "weather", "description": "Tells it.", "parameters": TOOL["input_schema"]}
    assert chat["tools"] == [
        {"type": "function", "function": function},
        {"type": "function", "function": {**function, "strict": True}, "cache_control": CACHE},
    ]
    assert "cache_control" not in without_cache_control(chat)["tools"][1]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "weather"}, {"type": "function", "function": {"name": "weather"}}),
    ],
)
def test_tool_choice(choice, expected):
    chat = to_chat(tools=[TOOL], tool_choice={**choice, "disable_parallel_tool_use": True})
    assert chat["tool_choice"] == expected
    assert chat["parallel_tool_calls"] is False


def test_choice_among_no_tools_is_left_out():
    chat = to_chat(tool_choice={"type": "auto", "disable_parallel_tool_use": True})
    assert not chat.keys() & {"tool_choice", "parallel_tool_calls", "tools"}


def test_settings():
    chat = to_chat(
        stop_sequences=["END"],
        temperature=0.5,
        top_p=0.9,
        top_k=4,
        stream=True,
        metadata={"user_id": "u1"},
        service_tier="standard_only",
        llmrouter={"cost_weight": 0.1},
        seed=3,
        context_management={"edits": []},
    )
    expected = {"stop": ["END"], "temperature": 0.5, "top_p": 0.9, "top_k": 4, "stream": True, "user": "u1", "seed": 3}
    expected |= {"service_tier": "default", "llmrouter": {"cost_weight": 0.1}}
    assert {key: chat[key] for key in expected} == expected
    assert not chat.keys() & {"metadata", "context_management", "stop_sequences", "max_tokens"}


def test_long_user_ids_are_hashed_to_what_openai_takes():
    users = [to_chat(metadata={"user_id": letter * 100})["user"] for letter in "aab"]
    assert [len(user) for user in users] == [64, 64, 64]
    assert users[0] == users[1] != users[2]


@pytest.mark.parametrize(
    ("settings", "effort"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "low"),
        ({"thinking": {"type": "enabled", "budget_tokens": 4096}}, "medium"),
        ({"thinking": {"type": "enabled", "budget_tokens": 32_000}}, "high"),
        ({"thinking": {"type": "adaptive"}}, None),
        ({"thinking": {"type": "disabled"}}, None),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "xhigh"}}, "xhigh"),
    ],
)
def test_thinking(settings, effort):
    chat = to_chat(**settings)
    assert chat.get("reasoning_effort") == effort
    assert not chat.keys() & {"thinking", "output_config"}


@pytest.mark.parametrize(
    "wrap", [lambda form: {"output_config": {"format": form}}, lambda form: {"output_format": form}]
)
def test_output_format(wrap):
    schema = {"type": "object", "properties": {}}
    assert to_chat(**wrap({"type": "json_schema", "schema": schema}))["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "output", "schema": schema, "strict": True},
    }


def test_max_tokens_is_required():
    error = refused(max_tokens=None)
    assert error["param"] == "max_tokens"
    assert error["code"] == "missing_required_parameter"
    assert error["message"] == "Missing required parameter: 'max_tokens'."


def _user(*blocks):
    return [{"role": "user", "content": list(blocks)}]


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
        ({"max_tokens": "1"}, "max_tokens", "invalid_type"),
        ({"messages": []}, "messages", "empty_array"),
        ({"messages": None}, "messages", "missing_required_parameter"),
        ({"messages": [1]}, "messages[0]", "invalid_type"),
        ({"messages": [{"content": "a"}]}, "messages[0].role", "missing_required_parameter"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content", "invalid_type"),
        ({"messages": _user({"type": "audio"})}, "messages[0].content[0].type", "unsupported_value"),
        ({"messages": _user({"type": "text"})}, "messages[0].content[0].text", "missing_required_parameter"),
        ({"messages": _user({"text": "a"})}, "messages[0].content[0].type", "missing_required_parameter"),
        (
            {"messages": _user({"type": "image", "source": {"type": "file", "file_id": "f"}})},
            "messages[0].content[0].source.type",
            "invalid_value",
        ),
        (
            {"messages": _user({"type": "document", "source": {"type": "url", "url": "u"}})},
            "messages[0].content[0].source.type",
            "unsupported_value",
        ),
        (
            {"messages": _user({"type": "tool_result", "content": "a"})},
            "messages[0].content[0].tool_use_id",
            "missing_required_parameter",
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "server_tool_use"}]}]},
            "messages[0].content[0].type",
            "unsupported_value",
        ),
        ({"system": [{"type": "image"}]}, "system[0].type", "invalid_value"),
        ({"tools": [{"type": "web_search_20250305", "name": "w"}]}, "tools[0].type", "unsupported_value"),
        ({"tools": [{"name": "w"}]}, "tools[0].input_schema", "missing_required_parameter"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type", "invalid_value"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name", "missing_required_parameter"),
        ({"stop_sequences": [1]}, "stop_sequences[0]", "invalid_type"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens", "missing_required_parameter"),
        ({"thinking": {"type": "maybe"}}, "thinking.type", "invalid_value"),
        ({"mcp_servers": [{}]}, "mcp_servers", "unsupported_parameter"),
        ({"container": "c"}, "container", "unsupported_parameter"),
        ({"n": 2}, "n", "unsupported_parameter"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type", "invalid_value"),
    ],
)
def test_errors_name_the_clients_own_field(body, param, code):
    error = refused(**body)
    assert (error["param"], error["code"]) == (param, code)
    assert error["type"] == "invalid_request_error"


def test_error_names_the_tool_that_cannot_be_offered():
    message = refused(tools=[{"type": "web_search_20250305", "name": "w"}])["message"]
    assert "web_search_20250305" in message
    assert "input_schema" in message


def test_input_nested_too_deeply_is_an_error_of_the_request():
    deep = {}
    for _ in range(400):
        deep = {"a": deep}
    call = {"type": "tool_use", "id": "t1", "name": "weather", "input": deep}
    assert refused([{"role": "assistant", "content": [call]}])["param"] == "messages[0].content[0].input"


def test_count_tokens():
    body = {"model": "auto", "messages": [{"role": "user", "content": "a" * 400}]}
    assert count_tokens(body) == {"input_tokens": 100}
    image = {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}
    more = {**body, "system": "b" * 40, "tools": [TOOL], "messages": [*body["messages"], *_user(image)]}
    assert count_tokens(more)["input_tokens"] > 100 + 10 + 1_000
    with pytest.raises(APIError):
        count_tokens({"model": "auto"})
