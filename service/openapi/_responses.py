"""Bodies of requests in the shape of OpenAI's responses."""

from __future__ import annotations

from service.openapi._parts import Names, Schema, array_of, chat_settings, nullable, object_of, request_of, whole

_STRING: Schema = {"type": "string"}
_OBJECT: Schema = {"type": "object"}
# In chat completions these have other names or other values.
_OTHER_NAMES = ("logprobs", "max_completion_tokens", "max_tokens", "response_format", "stop")


def request(names: Names) -> Schema:
    """Return the body of a request for a response, as far as chat completions can say it."""
    properties = {**chat_settings(but=_OTHER_NAMES), **_settings()}
    body = request_of(names, {"input": _input()}, properties)
    body["description"] = (
        "Nothing is stored here: what refers to stored responses, conversations, prompts or items is refused. A model "
        "whose upstream serves responses itself takes more than this."
    )
    return body


def _input() -> Schema:
    parts = array_of({"anyOf": _parts()})
    content: Schema = {"anyOf": [_STRING, parts]}
    message = object_of(
        {"role": {"enum": ["user", "assistant", "system", "developer"]}, "content": content},
        type={"enum": [None, "message"]},
    )
    call = object_of({"type": {"const": "function_call"}, "call_id": _STRING, "name": _STRING, "arguments": _STRING})
    output = object_of({"type": {"const": "function_call_output"}, "call_id": _STRING, "output": content})
    reasoning = object_of({"type": {"const": "reasoning"}})
    said = {"anyOf": [message, call, output]}
    items = array_of({"anyOf": [message, call, output, reasoning]}, minItems=1, contains=said)
    return {"anyOf": [_STRING, items], "description": "Reasoning alone is nothing to answer, and is left out."}


def _parts() -> list[Schema]:
    image = object_of({"type": {"const": "input_image"}, "image_url": _STRING}, detail=nullable("string"))
    audio = object_of({"type": {"const": "input_audio"}, "input_audio": _OBJECT})
    texts: Schema = {"enum": ["input_text", "output_text", "text"]}
    names = {"file_data": nullable("string"), "file_id": nullable("string"), "filename": nullable("string")}
    no_url: Schema = {"file_url": {"type": "null"}}
    files = [
        object_of({"type": {"const": "input_file"}, name: _STRING}, **{**names, name: _STRING}, **no_url)
        for name in ("file_data", "file_id")
    ]
    return [
        object_of({"type": texts, "text": _STRING}),
        object_of({"type": {"const": "refusal"}, "refusal": _STRING}),
        image,
        audio,
        *files,
    ]


def _settings() -> Schema:
    function = object_of({"type": {"const": "function"}, "name": _STRING})
    tool = object_of(
        {"type": {"const": "function"}, "name": _STRING},
        description=nullable("string"),
        parameters=nullable("object"),
        strict=nullable("boolean"),
    )
    allowed = object_of({"type": {"const": "allowed_tools"}, "mode": _STRING, "tools": array_of(function)})
    schema_format = object_of(
        {"type": {"const": "json_schema"}, "name": _STRING, "schema": _OBJECT},
        description=nullable("string"),
        strict=nullable("boolean"),
    )
    plain_format = object_of({"type": {"enum": ["text", "json_object"]}})
    form: Schema = {"anyOf": [{"type": "null"}, plain_format, schema_format]}
    texts = ("instructions", "prompt_cache_key", "safety_identifier", "service_tier", "truncation", "user")
    return {
        **{name: nullable("string") for name in texts},
        "background": {"enum": [None, False]},
        "include": nullable("array"),
        "max_output_tokens": whole(least=1),
        "max_tool_calls": whole(),
        "metadata": nullable("object"),
        "n": {"enum": [None, 1]},
        "parallel_tool_calls": nullable("boolean"),
        "previous_response_id": {"enum": [None, ""]},
        "reasoning": nullable("object", properties={"effort": nullable("string")}),
        "store": nullable("boolean"),
        "stream": nullable("boolean"),
        "stream_options": nullable("object"),
        "temperature": nullable("number"),
        "text": nullable("object", properties={"format": form, "verbosity": nullable("string")}),
        "tool_choice": {"anyOf": [{"enum": [None, "none", "auto", "required"]}, function, allowed]},
        "tools": nullable("array", items=tool),
        "top_logprobs": whole(),
        "top_p": nullable("number"),
    }
