"""Bodies of requests in the shape of Anthropic's messages."""

from __future__ import annotations

from service.openapi._parts import Names, Schema, array_of, chat_settings, nullable, object_of, ref, whole

_STRING: Schema = {"type": "string"}
_OBJECT: Schema = {"type": "object"}
# Fields of the dialect take the place of these, or mean another thing under the same name.
_NOT_CHATS = ("max_completion_tokens", "max_tokens", "parallel_tool_calls", "response_format", "stop", "user")


def schemas(names: Names) -> dict[str, Schema]:
    """Return the schemas of a messages request, and of one whose tokens are counted."""
    return {
        "MessagesRequest": {
            **object_of(
                {"model": names.model(), "messages": _messages(), "max_tokens": whole(least=1, nullable=False)},
                **_settings(),
                **chat_settings(but=(*_NOT_CHATS, *_settings())),
                llmrouter=ref("Control"),
            ),
            "description": "`container` and `mcp_servers` are refused, since they run at Anthropic.",
        },
        "CountTokensRequest": object_of({"messages": _messages()}, max_tokens=whole(least=1), **_settings()),
        "TextBlock": _block("text", text=_STRING),
        "ContentBlock": {"anyOf": [ref("TextBlock"), _image(), _document(), _search_result()]},
    }


def _block(kind: str, /, **required: Schema) -> Schema:
    return object_of({"type": {"const": kind}, **required})


def _text_or(blocks: Schema) -> Schema:
    return {"anyOf": [_STRING, array_of(blocks)]}


def _messages() -> Schema:
    result = _block("tool_result", tool_use_id=_STRING)
    result["properties"] |= {
        "content": {"anyOf": [nullable("string"), array_of(ref("ContentBlock"))]},
        "is_error": nullable("boolean"),
    }
    call = _block("tool_use", id=_STRING, name=_STRING, input=_OBJECT)
    thinking = {"enum": ["thinking", "redacted_thinking"], "description": "Left out: it is signed by its model."}
    said = {"anyOf": [ref("TextBlock"), call, object_of({"type": thinking})]}
    user = object_of(
        {"role": {"const": "user"}, "content": _text_or({"anyOf": [ref("ContentBlock"), result]})},
    )
    assistant = object_of({"role": {"const": "assistant"}, "content": _text_or(said)})
    system = object_of(
        {"role": {"const": "system"}}, content={"anyOf": [nullable("string"), array_of(ref("TextBlock"))]}
    )
    return array_of({"anyOf": [user, assistant, system]}, minItems=1)


def _image() -> Schema:
    encoded = object_of({"type": {"const": "base64"}, "media_type": _STRING, "data": _STRING})
    linked = object_of({"type": {"const": "url"}, "url": _STRING})
    return _block("image", source={"anyOf": [encoded, linked]})


def _document() -> Schema:
    text = object_of({"type": {"const": "text"}, "data": _STRING})
    encoded = object_of({"type": {"const": "base64"}, "media_type": _STRING, "data": _STRING})
    inner = {"anyOf": [nullable("string"), array_of({"anyOf": [ref("TextBlock"), _image()]})]}
    parts = object_of({"type": {"const": "content"}}, content=inner)
    document = _block("document", source={"anyOf": [text, encoded, parts]})
    document["properties"] |= {"title": nullable("string"), "context": nullable("string")}
    return document


def _search_result() -> Schema:
    found = _block("search_result")
    found["properties"] |= {
        "title": nullable("string"),
        "source": nullable("string"),
        "content": {"anyOf": [nullable("string"), array_of(ref("TextBlock"))]},
    }
    return found


def _settings() -> Schema:
    tool = object_of(
        {"name": _STRING, "input_schema": _OBJECT},
        type={"enum": [None, "custom"]},
        description=nullable("string"),
        strict=nullable("boolean"),
    )
    one_at_a_time = nullable("boolean")
    choice: Schema = {
        "anyOf": [
            {"type": "null"},
            object_of({"type": {"enum": ["auto", "any", "none"]}}, disable_parallel_tool_use=one_at_a_time),
            object_of({"type": {"const": "tool"}, "name": _STRING}, disable_parallel_tool_use=one_at_a_time),
        ]
    }
    thinking: Schema = {
        "anyOf": [
            {"type": "null"},
            object_of({"type": {"enum": ["adaptive", "disabled"]}}),
            object_of({"type": {"const": "enabled"}, "budget_tokens": whole(nullable=False)}),
        ]
    }
    form: Schema = {"anyOf": [{"type": "null"}, object_of({"type": {"const": "json_schema"}, "schema": _OBJECT})]}
    return {
        "metadata": nullable("object", properties={"user_id": nullable("string")}),
        "n": {"enum": [None, 1]},
        "output_config": nullable("object", properties={"effort": nullable("string"), "format": form}),
        "output_format": form,
        "service_tier": nullable("string"),
        "stop_sequences": nullable("array", items=_STRING),
        "stream": nullable("boolean"),
        "system": {"anyOf": [nullable("string"), array_of(ref("TextBlock"))]},
        "temperature": nullable("number"),
        "thinking": thinking,
        "tool_choice": choice,
        "tools": nullable("array", items=tool),
        "top_k": whole(),
        "top_p": nullable("number"),
    }
