"""What is wrong with a configuration, said so that it can be mended: path, value, allowed values, nearest name."""

from __future__ import annotations

import difflib
import inspect
import re
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from llmrouter.exceptions import ConfigError
from service.config_file import Path, at, dotted

_SECRET_KEY = re.compile(
    r"key|(?<!per_)token(?!s?_per)|secret|password|credential|authorization|headers", re.IGNORECASE
)
_URL_CREDENTIALS = re.compile(r"(://)[^/@\s]+@")
_LONGEST_VALUE = 80
_PATTERNS = {
    "name": "must start with a letter or digit and hold only letters, digits and . _ : / @ + -",
    "base_url": "must be a URL that starts with http:// or https://",
}


def as_config_error(problems: Mapping[Path, str], *, source: str) -> ConfigError:
    """Return one error that lists every problem."""
    lines = sorted(f"{dotted(path)}: {message}" for path, message in problems.items())
    count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
    return ConfigError("\n  ".join([f"{source} has {count}", *lines]))


def of_validation(
    error: ValidationError, model: type[BaseModel], written: Any, *, prefix: Path = ()
) -> dict[Path, str]:
    """Translate pydantic's problems.

    Parameters
    ----------
    error : ValidationError
        Raised by `model`.
    model : type
        What was validated: the configuration, or the part of it at `prefix`.
    written : Any
        The whole tree as the user wrote it, variables not put in: the values that are shown come from it.
    prefix : tuple
        Where in the whole the validated part is.
    """
    found: dict[Path, str] = {}
    for problem in error.errors(include_url=False, include_input=False):
        path = _without_branches((*prefix, *problem["loc"]), written)
        section = model_at(model, path[len(prefix) : -1])
        found.setdefault(path, _message(problem, path, section, written))
    return found


def nearest(name: object, allowed: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` where a name is near, else ``""``."""
    close = difflib.get_close_matches(str(name), list(allowed), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def shown(value: Any, path: Path) -> str:
    """Return a value as it may appear in a message: secrets (alone or in a list) are not shown, long ones are cut."""
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    if any(isinstance(part, str) and _SECRET_KEY.search(part) for part in path):
        return "(hidden)"
    text = _URL_CREDENTIALS.sub(r"\1(hidden)@", repr(value))
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."


def _message(problem: Any, path: Path, section: type[BaseModel] | None, written: Any) -> str:
    kind, context = problem["type"], problem.get("ctx", {})
    value = f"; got {shown(at(written, path), path)}"
    if kind == "extra_forbidden":
        allowed = sorted(section.model_fields) if section else []
        return f"unknown key; allowed: {', '.join(allowed)}{nearest(path[-1], allowed)}"
    if kind == "missing":
        return "is required"
    if kind in ("literal_error", "enum"):
        allowed_text = str(context["expected"])
        names = re.findall(r"'([^']*)'", allowed_text)
        return f"must be {allowed_text}{value}{nearest(at(written, path), names)}"
    if kind == "value_error":
        return str(context["error"])
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"must be a mapping{value}"
    if kind in ("tuple_type", "frozen_set_type", "list_type"):
        return f"must be a list{value}"
    if kind == "string_pattern_mismatch" and path[-1] in _PATTERNS:
        return _PATTERNS[str(path[-1])] + value
    text = str(problem["msg"])
    return text[0].lower() + text[1:].rstrip(".") + value


def _without_branches(path: Path, written: Any) -> Path:
    """Drop parts of pydantic's location that are no keys of the tree (branches of a union)."""
    kept: list[str | int] = []
    for position, part in enumerate(path):
        here = at(written, tuple(kept))
        last = position == len(path) - 1
        known = isinstance(part, int) or (isinstance(here, dict) and (part in here or last))
        if known:
            kept.append(part)
    return tuple(kept)


def model_at(model: type[BaseModel], path: Path) -> type[BaseModel] | None:
    """Return the settings class of the section at `path` below `model`, found by walking the annotations."""
    current: type[BaseModel] | None = model
    for part in path:
        # The annotation of a list names the class of its elements, so positions lead nowhere else.
        if current is None or isinstance(part, int):
            continue
        field = current.model_fields.get(part)
        current = _section_in(field.annotation) if field else None
    return current


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """Return the settings class in an annotation such as ``tuple[X, ...]`` or ``X | None``."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return annotation
    for part in typing.get_args(annotation):
        if section := _section_in(part):
            return section
    return None
