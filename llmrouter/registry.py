"""Names for implementations: ``kind, name -> "module:Class"``, imported when chosen.

Built-in names are listed below; other distributions add theirs through entry points in the group
``llmrouter.<kind>`` (e.g. ``llmrouter.router``). A new router is one file and one line here.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any, Literal, get_args

from llmrouter.exceptions import ConfigError

Kind = Literal["encoder", "index", "router", "policy", "bound", "store", "backend"]

_BUILTIN: Mapping[Kind, Mapping[str, str]] = {
    "encoder": {
        "static": "llmrouter.encoders._static:StaticEncoder",
        "onnx": "llmrouter.encoders._onnx:OnnxEncoder",
        "sentence-transformers": "llmrouter.encoders._sentence_transformers:SentenceTransformersEncoder",
    },
    "index": {
        "exact": "llmrouter.index._exact:ExactIndex",
        "faiss-flat": "llmrouter.index._faiss:FaissFlatIndex",
    },
    "router": {
        "knn": "llmrouter.routers._knn:KNNRouter",
        "random": "llmrouter.routers._baselines:RandomRouter",
        "mean": "llmrouter.routers._baselines:MeanRouter",
        "cheapest": "llmrouter.routers._baselines:CheapestRouter",
        "best-single": "llmrouter.routers._baselines:BestSingleRouter",
    },
    "policy": {
        "utility": "llmrouter.policy._utility:UtilityPolicy",
    },
    "bound": {
        "oracle": "llmrouter.evaluation._bounds:Oracle",
        "zero": "llmrouter.evaluation._bounds:ZeroRouter",
    },
    "store": {
        "sqlite": "llmrouter.outcomes._sqlite:SQLiteOutcomeStore",
        "memory": "llmrouter.outcomes._memory:MemoryOutcomeStore",
    },
    "backend": {
        "openai": "llmrouter.pool._openai:OpenAIBackend",
        "litellm": "llmrouter.pool._litellm:LiteLLMBackend",
        "scripted": "llmrouter.pool._scripted:ScriptedBackend",
    },
}


@lru_cache
def _targets(kind: Kind) -> Mapping[str, str]:
    if kind not in get_args(Kind):
        raise ConfigError(f"unknown registry kind {kind!r}; one of {', '.join(get_args(Kind))}")
    plugins = {point.name: point.value for point in entry_points(group=f"llmrouter.{kind}")}
    return {**plugins, **_BUILTIN[kind]}


def available(kind: Kind) -> tuple[str, ...]:
    """Return the names registered for `kind`, sorted."""
    return tuple(sorted(_targets(kind)))


def resolve(kind: Kind, name: str) -> type[Any]:
    """Import and return the class registered as `name`.

    Raises
    ------
    ConfigError
        If the name is unknown; the message lists the known ones.
    """
    target = _targets(kind).get(name)
    if target is None:
        raise ConfigError(f"unknown {kind} {name!r}; one of {', '.join(available(kind))}")
    module_name, _, class_name = target.partition(":")
    loaded: type[Any] = getattr(importlib.import_module(module_name), class_name)
    return loaded


def create(kind: Kind, name: str, /, **parameters: Any) -> Any:
    """Construct the implementation registered as `name` with `parameters`.

    Raises
    ------
    ConfigError
        If the name or a parameter is unknown.
    """
    implementation = resolve(kind, name)
    try:
        return implementation(**parameters)
    except TypeError as error:
        raise ConfigError(f"{kind} {name!r}: {error}") from error


def parse_spec(spec: str) -> tuple[str, dict[str, Any]]:
    """Split ``"knn:k=40,shrinkage=5"`` into ``("knn", {"k": 40, "shrinkage": 5})``.

    Values are Python literals where they parse as such, else strings.

    Raises
    ------
    ConfigError
        If a parameter has no ``=``.
    """
    name, _, rest = spec.strip().partition(":")
    parameters: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in rest.split(","))):
        key, separator, text = item.partition("=")
        if not separator or not key.isidentifier():
            raise ConfigError(f"bad parameter {item!r} in {spec!r}; write NAME:key=value,key=value")
        try:
            parameters[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            parameters[key] = text
    return name, parameters
