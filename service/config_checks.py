"""Checks on the configuration tree that look at several keys, or beyond the file."""

from __future__ import annotations

import inspect
import json
import re
from functools import lru_cache
from pathlib import Path as FilePath
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from llmrouter import registry
from llmrouter.exceptions import ConfigError
from service.config_file import Path
from service.config_problems import nearest, of_validation

RESERVED_NAMES = frozenset({"auto", "llmrouter/auto"})
"""Names that ask for routing; no model may have them."""

ROUTER_ALIAS = re.compile(r"^router-(?P<router>.+?)-(?P<cost_weight>[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)$")
"""``router-<router>-<cost weight>``: routing with that weight."""

_POCKET_CARDS = FilePath(__file__).parent.parent / "llmrouter" / "assets" / "pocket" / "pool.json"
_CARD_KEYS = ("price", "context_window", "capabilities")
_NOT_CONFIGURED = frozenset({"reference_cost_usd", "clock"})  # set by the artifact, and by tests
_NESTED_POLICY = "base"
_DEEPEST_POLICY = 8
_PRICE_REQUIRED = (
    "is required: the price of this model is not known here; write {input: ..., output: ...} in USD per million tokens"
)


def with_known_prices(tree: Any) -> Any:
    """Return the tree with what is known of a model filled in where a pool entry leaves out its price.

    Known are the models of the pocket pool; LiteLLM's price list comes later.
    """
    if not isinstance(tree, dict) or not isinstance(tree.get("pool"), list):
        return tree
    known = pocket_cards()
    pool = []
    for entry in tree["pool"]:
        card = known.get(str(entry.get("model") or entry.get("name"))) if isinstance(entry, dict) else None
        pool.append({**card, **entry} if card and "price" not in entry else entry)
    return {**tree, "pool": pool}


@lru_cache
def pocket_cards() -> dict[str, dict[str, Any]]:
    """Return what ships with the pocket pool: name -> price, context window, capabilities; empty if it was left out."""
    try:
        models = json.loads(_POCKET_CARDS.read_bytes())["models"]
    except FileNotFoundError:
        return {}
    return {model["name"]: {key: model[key] for key in _CARD_KEYS if key in model} for model in models}


def check_pool(tree: Any) -> dict[Path, str]:
    """Return what is wrong between the entries of the pool, and between the keys of one."""
    problems: dict[Path, str] = {}
    entries = tree.get("pool") if isinstance(tree, dict) else None
    seen: dict[str, int] = {}
    if entries == []:
        problems["pool",] = "is empty; it needs at least one model"
    for i, entry in enumerate(entries if isinstance(entries, list) else ()):
        if not isinstance(entry, dict):
            continue
        name = entry.get("name")
        if isinstance(name, str):
            if name in seen:
                problems["pool", i, "name"] = f"{name!r} is the name of pool[{seen[name]}] already; names are unique"
            elif name in RESERVED_NAMES or ROUTER_ALIAS.match(name):
                problems["pool", i, "name"] = f"{name!r} asks for routing and cannot be the name of a model"
            seen.setdefault(name, i)
        problems |= _check_backend(entry, ("pool", i))
        if "price" not in entry:
            problems["pool", i, "price"] = _PRICE_REQUIRED
    return problems


def check_policy(
    section: dict[str, Any], written: Any, *, path: Path = ("policy",)
) -> tuple[dict[str, Any], dict[Path, str]]:
    """Return the policy section with its values converted, and what is wrong with it.

    The keys that a policy takes, and their types, are those of its constructor; where it wraps another policy, `base`
    is checked in the same way.

    Parameters
    ----------
    section : dict
        ``kind`` and parameters.
    written : Any
        The whole tree as the user wrote it.
    path : tuple
        Where in the tree the section is.
    """
    kind = section.get("kind", "utility")
    kinds = registry.available("policy")
    if kind not in kinds:
        return section, {(*path, "kind"): f"must be one of {', '.join(kinds)}; got {kind!r}{nearest(kind, kinds)}"}
    base, problems = _check_base(kind, section, written, path)
    model = _policy_model(kind)
    try:
        checked = model.model_validate(section)
    except ValidationError as error:
        return section, of_validation(error, model, written, prefix=path) | problems
    parameters = {name: getattr(checked, name) for name in checked.model_fields_set - {"kind"}} | base
    if not problems:
        try:
            registry.create("policy", kind, **parameters)
        except ConfigError as error:
            problems[path] = str(error)
    return {"kind": kind, **parameters}, problems


def _check_base(kind: str, section: dict[str, Any], written: Any, path: Path) -> tuple[dict[str, Any], dict[Path, str]]:
    base = section.get(_NESTED_POLICY)
    if not isinstance(base, dict) or _NESTED_POLICY not in _policy_model(kind).model_fields:
        return {}, {}
    if len(path) >= _DEEPEST_POLICY:
        return {}, {(*path, _NESTED_POLICY): f"policies nest at most {_DEEPEST_POLICY} deep"}
    checked, problems = check_policy(base, written, path=(*path, _NESTED_POLICY))
    return {_NESTED_POLICY: checked}, problems


@lru_cache
def _policy_model(kind: str) -> type[BaseModel]:
    implementation = registry.resolve("policy", kind)
    types = get_type_hints(implementation.__init__) | {_NESTED_POLICY: dict[str, Any]}
    fields: dict[str, Any] = {"kind": (str, kind)}
    for name, parameter in inspect.signature(implementation).parameters.items():
        if name not in _NOT_CONFIGURED:
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[name] = (types.get(name, Any), default)
    model: type[BaseModel] = create_model("Policy", __config__=ConfigDict(extra="forbid"), **fields)
    return model


def _check_backend(entry: dict[str, Any], path: Path) -> dict[Path, str]:
    backend = entry.get("backend", "openai")
    backends = registry.available("backend")
    if backend not in backends:
        found = f"must be one of {', '.join(backends)}; got {backend!r}{nearest(backend, backends)}"
        return {(*path, "backend"): found}
    if backend == "openai" and not entry.get("base_url"):
        return {(*path, "base_url"): "is required for the backend 'openai', e.g. https://api.openai.com/v1"}
    return {}
