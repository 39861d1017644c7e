"""Bodies of requests in OpenAI's shapes, but for responses."""

from __future__ import annotations

from service.control import CONTROL_SCHEMA
from service.openapi._parts import Names, Schema, array_of, chat_settings, nullable, object_of, request_of, whole
from service.routes.feedback import LABELS

_LONGEST_TEXT = 256


def control(models: tuple[str, ...]) -> Schema:
    """Return the body's ``llmrouter`` object, where `models` may hold these names; () where they are not known."""
    schema: Schema = {**CONTROL_SCHEMA, "description": "What a request asks of the router; headers say the same."}
    if models:
        known = {**schema["properties"]["models"], "items": {"enum": list(models)}}
        schema["properties"] = {**schema["properties"], "models": known}
    return schema


def chat(names: Names) -> Schema:
    """Return the body of a chat completion."""
    part = {"type": "object", "properties": {"type": {"type": "string"}, "text": {"type": "string"}}}
    content = {"anyOf": [nullable("string"), array_of(part)]}
    message = object_of({"role": "string"}, content=content)
    return request_of(names, {"messages": array_of(message, minItems=1)}, chat_settings())


def completion(names: Names) -> Schema:
    """Return the body of an older completion."""
    prompt: Schema = {
        "anyOf": [{"type": "string"}, array_of({"type": "string"}, minItems=1, maxItems=1)],
        "description": "One prompt of text.",
    }
    properties: Schema = {
        "best_of": {"enum": [None, 1], "description": "Or the same as `n`."},
        "echo": nullable("boolean"),
        "logprobs": whole(least=0),
        "max_tokens": whole(least=1),
        "suffix": {"enum": [None, ""], "description": "Not supported by chat models."},
    }
    alone: Schema = {
        "description": "Chat models do not tell the log-probabilities of a prompt.",
        "anyOf": [
            {"properties": {"echo": {"enum": [None, False]}}},
            {"properties": {"logprobs": {"type": "null"}}},
        ],
    }
    # `max_tokens` and `logprobs` take the place of these.
    others = chat_settings(but=(*properties, "max_completion_tokens", "top_logprobs"))
    return {**request_of(names, {"prompt": prompt}, {**others, **properties}), **alone}


def embeddings(names: Names) -> Schema:
    """Return the body of a request for embeddings."""
    tokens = array_of(whole(nullable=False))
    given: Schema = {
        "anyOf": [
            {"type": "string"},
            array_of({"type": "string"}, minItems=1),
            {**tokens, "minItems": 1},
            array_of(tokens, minItems=1),
        ]
    }
    model: Schema = {"enum": list(names.embedders)} if names.embedders else {"type": "string"}
    return object_of(
        {"model": model, "input": given},
        dimensions=whole(least=1),
        encoding_format=nullable("string"),
        user=nullable("string"),
        llmrouter=control(names.embedders),
    )


def feedback() -> Schema:
    """Return the body of a judgement: a quality, or a word for one."""
    common: Schema = {
        "request_id": {"type": "string", "minLength": 1, "maxLength": _LONGEST_TEXT},
        "source": {
            "type": "string",
            "minLength": 1,
            "maxLength": _LONGEST_TEXT,
            "default": "user",
            "description": "Who judges; the last word of each counts.",
        },
        "weight": {"type": "number", "exclusiveMinimum": 0, "default": 1.0},
    }
    quality: Schema = {"type": "number", "minimum": 0, "maximum": 1}
    label: Schema = {"enum": list(LABELS), "description": "A word for one of the two ends of the scale."}
    nothing: Schema = {"type": "null"}

    def judged_by(name: str, schema: Schema, other: str) -> Schema:
        return {
            "type": "object",
            "required": ["request_id", name],
            "properties": {**common, name: schema, other: nothing},
            "additionalProperties": False,
        }

    return {"oneOf": [judged_by("quality", quality, "label"), judged_by("label", label, "quality")]}
