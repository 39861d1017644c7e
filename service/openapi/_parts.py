"""Parts that the whole document is put together from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.chat import ALIASES, field_types

Schema = dict[str, Any]

# Larger whole numbers are read as floating-point ones, and refused where a whole one is wanted.
_SMALLEST, _LARGEST = -(2**63), 2**64 - 1

_JSON_TYPES = {
    "a number": "number",
    "an integer": "integer",
    "a boolean": "boolean",
    "a string": "string",
    "an array": "array",
    "an object": "object",
}
_SPECIAL = frozenset(".^$*+?()[]{}|\\/")

ERRORS: Mapping[int, str] = {
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
ALWAYS = (401, 403, 429, 500, 503)
"""What any operation may answer that asks for a key."""

WITH_BODY = (400, *ALWAYS, 408, 413)
"""And one that takes a body."""


@dataclass(frozen=True, slots=True)
class Names:
    """What a gateway's own document names.

    Attributes
    ----------
    pool : tuple of str
        Models that answer chats.
    embedders : tuple of str
        Models that embed.
    router : str
        Registry name of the router.
    verifiers : tuple of str
        Kinds of verifiers that a request may bring along.
    """

    pool: tuple[str, ...] = ()
    embedders: tuple[str, ...] = ()
    router: str = ""
    verifiers: tuple[str, ...] = ("exact", "json_schema", "numeric", "regex")

    def model(self) -> Schema:
        """Return the schema of ``model`` in a request that can be routed."""
        if not self.pool:
            return {"type": "string"}
        router = "".join(f"\\{letter}" if letter in _SPECIAL else letter for letter in self.router)
        weight = r"[0-9]{1,9}(\.[0-9]{1,9})?([eE][+-]?[0-9]{1,2})?"
        return {
            "anyOf": [
                {"enum": [*ALIASES, *self.pool]},
                {"type": "string", "pattern": f"^router-{router}-{weight}$"},
            ],
            "description": "One of the pool, or an alias that routes; the pattern ends in a cost weight.",
        }


def ref(name: str) -> Schema:
    """Return a reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def parameter_ref(name: str) -> Schema:
    """Return a reference to a parameter of the document."""
    return {"$ref": f"#/components/parameters/{name}"}


def json(schema: Schema, description: str) -> Schema:
    """Return an answer in JSON."""
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def errors(statuses: Iterable[int], *, schema: str = "Error") -> Schema:
    """Return the answers with these statuses."""
    return {str(status): json(ref(schema), ERRORS[status]) for status in statuses}


def operation(
    name: str,
    summary: str,
    *,
    answers: Schema,
    body: Schema | None = None,
    parameters: Sequence[Schema] = (),
    is_open: bool = False,
) -> Schema:
    """Return an operation.

    Parameters
    ----------
    name : str
        Of the operation, for programs that are made from the document.
    summary : str
        For people.
    answers : dict
        Status -> answer.
    body : dict, optional
        Schema of the request's body.
    parameters : sequence of dict
        Of path, query and headers.
    is_open : bool
        Whether it asks for no key.
    """
    described: Schema = {"operationId": name, "summary": summary, "responses": answers}
    if body is not None:
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    if parameters:
        described["parameters"] = list(parameters)
    if is_open:
        described["security"] = []
    return described


# Schemas of values


def whole(*, least: int = _SMALLEST, nullable: bool = True) -> Schema:
    """Return the schema of a whole number."""
    return {"type": ["integer", "null"] if nullable else "integer", "minimum": least, "maximum": _LARGEST}


def nullable(kind: str, **further: Any) -> Schema:
    """Return the schema of a JSON type or null."""
    return {"type": [kind, "null"], **further}


def typed(types: Sequence[str]) -> Schema:
    """Return the schema of a field by its types in JSON's words; null is always allowed."""
    kinds = [_JSON_TYPES[kind] for kind in types]
    return whole() if kinds == ["integer"] else {"type": [*kinds, "null"]}


def object_of(required: Mapping[str, Any], **properties: Any) -> Schema:
    """Return the schema of an object; a type's name stands for the type."""
    given = {**required, **properties}
    return {
        "type": "object",
        "required": list(required),
        "properties": {name: {"type": kind} if isinstance(kind, str) else kind for name, kind in given.items()},
    }


def array_of(items: Schema, **further: Any) -> Schema:
    """Return the schema of an array."""
    return {"type": "array", "items": items, **further}


def chat_settings(*, but: Iterable[str] = ()) -> Schema:
    """Return the fields of a chat completion that go with a request as they are, without those that mean another thing.

    Parameters
    ----------
    but : iterable of str
        Left out.
    """
    properties = {name: typed(types) for name, types in field_types().items()}
    for name in ("max_completion_tokens", "max_tokens", "n"):
        properties[name] = whole(least=1)
    return {name: schema for name, schema in properties.items() if name not in frozenset(but)}


def request_of(names: Names, required: Mapping[str, Any], properties: Schema) -> Schema:
    """Return the schema of a request that can be routed; fields that it does not name are the upstream's business."""
    return object_of({"model": names.model(), **required}, **properties, llmrouter=ref("Control"))
