"""Requests for responses become chat completions."""

from __future__ import annotations

import copy

import pytest

from service.dialects import ResponsesDialect
from service.errors import APIError

TOOL = {"type": "function", "name": "weather", "description": "Tells it.", "parameters": {"type": "object"}}


def to_chat(given="Hi", **body):
    asked = {"model": "auto", "input": given, **body}
    before = copy.deepcopy(asked)
    chat = ResponsesDialect().to_chat(asked)
    assert asked == before
    return chat


def messages_of(*items, **body):
    return to_chat(list(items), **body)["messages"]


def refused(given="Hi", **body):
    with pytest.raises(APIError) as caught:
        to_chat(given, **body)
    assert caught.value.status == 400
    return caught.value.body["error"]


def test_the_least_request():
    assert to_chat() == {"model": "auto", "messages": [{"role": "user", "content": "Hi"}]}


def test_instructions_lead():
    assert to_chat(instructions="Be brief.")["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
    ]


def test_messages_with_and_without_a_type():
    assert messages_of(
        {"role": "developer", "content": "d"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "u"}]},
        {"type": "message", "role": "assistant", "id": "msg_1", "content": [{"type": "output_text", "text": "a"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    ) == [
        {"role": "system", "content": "d"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a"},
        {"role": "assistant", "content": "no"},
    ]


def test_parts():
    audio = {"data": "QUJD", "format": "wav"}
    content = [
        {"type": "input_text", "text": "Look"},
        {"type": "input_image", "image_url": "https://example.org/a.png", "detail": "low"},
        {"type": "input_audio", "input_audio": audio},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,QUJD"},
        {"type": "input_file", "file_id": "file-1"},
    ]
    assert messages_of({"role": "user", "content": content})[0]["content"] == [
        {"type": "text", "text": "Look"},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "low"}},
        {"type": "input_audio", "input_audio": audio},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,QUJD", "filename": "a.pdf"}},
        {"type": "file", "file": {"file_id": "file-1"}},
    ]


def test_a_loop_of_tools():
    def call(number):
        return {"type": "function_call", "id": "fc", "call_id": f"c{number}", "name": "weather", "arguments": "{}"}

    image = {"type": "input_image", "image_url": "https://example.org/a.png"}
    said = messages_of(
        {"role": "user", "content": "Weather?"},
        {"type": "reasoning", "id": "rs", "summary": []},
        {"role": "assistant", "content": "Looking."},
        call(1),
        call(2),
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "12"}, image]},
        {"type": "function_call_output", "call_id": "c2", "output": "13"},
        call(3),
        {"type": "function_call_output", "call_id": "c3", "output": "14"},
    )
    assert [message["role"] for message in said] == [
        *("user", "assistant", "tool", "tool", "user", "assistant", "tool"),
    ]
    assert said[1]["content"] == "Looking."
    assert [one["id"] for one in said[1]["tool_calls"]] == ["c1", "c2"]
    assert said[1]["tool_calls"][0] == {
        "id": "c1",
        "type": "function",
        "function": {"name": "weather", "arguments": "{}"},
    }
    assert said[2] == {"role": "tool", "tool_call_id": "c1", "content": "12"}
    assert said[3] == {"role": "tool", "tool_call_id": "c2", "content": "13"}
    assert said[4]["content"][1] == {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    assert said[5]["content"] is None


def test_tools_become_nested():
    chat = to_chat(tools=[{**TOOL, "strict": True}], parallel_tool_calls=False, tool_choice="required")
    function = {"name": "weather", "description": "Tells it.", "parameters": {"type": "object"}, "strict": True}
    assert chat["tools"] == [{"type": "function", "function": function}]
    assert chat["parallel_tool_calls"] is False
    assert chat["tool_choice"] == "required"


def test_tool_choices():
    named = {"type": "function", "function": {"name": "weather"}}
    assert to_chat(tools=[TOOL], tool_choice={"type": "function", "name": "weather"})["tool_choice"] == named
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "weather"}]}
    assert to_chat(tools=[TOOL], tool_choice=allowed)["tool_choice"] == {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "auto", "tools": [named]},
    }
    assert not to_chat(tools=[], tool_choice="auto", parallel_tool_calls=True).keys() & {
        *("tools", "tool_choice", "parallel_tool_calls")
    }


def test_formats_of_text():
    schema = {"type": "object"}
    form = {"type": "json_schema", "name": "answer", "schema": schema, "strict": True, "description": None}
    chat = to_chat(text={"format": form, "verbosity": "low"})
    assert chat["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema, "strict": True},
    }
    assert chat["verbosity"] == "low"
    assert to_chat(text={"format": {"type": "json_object"}})["response_format"] == {"type": "json_object"}
    assert "response_format" not in to_chat(text={"format": {"type": "text"}})


