"""docs/configuration.md, rendered from the classes of the settings and their docstrings.

``python -m service.configuration_page > docs/configuration.md``
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from llmrouter.encoders import chat_text
from llmrouter.pool import Timeouts
from llmrouter.types import ModelCard
from service.pricing_settings import PriceTierSettings
from service.settings import (
    ModelSettings,
    PolicySettings,
    RouterSettings,
    ServerSettings,
    Settings,
    SpeedSettings,
    TimeoutSettings,
)

Schema = Mapping[str, Any]

_HEAD = """\
<!-- made by python -m service.configuration_page; do not edit -->
# Configuration

Every key of the file that `llmrouter serve --config FILE` reads. [Serve](serve.md) shows them at work. A path such as
`pool[].price` is the key `price` of each entry of `pool`; NAME stands for a name of yours. `${NAME}` in any text takes
an environment variable, `${NAME:-default}` has a default, `$$` is a dollar sign. Unknown keys are refused.
"""
# Where a docstring sends its readers to another one.
_ELSEWHERE: Mapping[type[BaseModel], tuple[Any, Mapping[str, str]]] = {
    ModelSettings: (ModelCard, {}),
    TimeoutSettings: (Timeouts, {}),
    RouterSettings: (chat_text, {"text": "mode"}),
}
_PLAIN: Mapping[tuple[type[BaseModel], str], str] = {
    (SpeedSettings, "time_to_first_token_s"): "Seconds.",
    (SpeedSettings, "tokens_per_s"): "Tokens per second after the first.",
    (PolicySettings, "kind"): "The policy's name; [policies](policies.md) lists them with their parameters.",
    (PriceTierSettings, "above_tokens"): "The tier holds for prompts with more tokens.",
    (PriceTierSettings, "input"): "US dollars per million tokens, as all here.",
    (PriceTierSettings, "output"): "Completion tokens.",
    (PriceTierSettings, "cached_input"): "Prompt tokens out of the provider's cache; null is as in shorter prompts.",
    (PriceTierSettings, "cache_write"): "Prompt tokens stored in it; null is as in shorter prompts.",
    (ModelSettings, "base_url"): "The upstream's URL, as a rule up to `/v1`.",
    (ModelSettings, "api_key"): "The upstream's key; it belongs into an environment variable.",
    (ModelSettings, "headers"): "Sent with every call.",
    (ServerSettings, "host"): "Where it listens; beyond loopback only with required keys, or `allow_insecure`.",
    (ServerSettings, "port"): "0 takes a free one.",
    (ServerSettings, "header_timeout_s"): "A client that takes longer to send the head of its request is cut off.",
    (ServerSettings, "body_timeout_s"): "One that takes longer for the body gets 408.",
    (Settings, "learning"): "How the gateway learns from its own traffic; see [learn](learn.md).",
}
_FILLED_IN: Mapping[tuple[type[BaseModel], str], str] = {(ModelSettings, "price"): "what is known"}
_TYPES = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}
_ENTRY = re.compile(r"^(?P<names>\w+(?:, \w+)*)(?: : .*)?$")
_CODE = re.compile(r"``([^`]*)``")
_REFERENCE = re.compile(r"; see `llmrouter[^`]*`")


class _Part(NamedTuple):
    """One class of the settings, and the paths at which it is read."""

    model: type[BaseModel]
    paths: list[str]


def render() -> str:
    """Return the page.

    Raises
    ------
    ValueError
        If a key has no meaning written down.
    """
    parts: dict[type[BaseModel], _Part] = {}
    _collect(Settings, "", parts)
    definitions = Settings.model_json_schema()["$defs"]
    anchors = {part.model.__name__: _anchor(_title(part)) for part in parts.values() if part.paths != [""]}
    pieces = [_HEAD]
    for part in parts.values():
        schema = Settings.model_json_schema() if part.model is Settings else definitions[part.model.__name__]
        pieces.append(_section(part, schema, _Words(definitions, anchors)))
    return "\n".join(pieces)


def _collect(model: type[BaseModel], path: str, parts: dict[type[BaseModel], _Part]) -> None:
    """Add a class and those below it, in the order of their keys."""
    seen = model in parts
    parts.setdefault(model, _Part(model, [])).paths.append(path)
    if seen:
        return
    for name, field in model.model_fields.items():
        for below, suffix in _models_in(field.annotation):
            _collect(below, f"{path}.{name}{suffix}".lstrip("."), parts)


def _models_in(annotation: Any, suffix: str = "") -> Iterator[tuple[type[BaseModel], str]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, suffix
        return
    origin = typing.get_origin(annotation)
    if origin in (tuple, list, frozenset):
        suffix += "[]"
    elif origin is dict:
        suffix += ".NAME"
    for inner in typing.get_args(annotation):
        yield from _models_in(inner, suffix)


def _title(part: _Part) -> str:
    return ", ".join(f"`{path}`" for path in part.paths)


def _anchor(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _section(part: _Part, schema: Schema, words: _Words) -> str:
    summary, meanings = _documented(part.model)
    lines = [] if part.model is Settings else [f"## {_title(part)}", "", _markdown(summary), ""]
    lines += ["| key | value | default | meaning |", "|---|---|---|---|"]
    for name, field in part.model.model_fields.items():
        meaning = _meaning(part.model, name, field, meanings)
        if not meaning:
            raise ValueError(f"{part.model.__name__}.{name} has no meaning in a docstring")
        value = words.of(schema["properties"][name])
        default = _FILLED_IN.get((part.model, name)) or _default(field)
        lines.append(f"| `{name}` | {value} | {default} | {meaning.replace('|', '&#124;')} |")
    return "\n".join([*lines, ""])


def _meaning(model: type[BaseModel], name: str, field: FieldInfo, meanings: Mapping[str, str]) -> str:
    said = _PLAIN.get((model, name)) or meanings.get(name, "")
    if model in _ELSEWHERE and (not said or said.startswith("See `llmrouter")):
        source, names = _ELSEWHERE[model]
        said = _documented(source)[1].get(names.get(name, name), said)
    below = next(_models_in(field.annotation), None)
    if below is not None and (not said or said.startswith("See ")):
        said = _documented(below[0])[0]
    return _markdown(said)


def _documented(source: Any) -> tuple[str, dict[str, str]]:
    """Return the first paragraphs of a numpydoc docstring, and what it says of each attribute or parameter."""
    summary: list[str] = []
    meanings: dict[str, str] = {}
    names: list[str] = []
    section = ""
    lines = inspect.cleandoc(source.__doc__ or "").splitlines() or [""]
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if following.startswith("---"):
            section = line
        elif line.startswith("---"):
            continue
        elif not section:
            summary.append(line)
        elif section in ("Attributes", "Parameters"):
            if entry := _ENTRY.match(line):
                names = entry["names"].split(", ")
            elif line.strip():
                meanings |= {name: f"{meanings.get(name, '')} {line.strip()}".strip() for name in names}
    return " ".join(summary).strip(), meanings


def _markdown(text: str) -> str:
    text = _REFERENCE.sub("", _CODE.sub(r"`\1`", text))
    return re.sub(r"\bNone\b", "null", text)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if isinstance(value, BaseModel):
        return "see there"
    return f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    if isinstance(value, frozenset):
        value = sorted(item.value if isinstance(item, Enum) else item for item in value)
    if isinstance(value, SecretStr):
        raise ValueError("a secret has a default")  # it would be printed
    plain = str(value) if isinstance(value, PurePath) else value
    if isinstance(value, tuple):
        plain = [item.model_dump(mode="json") if isinstance(item, BaseModel) else item for item in value]
    return yaml.safe_dump(plain, default_flow_style=True, width=10_000).removesuffix("\n").removesuffix("\n...")


class _Words:
    """Says in words what JSON schemas allow.

    Parameters
    ----------
    definitions : mapping
        What schemas refer to.
    anchors : mapping of str to str
        Name of a class -> where on the page it is.
    """

    def __init__(self, definitions: Mapping[str, Schema], anchors: Mapping[str, str]) -> None:
        self._definitions = definitions
        self._anchors = anchors

    def of(self, schema: Schema) -> str:
        """Return the words for a schema; that null is allowed shows in the default."""
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            if name in self._anchors:
                return f"[keys](#{self._anchors[name]})"
            return self.of(self._definitions[name])
        if "anyOf" in schema:
            options = [option for option in schema["anyOf"] if option.get("type") != "null"]
            return " or ".join(dict.fromkeys(self.of(option) for option in options))
        if "enum" in schema:
            return ", ".join(f"`{value}`" for value in schema["enum"])
        kind = schema.get("type", "")
        if kind == "array":
            items = schema.get("items") or schema.get("prefixItems", [{}])[0]
            return f"list of {self.of(items)}"
        if kind == "object":
            values = schema.get("additionalProperties")
            return f"mapping of names to {self.of(values)}" if isinstance(values, dict) and values else "mapping"
        if kind == "string":
            return {"password": "secret", "path": "path", "date": "date"}.get(schema.get("format", ""), "text")
        return f"{_TYPES.get(kind, 'nothing')}{_bounds(schema)}"


def _bounds(schema: Schema) -> str:
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high = schema.get("maximum")
    texts = []
    if above is not None:
        texts.append(f"above {above:g}")
    if low is not None:
        texts.append(f"from {low:g}")
    if high is not None:
        texts.append(f"to {high:g}")
    return f" {' '.join(texts)}" if texts else ""


if __name__ == "__main__":
    print(render(), end="")
