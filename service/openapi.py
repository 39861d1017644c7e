"""The OpenAPI document, written by hand: bodies are parsed from raw bytes, so the framework knows nothing of them.

`tests/service/test_openapi.py` holds it against the gateway.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llmrouter import __version__
from service.chat import field_types
from service.control import CONTROL_SCHEMA
from service.keys import schema as keys_schema
from service.routes.feedback import LABELS

Schema = dict[str, Any]

_JSON_TYPES = {
    "a number": "number",
    "an integer": "integer",
    "a boolean": "boolean",
    "a string": "string",
    "an array": "array",
    "an object": "object",
}
_ERRORS: Mapping[int, str] = {
    400: "The request is wrong, or no model of the pool can take it; `param` names the field.",
    401: "No API key, or one that does not hold.",
    403: "The key lacks the scope.",
    404: "There is no such model, request or key.",
    408: "The body did not arrive in time.",
    413: "The body is larger than `server.max_body_bytes`.",
    429: "A limit or budget is used up; `retry-after` says when to come again.",
    500: "A fault of the gateway.",
    502: "No model of the pool could be reached, or its answer broke off.",
    503: "The gateway is full or stopping, or a store it needs does not work.",
    504: "No model of the pool answered in time.",
}
_ALWAYS = (400, 401, 403, 413, 429, 500, 503)
_OF_MODELS = (400, 401, 403, 404, 408, 413, 429, 500, 502, 503, 504)


def document() -> Schema:
    """Return the document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "llmrouter",
            "version": __version__,
            "description": "An OpenAI endpoint that sends each prompt to the model of the pool that gives the wanted "
            "quality for the least money. Ask for the model `auto`, or name one of the pool.",
        },
        "paths": {**_generating(), **_routing(), **_operating(), **keys_schema.paths()},
        "components": {"schemas": {**_schemas(), **keys_schema.schemas()}, "securitySchemes": _security()},
        "security": [{"bearer": []}, {"apiKey": []}, {}],
    }


