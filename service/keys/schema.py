"""The admin routes in the OpenAPI document."""

from __future__ import annotations

from typing import Any

from service.keys.manager import DEFAULT_GRACE_S, LARGEST_PAGE, LONGEST_GRACE_S
from service.keys.principal import PROMPTS, SCOPES
from service.keys.token import ID_LENGTH
from service.keys.wanted import PERIODS

Schema = dict[str, Any]

_KEY, _NEW_KEY, _KEYS = "Key", "NewKey", "Keys"
_LARGEST = 10**12
_ERRORS = {
    400: "A field is wrong; `param` names it.",
    401: "No key, or one that does not hold.",
    403: "The key lacks the scope admin.",
    404: "There is no such key, or this gateway has no keys.",
    408: "The body did not arrive in time.",
    409: "The key is revoked.",
    413: "The body is too large.",
    429: "Too many wrong keys came from this address.",
    500: "A fault of the gateway.",
    503: "The store of keys fails.",
}
_OF_BODY = (400, 408, 413)
_ID_PATTERN = f"^[0-9A-Za-z]{{{ID_LENGTH}}}$"
_NAME_PATTERN = "^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}$"
_MODEL_PATTERN = "^[A-Za-z0-9*][A-Za-z0-9._:/@+*-]{0,127}$"
_AT_LEAST_ONE: Schema = {"type": ["integer", "null"], "minimum": 1, "maximum": _LARGEST}
_SCOPES: Schema = {"type": "array", "items": {"enum": list(SCOPES)}, "minItems": 1, "description": "admin implies all."}
_NAME: Schema = {
    "type": "string",
    "format": "printable",
    "minLength": 1,
    "maxLength": 128,
    "description": "For people; printable, and not blank.",
}
_LIMITS: Schema = {
    "type": ["object", "null"],
    "properties": {
        "rpm": _AT_LEAST_ONE,
        "tpm": _AT_LEAST_ONE,
        "concurrency": _AT_LEAST_ONE,
        "budget_usd": {"type": ["number", "null"], "minimum": 0, "maximum": _LARGEST},
        "budget_period": {"enum": [*PERIODS, None]},
    },
    "additionalProperties": False,
}
_METADATA: Schema = {
    "type": ["object", "null"],
    "maxProperties": 16,
    "propertyNames": {"minLength": 1, "maxLength": 64},
    "additionalProperties": {"type": ["string", "null"], "maxLength": 512},
}
_FIELDS: Schema = {
    "name": _NAME,
    "team": {"type": ["string", "null"], "pattern": _NAME_PATTERN, "description": "Whose limits apply too."},
    "scopes": _SCOPES,
    "models": {
        "type": ["array", "null"],
        "items": {"type": "string", "pattern": _MODEL_PATTERN},
        "minItems": 1,
        "maxItems": 1000,
        "description": "Pool names; * stands for any characters. null allows all.",
    },
    "limits": _LIMITS,
    "metadata": _METADATA,
    "expires": {
        "anyOf": [
            {"type": "null"},
            {"type": "string", "format": "moment"},
            {"type": "number", "exclusiveMaximum": _LARGEST},
        ],
        "description": "A duration (30d), an ISO date, or seconds since the epoch; in the future.",
    },
    "explore": {"type": "boolean", "description": "Whether chance may choose models for it, to learn from that."},
    "prompts": {
        "enum": [*PROMPTS, None],
        "description": "What the log keeps of its prompts; null is what the gateway keeps (log.prompts).",
    },
}


