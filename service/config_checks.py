"""Checks on the configuration tree that look at several keys, or beyond the file."""

from __future__ import annotations

import importlib.util
import inspect
import re
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from llmrouter import registry
from llmrouter.exceptions import ConfigError
from llmrouter.pool import KnownModel, PriceBook, installed_cost_map, pocket_models
from service.config_file import Path, at
from service.config_problems import nearest, of_validation, shown
from service.loads.settings import check_load

RESERVED_NAMES = frozenset({"auto", "llmrouter/auto"})
"""Names that ask for routing; no model may have them."""

ROUTER_ALIAS = re.compile(r"^router-(?P<router>.+?)-(?P<cost_weight>[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)$")
"""``router-<router>-<cost weight>``: routing with that weight."""

_KNOWN_KEYS = ("price", "context_window", "capabilities")
_NOT_CONFIGURED = frozenset({"reference_cost_usd", "clock"})  # set by the artifact, and by tests
_NESTED_POLICY = "base"
_DEEPEST_POLICY = 8


def with_known_prices(tree: Any, *, environment: Mapping[str, str] | None = None) -> Any:
    """Return the tree with what is known of a model filled in where a pool entry leaves it out.

    That is its price, with source and date, its context window and its capabilities: out of the price file
    (``pricing.file``, or the environment variable ``LLMROUTER_PRICES``), the pocket pool, and LiteLLM's list where
    LiteLLM is installed. What an entry says itself is never changed.

    Raises
    ------
    ConfigError
        If the price file is wrong.
    """
    if not isinstance(tree, dict) or not isinstance(tree.get("pool"), list):
        return tree
    pricing = tree.get("pricing")
    file = pricing.get("file") if isinstance(pricing, dict) else None
    book = PriceBook.from_environment(file=file if isinstance(file, str) else None, environment=environment)
    return {**tree, "pool": [_filled(entry, book) for entry in tree["pool"]]}


def _filled(entry: Any, book: PriceBook) -> Any:
    if not isinstance(entry, dict) or all(key in entry for key in _KNOWN_KEYS):
        return entry
    name, base_url = entry.get("name"), entry.get("base_url")
    model = entry.get("model") or name
    if not isinstance(model, str):
        return entry
    known = book.lookup(
        model,
        str(entry.get("backend", "openai")),
        base_url=base_url if isinstance(base_url, str) else None,
        name=name if isinstance(name, str) else None,
    )
    return entry if known is None else {**_as_keys(known), **entry}


def _as_keys(known: KnownModel) -> dict[str, Any]:
    """Return what is known as keys of a pool entry, as they would have been written."""
    from service.pricing_settings import PriceSettings

    given = {key: value for key, value in asdict(known.price).items() if value is not None and value != ()}
    price = {key: value for key, value in given.items() if key in PriceSettings.model_fields}
    keys: dict[str, Any] = {"price": price}
    if known.context_window is not None:
        keys["context_window"] = known.context_window
    if known.capabilities is not None:
        keys["capabilities"] = sorted(capability.value for capability in known.capabilities)
    return keys


def _price_required(entry: Mapping[str, Any]) -> str:
    """Return what to do about a price that no list has."""
    remedies = ["write {input: ..., output: ...} in USD per million tokens", "name the model in pricing.file"]
    cost_map = installed_cost_map()
    if cost_map is None:
        remedies.append("or install LiteLLM's price list: pip install 'llmrouter-service[litellm]'")
        return f"is required: the price of this model is not known here; {', '.join(remedies)}"
    model = entry.get("model") or entry.get("name")
    return (
        f"is required: the price of this model is not known here, and {cost_map.source} does not list {model!r} for "
        f"this backend and address; {', or '.join(remedies)}"
    )


@lru_cache
def pocket_cards() -> dict[str, dict[str, Any]]:
    """Return what ships with the pocket pool: name -> price, context window, capabilities; empty if it was left out."""
    return {name: _as_keys(known) for name, known in pocket_models().items()}


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
        if trouble := check_load(entry):
            problems["pool", i, "load"] = trouble
        if "price" not in entry:
            problems["pool", i, "price"] = _price_required(entry)
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
        place = (*path, "kind")
        # As it was written, not as it is: it may come from a variable meant for something else.
        wrote = at(written, place)
        return section, {place: f"must be one of {', '.join(kinds)}; got {shown(wrote, place)}{nearest(wrote, kinds)}"}
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
    endpoints = entry.get("endpoints")
    if backend == "litellm" and isinstance(endpoints, list) and "responses" in endpoints:
        return _check_litellm_responses(path)
    if backend == "openai" and not entry.get("base_url") and not _deployments_have_urls(entry):
        return {(*path, "base_url"): "is required for the backend 'openai', e.g. https://api.openai.com/v1"}
    return {}


def _check_litellm_responses(path: Path) -> dict[Path, str]:
    if importlib.util.find_spec("mcp") is not None:
        return {}
    return {
        (*path, "endpoints"): "'responses' through LiteLLM needs the package 'mcp' (pip install mcp); or leave it out: "
        "responses are then translated to chat completions"
    }


def _deployments_have_urls(entry: dict[str, Any]) -> bool:
    places = entry.get("deployments")
    return (
        isinstance(places, list)
        and bool(places)
        and all(isinstance(one, dict) and one.get("base_url") for one in places)
    )
