"""Checks of request bodies. Errors name the client's own field, in OpenAI's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from service.body import json_kind
from service.errors import APIError

NUMBER, INTEGER, BOOLEAN = "a number", "an integer", "a boolean"
STRING, ARRAY, OBJECT = "a string", "an array", "an object"


def missing(param: str) -> APIError:
    """Return the error for a field that must be there."""
    return APIError(f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")


def wrong_type(param: str, expected: str, value: object) -> APIError:
    """Return the error for a value of the wrong type."""
    return APIError(
        f"Invalid type for '{param}': expected {expected}, but got {json_kind(value)} instead.",
        param=param,
        code="invalid_type",
    )


def wrong_value(param: str, value: object, allowed: Sequence[str]) -> APIError:
    """Return the error for a value that is none of the allowed ones."""
    return APIError(
        f"Invalid value for '{param}': {_quoted(value)}. Supported values are: {', '.join(map(repr, allowed))}.",
        param=param,
        code="invalid_value",
    )


def unsupported(param: str, message: str, *, code: str = "unsupported_parameter") -> APIError:
    """Return the error for what this gateway cannot do; `message` says what to do instead."""
    return APIError(message, param=param, code=code)


def require(mapping: Mapping[str, Any], name: str, kind: str, where: str = "") -> Any:
    """Return a field that must be there and of type `kind`; `where` is the path of `mapping`, "" for the body.

    Raises
    ------
    APIError
        If it is missing, null or of another type.
    """
    param = f"{where}.{name}" if where else name
    value = mapping.get(name)
    if value is None:
        raise missing(param)
    return expect(value, kind, param)


def optional(mapping: Mapping[str, Any], name: str, kind: str, where: str = "") -> Any:
    """Return a field of type `kind`, or None where it is missing or null.

    Raises
    ------
    APIError
        If it is of another type.
    """
    value = mapping.get(name)
    return None if value is None else expect(value, kind, f"{where}.{name}" if where else name)


def expect(value: Any, kind: str, param: str) -> Any:
    """Return `value` if it is of type `kind`.

    Raises
    ------
    APIError
        If it is not.
    """
    if not is_kind(value, kind):
        raise wrong_type(param, kind, value)
    return value


def is_kind(value: object, kind: str) -> bool:
    """Return whether a value is of a type, given in the words of `json_kind` or as an integer."""
    if kind == INTEGER:
        return isinstance(value, int) and not isinstance(value, bool)
    return json_kind(value) == kind


def check_types(body: Mapping[str, Any], types: Mapping[str, tuple[str, ...]]) -> None:
    """Check the types of fields; null is always allowed.

    Raises
    ------
    APIError
        For the first field of another type.
    """
    for name, kinds in types.items():
        value = body.get(name)
        if value is not None and not any(is_kind(value, kind) for kind in kinds):
            raise wrong_type(name, " or ".join(kinds), value)


def check_at_least_one(name: str, value: int | None) -> None:
    """Check a count.

    Raises
    ------
    APIError
        If it is below one.
    """
    if value is not None and value < 1:
        raise APIError(
            f"Invalid '{name}': expected a value of at least 1, but got {value}.",
            param=name,
            code="integer_below_min_value",
        )


def check_single_choice(body: Mapping[str, Any], dialect: str) -> None:
    """Check that a request asks for one answer, where the dialect has room for one only.

    Raises
    ------
    APIError
        If `n` is anything else.
    """
    if body.get("n") not in (None, 1):
        raise unsupported(
            "n", f"'n' is not supported by {dialect}: an answer has one choice. Send the request several times."
        )


def to_json(value: object, param: str) -> str:
    """Return `value` as JSON text.

    Raises
    ------
    APIError
        If it is nested too deeply.
    """
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        raise APIError(
            f"Invalid '{param}': it cannot be written as JSON; it may be nested too deeply.",
            param=param,
            code="invalid_value",
        ) from None


def _quoted(value: object) -> str:
    """Return a value for an error message, shortened; what a client sends may be long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