def test_settings():
    chat = to_chat(
        max_output_tokens=50,
        reasoning={"effort": "low", "summary": "auto"},
        temperature=0.5,
        top_p=0.9,
        stream=True,
        prompt_cache_key="k",
        safety_identifier="s",
        user="u",
        seed=3,
        llmrouter={"cost_weight": 0.1},
        store=True,
        metadata={"a": "b"},
        truncation="auto",
        include=["reasoning.encrypted_content"],
        background=False,
        max_tool_calls=3,
        previous_response_id=None,
    )
    assert chat == {
        "model": "auto",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_completion_tokens": 50,
        "reasoning_effort": "low",
        "temperature": 0.5,
        "top_p": 0.9,
        "stream": True,
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "user": "u",
        "seed": 3,
        "llmrouter": {"cost_weight": 0.1},
    }


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"top_logprobs": 2}, {"logprobs": True, "top_logprobs": 2}),
        ({"include": ["message.output_text.logprobs"]}, {"logprobs": True}),
        ({"include": ["message.output_text.logprobs"], "top_logprobs": 0}, {"logprobs": True, "top_logprobs": 0}),
        ({"top_logprobs": 0}, {}),
    ],
)
def test_logprobs(body, expected):
    chat = to_chat(**body)
    assert {key: chat[key] for key in ("logprobs", "top_logprobs") if key in chat} == expected


def _user(part):
    return [{"role": "user", "content": [part]}]


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"given": None}, "input", "missing_required_parameter"),
        ({"given": 1}, "input", "invalid_type"),
        ({"given": []}, "input", "empty_array"),
        ({"given": ["a"]}, "input[0]", "invalid_type"),
        ({"given": [{}]}, "input[0].type", "missing_required_parameter"),
        ({"given": [{"type": "reasoning"}]}, "input", "invalid_value"),
        ({"given": [{"role": "tool", "content": "a"}]}, "input[0].role", "invalid_value"),
        ({"given": [{"role": "user"}]}, "input[0].content", "missing_required_parameter"),
        ({"given": _user({"type": "video"})}, "input[0].content[0].type", "unsupported_value"),
        ({"given": _user({"type": "input_text", "text": 1})}, "input[0].content[0].text", "invalid_type"),
        (
            {"given": _user({"type": "input_image", "file_id": "f"})},
            "input[0].content[0].file_id",
            "unsupported_parameter",
        ),
        (
            {"given": _user({"type": "input_file", "file_url": "u"})},
            "input[0].content[0].file_url",
            "unsupported_parameter",
        ),
        ({"given": _user({"type": "input_file"})}, "input[0].content[0].file_data", "missing_required_parameter"),
        ({"given": [{"type": "item_reference", "id": "i"}]}, "input[0].type", "unsupported_value"),
        ({"given": [{"type": "computer_call"}]}, "input[0].type", "unsupported_value"),
        (
            {"given": [{"type": "function_call", "name": "n", "arguments": "{}"}]},
            "input[0].call_id",
            "missing_required_parameter",
        ),
        (
            {"given": [{"type": "function_call_output", "call_id": "c"}]},
            "input[0].output",
            "missing_required_parameter",
        ),
        ({"instructions": 1}, "instructions", "invalid_type"),
        ({"max_output_tokens": 0}, "max_output_tokens", "integer_below_min_value"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "unsupported_parameter"),
        ({"conversation": {"id": "c"}}, "conversation", "unsupported_parameter"),
        ({"prompt": {"id": "p"}}, "prompt", "unsupported_parameter"),
        ({"background": True}, "background", "unsupported_parameter"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "unsupported_value"),
        ({"tools": [{"type": "function"}]}, "tools[0].name", "missing_required_parameter"),
        ({"tool_choice": "some"}, "tool_choice", "invalid_value"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice.type", "invalid_value"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", "invalid_value"),
        (
            {"text": {"format": {"type": "json_schema", "name": "n"}}},
            "text.format.schema",
            "missing_required_parameter",
        ),
        ({"reasoning": {"effort": 1}}, "reasoning.effort", "invalid_type"),
    ],
)
def test_errors_name_the_clients_own_field(body, param, code):
    error = refused(**body)
    assert (error["param"], error["code"]) == (param, code)


def test_errors_name_the_tool_and_the_remedy():
    message = refused(tools=[{"type": "web_search"}])["message"]
    assert "'web_search'" in message
    assert "'function'" in message
    assert "Send the item itself" in refused([{"type": "item_reference", "id": "i"}])["message"]
