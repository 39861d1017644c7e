"""The routes of the learning loop in the OpenAPI document."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

_LEARNING = "Learning"
_ERRORS = {
    401: "No key, or one that does not hold.",
    403: "The key lacks the scope admin.",
    404: "There is no canary, or this gateway has no keys.",
    409: "The canary was rolled back, or the live artifact is no link that could be set to it.",
    429: "Too many wrong keys came from this address.",
    500: "A fault of the gateway.",
    503: "The store of keys or of outcomes fails.",
}


def schemas() -> dict[str, Schema]:
    """Return the schemas that `paths` refers to, besides ``Error``."""
    part: Schema = {"type": ["object", "null"]}
    return {
        _LEARNING: {
            "type": "object",
            "required": ["object", "artifact", "router", "policy"],
            "properties": {
                "object": {"const": "learning"},
                "artifact": {"type": "string", "description": "The live artifact of this replica."},
                "router": {"type": "string"},
                "policy": {"type": "string"},
                "explore": {**part, "description": "Requests explored, and what that cost."},
                "shadow": {**part, "description": "How often it would have chosen another model."},
                "canary": {**part, "description": "How the trial stands, with what its guards know."},
            },
        }
    }


def paths() -> Schema:
    """Return the paths."""
    posts = {
        "rollback": ("rollbackCanary", "Take the canary back, in every replica.", (401, 403, 404, 429, 500, 503)),
        "promote": ("promoteCanary", "Let the canary decide for everybody.", (401, 403, 404, 409, 429, 500, 503)),
        "restart": ("restartCanary", "Begin the trial anew.", (401, 403, 404, 429, 500, 503)),
    }
    return {
        "/admin/learning": {
            "get": _operation("getLearning", "Say how the learning loop stands.", (401, 403, 404, 429, 500, 503))
        },
        **{f"/admin/learning/canary/{name}": {"post": _operation(*post)} for name, post in posts.items()},
    }


def _operation(name: str, summary: str, statuses: tuple[int, ...]) -> Schema:
    answer = {"schema": {"$ref": f"#/components/schemas/{_LEARNING}"}}
    wrong = {"schema": {"$ref": "#/components/schemas/Error"}}
    return {
        "operationId": name,
        "summary": summary,
        "tags": ["admin"],
        "responses": {
            "200": {"description": "Done.", "content": {"application/json": answer}},
            **{str(code): {"description": _ERRORS[code], "content": {"application/json": wrong}} for code in statuses},
        },
    }
