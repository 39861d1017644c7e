"""The document: every operation with what it takes and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from llmrouter import __version__
from service.control import CONTROL_SCHEMA, PREFIX
from service.keys import schema as keys_schema
from service.learning import audit_schema, canary_schema
from service.models import schema as models_schema
from service.openapi import _answers, _messages, _requests, _responses
from service.openapi._parts import (
    ALWAYS,
    WITH_BODY,
    Names,
    Schema,
    errors,
    json,
    operation,
    parameter_ref,
    ref,
)

if TYPE_CHECKING:
    from service.gateway import Gateway

_OF_MODELS = (*WITH_BODY, 404, 502, 504)
_MODELS_THAT_EMBED = "Control-models-that-embed"
_KEY_SCHEMES = ("bearer", "apiKey", "azureApiKey")
_OF_REFUSALS = ("retry-after", "retry-after-ms", "x-should-retry")
_REFUSED_STATUSES = ("429", "503")
_LINKS: Schema = {
    "outcome": {
        "operationId": "getOutcome",
        "parameters": {"request_id": "$response.header.x-request-id"},
        "description": "What is recorded of the request; nothing of a dry run.",
    }
}
_FEEDBACK_STORED: Schema = {"anyOf": [ref("FeedbackStored"), ref("JudgementsStored")]}
_METHODS = ("get", "post", "patch", "delete", "put")


def document(gateway: Gateway | None = None) -> Schema:
    """Return the document.

    Parameters
    ----------
    gateway : Gateway, optional
        Whose models are named, and whose keys are asked for; by default any names, and keys as a client pleases.
    """
    names = Names()
    if gateway is not None:
        kinds = tuple(sorted(gateway.settings.learning.verify.requests))
        names = Names(gateway.pool, gateway.embedders, gateway.engine.router_name, kinds)
    paths = {**_generating(), **_routing(), **_operating(), **keys_schema.paths(), **canary_schema.paths()}
    paths |= models_schema.paths() | audit_schema.paths()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "llmrouter",
            "version": __version__,
            "description": "An OpenAI endpoint that sends each prompt to the model of the pool that gives the wanted "
            "quality for the least money. Ask for the model `auto`, or name one of the pool.",
        },
        "paths": _with_headers(paths),
        "components": {
            "schemas": {
                **_request_schemas(names),
                **_answers.schemas(),
                **keys_schema.schemas(),
                **canary_schema.schemas(),
                **models_schema.schemas(),
                **audit_schema.schemas(),
            },
            "parameters": _parameters(names),
            "headers": _headers(),
            "securitySchemes": _security_schemes(),
        },
        "security": _security(gateway),
    }


def describing(gateway: Callable[[], Gateway]) -> Callable[[], Schema]:
    """Return what makes the document of the gateway in effect; it is made once for each.

    Parameters
    ----------
    gateway : callable
        Returns the gateway in effect, another one after a reload.
    """
    made: list[tuple[Gateway, Schema]] = []

    def current() -> Schema:
        found = gateway()
        if not made or made[0][0] is not found:
            made[:] = [(found, document(found))]
        return made[0][1]

    return current


def _security_schemes() -> Schema:
    return {
        "bearer": {"type": "http", "scheme": "bearer"},
        "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        "azureApiKey": {"type": "apiKey", "in": "header", "name": "api-key"},
    }


def _security(gateway: Gateway | None) -> list[Schema]:
    schemes: list[Schema] = [{name: []} for name in _KEY_SCHEMES]
    if gateway is None:
        return [*schemes, {}]
    auth = gateway.settings.auth
    if auth is None:
        return []
    return schemes if auth.required else [*schemes, {}]


def _request_schemas(names: Names) -> dict[str, Schema]:
    return {
        "Control": _requests.control(names.pool, verifiers=names.verifiers),
        "ChatRequest": _requests.chat(names),
        "CompletionRequest": _requests.completion(names),
        "ResponsesRequest": _responses.request(names),
        "EmbeddingsRequest": _requests.embeddings(names),
        "Feedback": _requests.feedback(),
        "Judgement": _requests.judgement(),
        **_messages.schemas(names),
    }


# Parameters and headers


def _parameters(names: Names) -> dict[str, Schema]:
    found = {}
    for name, schema in CONTROL_SCHEMA["properties"].items():
        plain = {**schema, "type": schema["type"][0]}
        found[f"Control-{name}"] = {
            "name": PREFIX + name.replace("_", "-"),
            "in": "header",
            "schema": {**plain, "items": _one_of(names.pool)} if name == "models" else plain,
            "description": f"As `llmrouter.{name}` of the body, which goes before it.",
        }
        if name == "models":
            of_embedders = {**plain, "items": _one_of(names.embedders)}
            found[_MODELS_THAT_EMBED] = {**found["Control-models"], "schema": of_embedders}
    return found


def _one_of(models: tuple[str, ...]) -> Schema:
    return {"enum": list(models)} if models else {"type": "string", "minLength": 1}


def _control_parameters(*, models: str = "Control-models") -> list[Schema]:
    names = (f"Control-{name}" for name in CONTROL_SCHEMA["properties"] if name != "models")
    return [*(parameter_ref(name) for name in names), parameter_ref(models)]


def _path_parameter(name: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _header(schema: Schema, description: str) -> Schema:
    return {"schema": schema, "description": description}


def _headers() -> dict[str, Schema]:
    text: Schema = {"type": "string"}
    number: Schema = {"type": "number"}
    count: Schema = {"type": "integer", "minimum": 0}
    told: dict[str, Schema] = {
        "x-llmrouter-model": _header(text, "Pool name of the model that answered."),
        "x-llmrouter-router": _header(text, "What estimated."),
        "x-llmrouter-policy": _header(text, "What chose."),
        "x-llmrouter-route": _header(text, "The route that the request is on, where there are routes."),
        "x-llmrouter-artifact": _header(text, "Whose estimates were used."),
        "x-llmrouter-expected-quality": _header(number, "In [0, 1]."),
        "x-llmrouter-expected-cost": _header(number, "US dollars."),
        "x-llmrouter-cost": _header(number, "US dollars, failed attempts included; not on streams."),
        "x-llmrouter-fallbacks": _header(count, "How many models failed before."),
        "x-llmrouter-attempts": _header(text, "Which, and why."),
        "x-llmrouter-hedges": _header(text, "Models asked beside a slow first one."),
        "x-llmrouter-deployment": _header(text, "Which deployment of the model answered."),
        "x-llmrouter-overhead-ms": _header(number, "Milliseconds that the gateway itself took."),
        "x-llmrouter-upstream-request-id": _header(text, "The upstream's own request id."),
        "x-llmrouter-cache-similarity": _header(number, "Of the question that the kept answer was given to."),
        "age": _header(count, "Seconds since a kept answer was given."),
        "x-llmrouter-cache": _header({"enum": ["hit", "semantic", "miss", "bypass"]}, "Where the cache is on."),
        "retry-after": _header(count, "Seconds."),
        "retry-after-ms": _header(count, "Milliseconds."),
        "x-should-retry": _header({"enum": ["true", "false"]}, "Read by the official clients."),
    }
    for kind in ("requests", "tokens"):
        for name in ("limit", "remaining"):
            told[f"x-ratelimit-{name}-{kind}"] = _header(count, "Of the limit with the least left.")
        told[f"x-ratelimit-reset-{kind}"] = _header(text, "As OpenAI writes it: 1s, 6m0s.")
    request_id = {"required": True, **_header({"type": "string", "pattern": "^req_[0-9a-f]{32}$"}, "Of this request.")}
    return {"x-request-id": request_id, **told}


def _header_refs(names: Iterable[str]) -> Schema:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _generated() -> Schema:
    """Return what every answer of a model has: headers, and where its record is."""
    return {"headers": _header_refs(name for name in _headers() if name not in _OF_REFUSALS), "links": _LINKS}


def _with_headers(paths: Schema) -> Schema:
    """Add to every answer the headers that all of its status have or may have."""
    for item in paths.values():
        for method in _METHODS:
            for status, answer in item.get(method, {}).get("responses", {}).items():
                names = ("x-request-id", *(_OF_REFUSALS if status in _REFUSED_STATUSES else ()))
                answer["headers"] = {**_header_refs(names), **answer.get("headers", {})}
    return paths


# Operations


def _answer(name: str, description: str) -> Schema:
    return {
        "description": f"{description}; or the decision, where `dry_run` is asked for.",
        "content": {
            "application/json": {"schema": {"anyOf": [ref(name), ref("Decision")]}},
            "text/event-stream": {"schema": ref("ServerSentEvent")},
        },
        **_generated(),
    }


def _of_upstream(schema: str) -> Schema:
    """Return the answers whose status an upstream chose."""
    described = json(ref(schema), "An error of the upstream, relayed with its status.")
    return {"4XX": described, "5XX": dict(described)}


def _generation(name: str, summary: str, body: str, answer: str, what: str) -> Schema:
    messages = answer == "Message"
    return {
        "post": operation(
            name,
            summary,
            body=ref(body),
            parameters=_control_parameters(),
            answers={
                "200": _answer(answer, what),
                **errors(_OF_MODELS, schema="MessagesError" if messages else "Error"),
                **_of_upstream("MessagesError" if messages else "UpstreamError"),
            },
        )
    }


def _generating() -> Schema:
    chunks, events = "The answer, whole or as a stream of chunks", "The answer, whole or as a stream of events"
    return {
        "/v1/chat/completions": _generation(
            "createChatCompletion",
            "Answer a chat with the model that the router (or the client) chose.",
            "ChatRequest",
            "ChatCompletion",
            chunks,
        ),
        "/v1/completions": _generation(
            "createCompletion", "Complete a prompt (the older endpoint).", "CompletionRequest", "Completion", chunks
        ),
        "/v1/responses": _generation(
            "createResponse", "Answer in the shape of OpenAI's responses.", "ResponsesRequest", "Response", events
        ),
        "/v1/messages": _generation(
            "createMessage", "Answer in the shape of Anthropic's messages.", "MessagesRequest", "Message", events
        ),
        "/v1/messages/count_tokens": {
            "post": operation(
                "countMessageTokens",
                "Estimate the tokens of a messages request; no model is asked.",
                body=ref("CountTokensRequest"),
                answers={
                    "200": json(ref("TokenCount"), "The estimate."),
                    **errors(WITH_BODY, schema="MessagesError"),
                },
            )
        },
        "/v1/embeddings": {
            "post": operation(
                "createEmbeddings",
                "Embed texts with the named model.",
                body=ref("EmbeddingsRequest"),
                parameters=_control_parameters(models=_MODELS_THAT_EMBED),
                answers={
                    "200": {**json(ref("Embeddings"), "The vectors."), **_generated()},
                    **errors(_OF_MODELS),
                    **_of_upstream("UpstreamError"),
                },
            )
        },
    }


def _routing() -> Schema:
    return {
        "/v1/models": {
            "get": operation(
                "listModels",
                "List the names that `model` may have.",
                answers={"200": json(ref("Models"), "The aliases that route, then the pool."), **errors(ALWAYS)},
            )
        },
        "/v1/models/{name}": {
            "get": operation(
                "getModel",
                "Return one of them.",
                answers={"200": json(ref("Model"), "The model."), **errors((*ALWAYS, 404))},
                parameters=[_path_parameter("name")],
            )
        },
        "/v1/route": {
            "post": operation(
                "decide",
                "Decide, and answer with the decision; no model answers. Where a model picks the route it is asked.",
                body=ref("ChatRequest"),
                parameters=_control_parameters(),
                answers={"200": json(ref("Decision"), "The decision."), **errors((*WITH_BODY, 404))},
            )
        },
        "/v1/feedback": {
            "post": operation(
                "giveFeedback",
                "Judge an answer, or up to a thousand.",
                body=ref("Feedback"),
                answers={
                    "202": json(_FEEDBACK_STORED, "On disk; `pending` until the request is known."),
                    **errors(WITH_BODY),
                },
            )
        },
        "/v1/outcomes/{request_id}": {
            "get": operation(
                "getOutcome",
                "Return what is recorded of a request: tokens, cost, latency, feedback.",
                answers={"200": json(ref("Outcome"), "The record."), **errors((*ALWAYS, 404))},
                parameters=[_path_parameter("request_id")],
            )
        },
    }


def _operating() -> Schema:
    text: Schema = {"schema": {"type": "string"}}
    exposition = {"text/plain": text, "application/openmetrics-text": text}
    return {
        "/healthz": {
            "get": operation(
                "getHealth",
                "Say that the process answers.",
                answers={"200": json(ref("Alive"), "It does.")},
                is_open=True,
            )
        },
        "/readyz": {
            "get": operation(
                "getReadiness",
                "Say what the gateway serves with.",
                answers={"200": json(ref("Readiness"), "Ready."), "503": json(ref("Readiness"), "Stopping.")},
                is_open=True,
            )
        },
        "/metrics": {
            "get": operation(
                "getMetrics",
                "Return the metrics, for Prometheus.",
                answers={"200": {"description": "The metrics.", "content": exposition}, **errors((*ALWAYS, 404))},
            )
        },
        "/openapi.json": {
            "get": operation(
                "getDocument",
                "Return this document.",
                answers={"200": json({"type": "object"}, "It.")},
                is_open=True,
            )
        },
    }
