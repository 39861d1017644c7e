"""What is wrong with a JSON schema, and where in it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

MAX_SCHEMA_BYTES = 64 * 1024
MAX_SCHEMA_DEPTH = 40
# Remainders are states of an automaton: ten times as many take minutes to build, during which nothing can stop it.
MAX_MULTIPLE = 100_000
_SEARCH_S = 1.0  # for the place of an error; what is found until then is named

_NAMED = ("$defs", "definitions", "properties", "patternProperties", "dependentSchemas")
_LISTED = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "contains", "propertyNames", "not", "if", "then", "else")

Child = tuple[str, Any]


def schema_fault(schema: Any) -> str | None:
    """Return what makes a schema unusable before it is compiled, with place and remedy, or None."""
    if not isinstance(schema, Mapping):
        return f"schema is {_short(schema)}; it must be an object such as {{'type': 'object', 'properties': ...}}"
    if _deeper_than(schema, MAX_SCHEMA_DEPTH):
        return f"schema is nested more than {MAX_SCHEMA_DEPTH} levels deep; move the inner parts to $defs"
    try:
        size = len(json.dumps(schema, allow_nan=False).encode())
    except (TypeError, ValueError) as error:
        return f"schema is no JSON: {error}; give strings, numbers, booleans, null, lists and objects only"
    if size > MAX_SCHEMA_BYTES:
        return f"schema has {size} bytes of JSON; at most {MAX_SCHEMA_BYTES} are taken, so leave out descriptions"
    return _multiple_fault(schema)


def place_of_error(schema: Mapping[str, Any], error_of: Callable[[Mapping[str, Any]], str]) -> str:
    """Return the innermost part of `schema` that alone has the same error, as in ``schema.properties.age``.

    Parameters
    ----------
    schema : mapping
        A schema that does not compile.
    error_of : callable
        Returns the compiler's error for a schema, "" for none.
    """
    shared = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
    error, place, part, ends = error_of(schema), "schema", schema, time.monotonic() + _SEARCH_S
    while True:
        for step, child in _children(part):
            if time.monotonic() > ends:
                return place
            if not isinstance(child, Mapping):
                continue
            if error_of({**shared, **child}) == error:
                place, part = f"{place}{step}", child
                break
        else:
            return place


def literals(schema: Any) -> Iterator[str]:
    """Yield the texts that an answer must be able to spell: names of properties, and values of enum and const."""
    if isinstance(schema, list):
        for entry in schema:
            yield from literals(entry)
    if not isinstance(schema, Mapping):
        return
    properties = schema.get("properties")
    if isinstance(properties, Mapping):
        yield from properties
    for value in (schema.get("enum"), schema.get("const")):
        if value is not None:
            yield json.dumps(value, ensure_ascii=False)
    for keyword, value in schema.items():
        if keyword in _NAMED and isinstance(value, Mapping):
            for child in value.values():
                yield from literals(child)
        elif keyword in _LISTED or keyword in _SINGLE:
            yield from literals(value)


def _children(part: Mapping[str, Any]) -> Iterator[Child]:
    for keyword in _NAMED:
        named = part.get(keyword)
        if isinstance(named, Mapping):
            yield from ((f".{keyword}.{name}", child) for name, child in named.items())
    for keyword in _LISTED:
        listed = part.get(keyword)
        if isinstance(listed, list):
            yield from ((f".{keyword}[{index}]", child) for index, child in enumerate(listed))
    for keyword in _SINGLE:
        if keyword in part:
            yield f".{keyword}", part[keyword]


def _deeper_than(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, Mapping | list)
            for inner in (outer.values() if isinstance(outer, Mapping) else outer)
        ]
        if not level:
            return False
    return True


def _multiple_fault(schema: Any) -> str | None:
    common = None
    for place, value in _numbers(schema, "schema"):
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            return f"{place}.multipleOf is {_short(value)}; it must be a number above 0"
        fraction = Fraction(str(value))
        common = fraction if common is None else _common_multiple(common, fraction)
        if common.numerator > MAX_MULTIPLE:
            return (
                f"{place}.multipleOf is {_short(value)}; the values of multipleOf in a schema may have a common "
                f"multiple of up to {MAX_MULTIPLE}. Give a smaller one"
            )
    return None


def _numbers(part: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(part, Mapping):
        if "multipleOf" in part:
            yield place, part["multipleOf"]
        for step, child in _children(part):
            yield from _numbers(child, f"{place}{step}")


def _common_multiple(one: Fraction, other: Fraction) -> Fraction:
    """Return the least common multiple counted in their common unit, as a whole number."""
    unit = math.lcm(one.denominator, other.denominator)
    return Fraction(math.lcm(int(one * unit), int(other * unit)))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
