"""The admin routes in the OpenAPI document."""

from __future__ import annotations

from typing import Any

from service.keys.manager import DEFAULT_GRACE_S, LARGEST_PAGE, LONGEST_GRACE_S
from service.keys.principal import SCOPES
from service.keys.wanted import PERIODS

Schema = dict[str, Any]

_KEY, _NEW_KEY, _KEYS = "Key", "NewKey", "Keys"
_POSITIVE: Schema = {"type": ["integer", "null"], "minimum": 1}
_ERRORS = {
    400: "A field is wrong; `param` names it.",
    401: "No key, or one that does not hold.",
    403: "The key lacks the scope admin.",
    404: "There is no such key, or this gateway has no keys.",
    409: "The key is revoked.",
    413: "The body is too large.",
    429: "Too many wrong keys came from this address.",
    503: "The store of keys fails.",
}
_FIELDS: Schema = {
    "name": {"type": "string", "minLength": 1, "maxLength": 128, "description": "Printable; for people."},
    "team": {"type": ["string", "null"], "description": "Whose limits apply too."},
    "scopes": {"type": "array", "items": {"enum": list(SCOPES)}, "minItems": 1, "description": "admin implies all."},
    "models": {
        "type": ["array", "null"],
        "items": {"type": "string"},
        "minItems": 1,
        "description": "Pool names; * stands for any characters. null allows all.",
    },
    "limits": {
        "type": ["object", "null"],
        "properties": {
            "rpm": _POSITIVE,
            "tpm": _POSITIVE,
            "concurrency": _POSITIVE,
            "budget_usd": {"type": ["number", "null"], "minimum": 0},
            "budget_period": {"enum": [*PERIODS, None]},
        },
        "additionalProperties": False,
    },
    "metadata": {"type": ["object", "null"], "additionalProperties": {"type": ["string", "null"]}},
    "expires": {
        "type": ["string", "number", "null"],
        "description": "A duration (30d), an ISO date, or seconds since the epoch.",
    },
}


def schemas() -> dict[str, Schema]:
    """Return the schemas that `paths` refers to, besides ``Error``."""
    key: Schema = {
        "type": "object",
        "required": ["id", "name", "state", "created", "scopes"],
        "properties": {
            "id": {"type": "string"},
            "name": {"type": "string"},
            "state": {"enum": ["active", "expired", "revoked"]},
            "created": {"type": "number", "description": "Seconds since the epoch, as all times here."},
            "scopes": {"type": "array", "items": {"enum": list(SCOPES)}},
            "token": {"type": "string", "description": "Only in the answer that made it."},
        },
    }
    return {
        _KEY: key,
        _NEW_KEY: {"type": "object", "required": ["name"], "properties": _FIELDS, "additionalProperties": False},
        "KeyChanges": {"type": "object", "properties": _FIELDS, "additionalProperties": False},
        _KEYS: {
            "type": "object",
            "required": ["object", "data", "has_more", "last_id"],
            "properties": {
                "object": {"const": "list"},
                "data": {"type": "array", "items": _ref(_KEY)},
                "has_more": {"type": "boolean"},
                "last_id": {"type": ["string", "null"]},
            },
        },
    }


def paths() -> Schema:
    """Return the paths of the admin routes."""
    one = {"parameters": [{"name": "key_id", "in": "path", "required": True, "schema": {"type": "string"}}]}
    limit = {"type": "integer", "minimum": 1, "maximum": LARGEST_PAGE, "default": 100}
    listing = [
        {"name": "limit", "in": "query", "schema": limit},
        {"name": "after", "in": "query", "schema": {"type": "string"}, "description": "`last_id` of the page before."},
    ]
    return {
        "/admin/keys": {
            "get": {**_operation("List keys, oldest first.", _KEYS), "parameters": listing},
            "post": _operation("Make a key; its token is shown in this answer only.", _KEY, 201, body=_ref(_NEW_KEY)),
        },
        "/admin/keys/{key_id}": {
            **one,
            "get": _operation("Return a key, with what it has used.", _KEY),
            "patch": _operation("Change a key.", _KEY, body=_ref("KeyChanges")),
            "delete": _operation("Revoke a key for good.", _KEY),
        },
        "/admin/keys/{key_id}/rotate": {
            **one,
            "post": _operation("Give a key a new token, shown in this answer only.", _KEY, body=_rotation()),
        },
    }


def _rotation() -> Schema:
    grace = {
        "type": ["number", "string"],
        "description": f"How long the old token holds: seconds up to {LONGEST_GRACE_S:.0f}, or a duration such as 24h.",
        "default": DEFAULT_GRACE_S,
    }
    return {"type": "object", "properties": {"grace_s": grace}, "additionalProperties": False}


def _operation(summary: str, answer: str, status: int = 200, *, body: Schema | None = None) -> Schema:
    responses = {str(code): _json(_ref("Error"), description) for code, description in _ERRORS.items()}
    operation: Schema = {
        "summary": summary,
        "tags": ["admin"],
        "responses": {str(status): _json(_ref(answer), "Done."), **responses},
    }
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return operation


def _json(schema: Schema, description: str) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
