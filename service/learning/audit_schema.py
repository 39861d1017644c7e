"""The route of the audit in the OpenAPI document."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

_ERRORS = {
    401: "No key, or one that does not hold.",
    403: "The key lacks the scope admin.",
    404: "No such request is recorded, or this gateway has no keys.",
    409: "Nothing was judged before the request, or nothing of its prompt was kept.",
    429: "Too many wrong keys came from this address.",
    500: "A fault of the gateway.",
    503: "The store of keys or of outcomes fails.",
}
_NUMBER: Schema = {"type": "number"}
_TEXT: Schema = {"type": "string"}


def schemas() -> dict[str, Schema]:
    """Return the schemas that `paths` refers to, besides ``Error``."""
    near = dict.fromkeys(("request_id", "model", "source", "reason"), _TEXT)
    near |= dict.fromkeys(("similarity", "quality", "weight", "influence"), _NUMBER)
    model: Schema = {
        "model": _TEXT,
        "estimate": _NUMBER,
        "prior": _NUMBER,
        "outcomes": {"type": "integer"},
        "influence": {"type": "object", "additionalProperties": _NUMBER},
    }
    without: Schema = {"source": _TEXT, "influence": _NUMBER, "model": _TEXT, "changes": {"type": "boolean"}}
    properties: Schema = {
        "object": {"const": "audit"},
        "request_id": _TEXT,
        "decided": {**_TEXT, "description": "What the router chose."},
        "choice": {**_TEXT, "description": "What the outcomes near the prompt speak for."},
        "models": _list(model),
        "nearest": _list(near),
        "without": _list(without),
        "decisive": {"type": "array", "items": _TEXT, "description": "Sources without which `choice` would differ."},
    }
    return {"Audit": {"type": "object", "required": list(properties), "properties": properties}}


def paths() -> Schema:
    """Return the paths."""
    answer = {"schema": {"$ref": "#/components/schemas/Audit"}}
    wrong = {"schema": {"$ref": "#/components/schemas/Error"}}
    return {
        "/admin/audit/{request_id}": {
            "get": {
                "operationId": "auditRequest",
                "summary": "Say which outcomes drove a decision, and whose they are.",
                "tags": ["admin"],
                "parameters": [{"name": "request_id", "in": "path", "required": True, "schema": {"type": "string"}}],
                "responses": {
                    "200": {"description": "The audit.", "content": {"application/json": answer}},
                    **{
                        str(code): {"description": text, "content": {"application/json": wrong}}
                        for code, text in _ERRORS.items()
                    },
                },
            }
        }
    }


def _list(properties: Schema) -> Schema:
    return {"type": "array", "items": {"type": "object", "required": list(properties), "properties": properties}}
