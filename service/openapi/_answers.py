"""What the gateway answers."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from llmrouter.types import Outcome
from service.openapi._parts import Schema, array_of, nullable, object_of, ref

_STRING: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_SECONDS: Schema = {"type": "number", "minimum": 0}
_TYPES: Mapping[Any, str] = {str: "string", float: "number", int: "integer", bool: "boolean"}


def schemas() -> dict[str, Schema]:
    """Return the schemas of answers."""
    model = object_of(
        {"id": "string", "object": {"const": "model"}, "created": "integer", "owned_by": {"const": "llmrouter"}}
    )
    models = object_of({"object": {"const": "list"}, "data": array_of(ref("Model"))})
    return {
        **_errors(),
        **_relayed(),
        "Message": _message(),
        "Completion": _completion(),
        "Response": _response(),
        "TokenCount": object_of({"input_tokens": _COUNT}),
        "Model": model,
        "Models": models,
        "Decision": _decision(),
        "FeedbackStored": object_of({"request_id": "string", "status": {"enum": ["stored", "pending", "spooled"]}}),
        "JudgementsStored": object_of({"results": array_of(ref("FeedbackStored"))}),
        "Outcome": _outcome(),
        "Alive": object_of({"status": {"const": "ok"}}),
        "Readiness": _readiness(),
    }


def _errors() -> dict[str, Schema]:
    words = {"type": nullable("string"), "param": {}, "code": {}}
    return {
        "Error": {
            **object_of({"error": object_of({"message": "string"}, **words)}),
            "description": "OpenAI's shape. `attempts` of the error lists what failed, where more than one model did.",
        },
        "UpstreamError": {
            "type": "object",
            "description": "What the upstream said, relayed; its own shape where it is JSON.",
        },
        "MessagesError": {
            **object_of(
                {
                    "type": {"const": "error"},
                    "error": object_of({"type": "string", "message": "string"}),
                    "request_id": "string",
                }
            ),
            "description": "Anthropic's shape.",
        },
    }


def _relayed() -> dict[str, Schema]:
    event = object_of({"data": "string"}, event=_STRING)
    return {
        "ServerSentEvent": {
            **event,
            "description": "Each event of a stream. `data` is JSON, or `[DONE]` at the end of chat completions and "
            "completions. A stream that breaks off ends in an event whose data hold an `error`.",
        },
        "ChatCompletion": {
            **object_of({"choices": array_of({"type": "object"})}),
            "description": "As the upstream sent it, to the byte.",
        },
        "Embeddings": {**object_of({"data": "array"}), "description": "As the upstream sent it, to the byte."},
    }


def _completion() -> Schema:
    choice = object_of(
        {
            "text": "string",
            "index": "integer",
            "logprobs": nullable("object"),
            "finish_reason": {"enum": ["stop", "length", "content_filter", None]},
        }
    )
    kind: Schema = {"const": "text_completion"}
    return object_of(
        {"id": "string", "object": kind, "created": "integer", "model": "string", "choices": array_of(choice)},
        usage={"type": "object"},
    )


def _message() -> Schema:
    text = object_of({"type": {"const": "text"}, "text": "string"})
    call = object_of({"type": {"const": "tool_use"}, "id": "string", "name": "string", "input": "object"})
    thinking = object_of({"type": {"const": "thinking"}, "thinking": "string", "signature": "string"})
    reasons = ["end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal"]
    usage = object_of(
        {
            "input_tokens": _COUNT,
            "cache_creation_input_tokens": _COUNT,
            "cache_read_input_tokens": _COUNT,
            "output_tokens": _COUNT,
        }
    )
    return object_of(
        {
            "id": "string",
            "type": {"const": "message"},
            "role": {"const": "assistant"},
            "model": "string",
            "content": array_of({"anyOf": [text, call, thinking]}),
            "stop_reason": {"enum": reasons},
            "stop_sequence": nullable("string"),
            "usage": usage,
        }
    )


def _response() -> Schema:
    item = object_of({"id": "string", "type": {"enum": ["message", "function_call", "reasoning"]}, "status": "string"})
    usage = object_of(
        {
            "input_tokens": _COUNT,
            "input_tokens_details": "object",
            "output_tokens": _COUNT,
            "output_tokens_details": "object",
            "total_tokens": _COUNT,
        }
    )
    return object_of(
        {
            "id": "string",
            "object": {"const": "response"},
            "created_at": "integer",
            "status": {"enum": ["completed", "incomplete"]},
            "model": "string",
            "output": array_of(item),
            "store": {"type": "boolean"},
            "usage": {"anyOf": [{"type": "null"}, usage]},
        },
        error={"type": "null"},
        incomplete_details={"anyOf": [{"type": "null"}, object_of({"reason": "string"})]},
        metadata={"type": "object"},
        parallel_tool_calls={"type": "boolean"},
    )


def _decision() -> Schema:
    ranked = object_of(
        {
            "model": "string",
            "expected_quality": nullable("number"),
            "standard_error": nullable("number"),
            "expected_cost_usd": nullable("number"),
            "eligible": "boolean",
            "reason": {**_STRING, "description": 'Why it is ruled out; "" where it is not.'},
        }
    )
    neighbour = object_of({"prompt_id": "string", "similarity": "number"})
    scores: Schema = {"type": "object", "additionalProperties": {"type": "number"}}
    pick = object_of(
        {
            "name": "string",
            "chooser": {"enum": ["model", "embedding", "classifier"]},
            "reason": "string",
            "score": nullable("number"),
            "scores": scores,
            "failure": "string",
            "cost_usd": "number",
            "latency_s": "number",
            "known": "boolean",
        }
    )
    decision = object_of(
        {
            "model": "string",
            "ranking": array_of(ranked, minItems=1),
            "propensity": "number",
            "policy": "string",
            "artifact_id": "string",
            "neighbours": array_of(neighbour),
        }
    )
    # There only where the configuration has routes.
    decision["properties"]["route"] = pick
    price = object_of(
        {"input": "number", "output": "number", "from": {"enum": ["load", "configuration"]}},
        age_s=nullable("number"),
        reason={**_STRING, "description": 'Why the engine\'s own price is not used; "" where it is.'},
        seconds_per_input_token={"type": "number"},
        seconds_per_output_token={"type": "number"},
    )
    # There only where an engine of the pool reports its load; US dollars per million tokens.
    decision["properties"]["prices"] = {"type": "object", "additionalProperties": price}
    return decision


def _outcome() -> Schema:
    hints = typing.get_type_hints(Outcome)
    properties = {field.name: _of_hint(hints[field.name]) for field in dataclasses.fields(Outcome)}
    properties["status"] = {"enum": ["ok", "error", "partial", "cancelled"]}
    return object_of(properties)


def _of_hint(hint: Any) -> Schema:
    """Return the schema of a value of the outcome; a number that is not known is null."""
    if hint is float:
        return nullable("number")
    if hint in _TYPES:
        return {"type": _TYPES[hint]}
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        inner = next(_of_hint(option) for option in typing.get_args(hint) if option is not types.NoneType)
        return {**inner, "type": sorted({*_as_list(inner["type"]), "null"})}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object"}
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return {"type": "array"}
    raise TypeError(f"an outcome has a field of type {hint!r}, which the document does not know")


def _as_list(given: str | list[str]) -> list[str]:
    return [given] if isinstance(given, str) else given


def _readiness() -> Schema:
    state: Schema = {"enum": ["ok", "failing"]}
    log = object_of(
        {"status": state, "queued": _COUNT, "written": _COUNT, "spooled": _COUNT, "rejected": _COUNT, "lost": _COUNT},
        trouble=_STRING,
    )
    config = object_of(
        {
            "status": state,
            "source": "string",
            "in_effect_since": "number",
            "reloads": _COUNT,
            "failures": _COUNT,
            "error": "string",
            "needs_restart": array_of(_STRING),
        }
    )
    return object_of(
        {
            "status": {"enum": ["ready", "stopping"]},
            "artifact": "string",
            "router": "string",
            "policy": "string",
            "models": array_of(object_of({"name": "string", "cooling_down_s": _SECONDS})),
            "log": log,
            "requests": object_of({"in_flight": _COUNT, "queued": _COUNT}),
        },
        keys=object_of({"status": state}),
        redis=object_of({"status": state}),
        config=config,
    )