def _security() -> Schema:
    return {
        "bearer": {"type": "http", "scheme": "bearer"},
        "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: Schema, description: str) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _body(schema: Schema) -> Schema:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _errors(statuses: Iterable[int], *, schema: str = "Error") -> Schema:
    # What an upstream answers with an error is relayed with its status, whichever that is.
    found: Schema = {str(status): _json(_ref(schema), _ERRORS[status]) for status in statuses}
    return {**found, "default": _json(_ref(schema), "An error of the upstream, relayed.")}


def _operation(
    summary: str,
    *,
    body: Schema | None = None,
    answers: Mapping[int, Schema],
    errors: Sequence[int] = _ALWAYS,
    error_schema: str = "Error",
    parameters: Sequence[Schema] = (),
    is_open: bool = False,
) -> Schema:
    operation: Schema = {
        "summary": summary,
        "responses": {
            **{str(status): answer for status, answer in answers.items()},
            **_errors(errors, schema=error_schema),
        },
    }
    if body is not None:
        operation["requestBody"] = _body(body)
    if parameters:
        operation["parameters"] = list(parameters)
    if is_open:
        operation["security"] = []
    return operation


def _answer(name: str, description: str) -> Schema:
    # A dry run answers with the decision.
    schema = {"anyOf": [_ref(name), _ref("Decision")]}
    return {
        "description": f"{description}; or the decision, where `dry_run` is asked for.",
        "content": {"application/json": {"schema": schema}, "text/event-stream": {"schema": {"type": "string"}}},
    }


def _generating() -> Schema:
    return {
        "/v1/chat/completions": {
            "post": _operation(
                "Answer a chat with the model that the router (or the client) chose.",
                body=_ref("ChatRequest"),
                answers={200: _answer("ChatCompletion", "The answer, whole or as a stream of chunks")},
                errors=_OF_MODELS,
            )
        },
        "/v1/completions": {
            "post": _operation(
                "Complete a prompt (the older endpoint).",
                body=_ref("CompletionRequest"),
                answers={200: _answer("Completion", "The answer, whole or as a stream of chunks")},
                errors=_OF_MODELS,
            )
        },
        "/v1/responses": {
            "post": _operation(
                "Answer in the shape of OpenAI's responses.",
                body=_ref("ResponsesRequest"),
                answers={200: _answer("Response", "The answer, whole or as a stream of events")},
                errors=_OF_MODELS,
            )
        },
        "/v1/messages": {
            "post": _operation(
                "Answer in the shape of Anthropic's messages.",
                body=_ref("MessagesRequest"),
                answers={200: _answer("Message", "The answer, whole or as a stream of events")},
                errors=_OF_MODELS,
                error_schema="MessagesError",
            )
        },
        "/v1/messages/count_tokens": {
            "post": _operation(
                "Estimate the tokens of a messages request.",
                body=_ref("MessagesRequest"),
                answers={
                    200: _json(
                        {
                            "type": "object",
                            "required": ["input_tokens"],
                            "properties": {"input_tokens": {"type": "integer", "minimum": 0}},
                        },
                        "The estimate.",
                    )
                },
                error_schema="MessagesError",
            )
        },
        "/v1/embeddings": {
            "post": _operation(
                "Embed texts with the named model.",
                body=_ref("EmbeddingsRequest"),
                answers={200: _json(_ref("Embeddings"), "The vectors.")},
                errors=_OF_MODELS,
            )
        },
    }


def _path_parameter(name: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _routing() -> Schema:
    return {
        "/v1/models": {
            "get": _operation(
                "List the names that `model` may have.", answers={200: _json(_ref("Models"), "The list.")}
            )
        },
        "/v1/models/{name}": {
            "get": _operation(
                "Return one of them.",
                answers={200: _json(_ref("Model"), "The model.")},
                errors=(*_ALWAYS, 404),
                parameters=[_path_parameter("name")],
            )
        },
        "/v1/route": {
            "post": _operation(
                "Decide, and answer with the decision; no model is called.",
                body=_ref("ChatRequest"),
                answers={200: _json(_ref("Decision"), "The decision.")},
                errors=(*_ALWAYS, 404, 408),
            )
        },
        "/v1/feedback": {
            "post": _operation(
                "Judge an answer.",
                body=_ref("Feedback"),
                answers={202: _json(_ref("FeedbackStored"), "On disk; `pending` until the request is known.")},
                errors=(*_ALWAYS, 408),
            )
        },
        "/v1/outcomes/{request_id}": {
            "get": _operation(
                "Return what is recorded of a request: tokens, cost, latency, feedback.",
                answers={200: _json(_ref("Outcome"), "The record.")},
                errors=(*_ALWAYS, 404),
                parameters=[_path_parameter("request_id")],
            )
        },
    }


def _operating() -> Schema:
    anything = {"type": "object"}
    return {
        "/healthz": {
            "get": _operation(
                "Say that the process answers.", answers={200: _json(anything, "It does.")}, errors=(), is_open=True
            )
        },
        "/readyz": {
            "get": _operation(
                "Say what the gateway serves with.",
                answers={200: _json(anything, "Ready."), 503: _json(anything, "Stopping.")},
                errors=(),
                is_open=True,
            )
        },
        "/metrics": {
            "get": _operation(
                "Return the metrics, for Prometheus.",
                answers={
                    200: {"description": "The metrics.", "content": {"text/plain": {"schema": {"type": "string"}}}}
                },
                errors=(401, 403, 404, 429, 500, 503),
            )
        },
    }


def _typed(types: Sequence[str]) -> Schema:
    return {"type": [*(_JSON_TYPES[kind] for kind in types), "null"]}


def _request(required: Sequence[str], properties: Schema) -> Schema:
    return {
        "type": "object",
        "required": list(required),
        "properties": {"model": {"type": "string"}, **properties, "llmrouter": _ref("Control")},
    }


def _chat_request() -> Schema:
    properties: Schema = {name: _typed(types) for name, types in field_types().items()}
    for name in ("max_completion_tokens", "max_tokens", "n"):
        properties[name] = {"type": ["integer", "null"], "minimum": 1}
    part = {"type": "object", "properties": {"type": {"type": "string"}, "text": {"type": "string"}}}
    message = {
        "type": "object",
        "required": ["role"],
        "properties": {
            "role": {"type": "string"},
            "content": {"anyOf": [{"type": ["string", "null"]}, {"type": "array", "items": part}]},
        },
    }
    messages = {"type": "array", "minItems": 1, "items": message}
    return _request(["model", "messages"], {"messages": messages, **properties})


def _object(required: Mapping[str, str], **properties: Any) -> Schema:
    return {
        "type": "object",
        "required": list(required),
        "properties": {**{name: {"type": kind} for name, kind in required.items()}, **properties},
    }


def _schemas() -> dict[str, Schema]:
    number_or_null: Schema = {"type": ["number", "null"]}
    ranked = _object(
        {"model": "string", "eligible": "boolean", "reason": "string"},
        expected_quality=number_or_null,
        standard_error=number_or_null,
        expected_cost_usd=number_or_null,
    )
    model = _object({"id": "string", "object": "string", "created": "integer", "owned_by": "string"})
    listed: Schema = {"type": "array", "items": _ref("Model")}
    return {
        "Error": {
            "type": "object",
            "required": ["error"],
            "properties": {"error": _object({"message": "string"}, type={"type": ["string", "null"]})},
        },
        "MessagesError": {
            "type": "object",
            "required": ["type", "error"],
            "properties": {"type": {"const": "error"}, "error": _object({"type": "string", "message": "string"})},
        },
        "Control": {**CONTROL_SCHEMA, "description": "What a request asks of the router; headers say the same."},
        "ChatRequest": _chat_request(),
        "CompletionRequest": _request(
            ["model", "prompt"], {"prompt": {"type": "string"}, "stream": _typed(["a boolean"])}
        ),
        "ResponsesRequest": _request(
            ["model", "input"], {"input": {"type": "string"}, "stream": _typed(["a boolean"])}
        ),
        "MessagesRequest": _request(
            ["model", "messages", "max_tokens"],
            {
                "messages": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "required": ["role", "content"],
                        "properties": {"role": {"enum": ["user", "assistant"]}, "content": {"type": "string"}},
                    },
                },
                "max_tokens": {"type": "integer", "minimum": 1},
                "stream": {"type": "boolean"},
            },
        ),
        "EmbeddingsRequest": _request(
            ["model", "input"],
            {"input": {"anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "items": {"type": "string"}}]}},
        ),
        "ChatCompletion": _object({"choices": "array"}),
        "Completion": _object({"object": "string", "choices": "array"}),
        "Response": _object({"id": "string", "object": "string", "status": "string", "output": "array"}),
        "Message": _object({"id": "string", "type": "string", "role": "string", "content": "array"}),
        "Embeddings": _object({"data": "array"}),
        "Model": model,
        "Models": _object({"object": "string"}, data=listed),
        "Decision": _object(
            {"model": "string", "propensity": "number", "policy": "string", "artifact_id": "string"},
            ranking={"type": "array", "items": ranked},
            neighbours={"type": "array"},
        ),
        "Feedback": {
            **_object(
                {"request_id": "string"},
                quality={"type": ["number", "null"], "minimum": 0, "maximum": 1},
                label={"enum": [*LABELS, None]},
                source={"type": "string", "minLength": 1, "maxLength": 256},
                weight={"type": "number", "exclusiveMinimum": 0},
            ),
            "additionalProperties": False,
        },
        "FeedbackStored": _object({"request_id": "string", "status": "string"}),
        "Outcome": _object({"request_id": "string", "time": "number", "model": "string", "status": "string"}),
    }