def schemas() -> dict[str, Schema]:
    """Return the schemas that `paths` refers to, besides ``Error``."""
    moment: Schema = {"type": ["number", "null"]}
    key: Schema = {
        "type": "object",
        "required": ["id", "object", "name", "state", "created", "scopes", "models", "limits", "metadata"],
        "properties": {
            "object": {"const": "key"},
            "id": {"type": "string", "pattern": _ID_PATTERN},
            "name": {"type": "string"},
            "team": {"type": ["string", "null"]},
            "state": {"enum": ["active", "expired", "revoked"]},
            "scopes": {"type": "array", "items": {"enum": list(SCOPES)}},
            "models": {"type": ["array", "null"], "items": {"type": "string"}},
            "limits": {"type": "object"},
            "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
            "created": {"type": "number", "description": "Seconds since the epoch, as all times here."},
            **dict.fromkeys(("expires", "revoked", "rotated", "previous_until"), moment),
            "explore": {"type": "boolean"},
            "prompts": {"enum": [*PROMPTS, None]},
            "last_used": {**moment, "description": "About; it is written late."},
            "token": {"type": "string", "description": "Only in the answer that made it."},
            "usage": {"type": "object", "description": "What it has used; only of a single key with limits."},
        },
    }
    wanted = {
        **_FIELDS,
        "scopes": {**_SCOPES, "type": ["array", "null"]},
        "explore": {**_FIELDS["explore"], "type": ["boolean", "null"]},
    }
    return {
        _KEY: key,
        _NEW_KEY: {"type": "object", "required": ["name"], "properties": wanted, "additionalProperties": False},
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
    after = {"type": "string", "pattern": _ID_PATTERN}
    listing = [
        {"name": "limit", "in": "query", "schema": limit},
        {"name": "after", "in": "query", "schema": after, "description": "`last_id` of the page before."},
    ]
    one_key = {
        name: {"operationId": name, "parameters": {"key_id": "$response.body#/id"}}
        for name in ("getKey", "updateKey", "rotateKey", "revokeKey")
    }
    listed = _operation("listKeys", "List keys, oldest first.", _KEYS, further=(400,))
    made = _operation(
        "createKey",
        "Make a key; its token is shown in this answer only.",
        _KEY,
        201,
        body=_body(_ref(_NEW_KEY)),
        further=_OF_BODY,
    )
    made["responses"]["201"]["links"] = one_key
    return {
        "/admin/keys": {
            "get": {**listed, "parameters": listing},
            "post": made,
        },
        "/admin/keys/{key_id}": {
            **one,
            "get": _operation("getKey", "Return a key, with what it has used.", _KEY),
            "patch": _operation(
                "updateKey", "Change a key.", _KEY, body=_body(_ref("KeyChanges")), further=(*_OF_BODY, 409)
            ),
            "delete": _operation("revokeKey", "Revoke a key for good; it stays on record.", _KEY),
        },
        "/admin/keys/{key_id}/rotate": {
            **one,
            "post": _operation(
                "rotateKey",
                "Give a key a new token, shown in this answer only.",
                _KEY,
                body=_body(_rotation(), required=False),
                further=(*_OF_BODY, 409),
            ),
        },
    }


def _rotation() -> Schema:
    grace = {
        "anyOf": [
            {"type": "number", "minimum": 0, "maximum": LONGEST_GRACE_S},
            {"type": "string", "format": "duration-up-to-30d"},
        ],
        "description": f"How long the old token holds: seconds up to {LONGEST_GRACE_S:.0f}, or a duration such as 24h.",
        "default": DEFAULT_GRACE_S,
    }
    return {"type": "object", "properties": {"grace_s": grace}, "additionalProperties": False}


def _operation(
    name: str,
    summary: str,
    answer: str,
    status: int = 200,
    *,
    body: Schema | None = None,
    further: tuple[int, ...] = (),
) -> Schema:
    statuses = sorted({401, 403, 404, 429, 500, 503, *further})
    operation: Schema = {
        "operationId": name,
        "summary": summary,
        "tags": ["admin"],
        "responses": {
            str(status): _json(_ref(answer), "Done."),
            **{str(code): _json(_ref("Error"), _ERRORS[code]) for code in statuses},
        },
    }
    if body is not None:
        operation["requestBody"] = body
    return operation


def _body(schema: Schema, *, required: bool = True) -> Schema:
    return {"required": required, "content": {"application/json": {"schema": schema}}}


def _json(schema: Schema, description: str) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
