"""The whole of a configuration of LiteLLM's proxy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from llmrouter.exceptions import ConfigError
from service import config_file
from service.from_litellm._keys import Keys, Notes, first, ours
from service.from_litellm._models import Models

_SECTIONS = ("litellm_settings", "router_settings", "general_settings")
_FALLBACKS = ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks", "default_fallbacks")
_DEFAULT_ATTEMPTS = 4
_REDIS_PORT = 6379
_WIDTH = 120


@dataclass(frozen=True, slots=True)
class Converted:
    """A configuration of ours.

    Attributes
    ----------
    text : str
        YAML, the notes as comments at its head.
    notes : tuple of str
        What was changed on the way, or has no counterpart, one line each.
    """

    text: str
    notes: tuple[str, ...]


def convert(text: str, *, source: str) -> Converted:
    """Translate a configuration of LiteLLM's proxy.

    Parameters
    ----------
    text : str
        Its YAML.
    source : str
        Names it in comments and errors.

    Raises
    ------
    ConfigError
        If it is no such configuration, or none of its models can be taken over.
    """
    tree = config_file.parse_yaml(text, source=source)
    if not isinstance(tree.get("model_list"), list):
        raise ConfigError(f"{source} has no model_list; it is no configuration of LiteLLM's proxy")
    note = Notes()
    sections = _translate(tree, note)
    if not sections["pool"]:
        raise ConfigError("\n  ".join([f"no model of {source} can be taken over", *note.lines]))
    head = [f"Converted from {source}. Check it with: llmrouter config check --config FILE", ""]
    head += ["What was changed, or has no counterpart:", *(f"- {line}" for line in note.lines)]
    comment = "\n".join(f"# {line}".rstrip() for line in head)
    body = yaml.safe_dump(sections, sort_keys=False, allow_unicode=True, width=_WIDTH)
    return Converted(f"{comment}\n\n{body}", tuple(note.lines))


def _translate(tree: Mapping[str, Any], note: Notes) -> dict[str, Any]:
    litellm, router, general = (Keys(tree.get(section)) for section in _SECTIONS)
    models = Models(
        note,
        timeout=first(router.take("timeout"), litellm.take("request_timeout")),
        stream_timeout=router.take("stream_timeout"),
    )
    pool, by_model = models.translate(tree["model_list"])
    limits: dict[str, Any] = {"models": by_model} if by_model else {}
    most = general.take("global_max_parallel_requests")
    if isinstance(most, int) and most > 0:
        limits["gateway"] = {"concurrency": most}
    resilience = _resilience(router, litellm, note)
    redis = _redis(router, litellm, note)
    cache = _cache(litellm, note)
    keys_wanted = _keys(general, note)
    telemetry = _telemetry(litellm, note)
    for section, keys in zip(_SECTIONS, (litellm, router, general), strict=True):
        for key in keys.rest():
            note(f"{section}.{key} has no counterpart")
    for key in sorted(tree.keys() - {"model_list", *_SECTIONS}):
        note(_top_level_note(key, tree[key]))
    note(
        "the router that ships with the package knows none of these models: train one on your own outcomes "
        "(llmrouter train), or say what to expect of a model with prior_quality"
    )
    optional = {"limits": limits, "resilience": resilience, "cache": cache, "telemetry": telemetry}
    found = {"pool": pool, **{section: value for section, value in optional.items() if value}}
    if redis is not None:
        found["redis"] = {"url": redis}
    if keys_wanted:
        found["auth"] = {}
    return found


def _resilience(router: Keys, litellm: Keys, note: Notes) -> dict[str, Any]:
    section: dict[str, Any] = {}
    retries = first(router.take("num_retries"), litellm.take("num_retries"))
    if isinstance(retries, int) and retries >= 0:
        section["retries_same_model"] = retries
    breaker: dict[str, Any] = {}
    cooldown = first(router.take("cooldown_time"), litellm.take("cooldown_time"))
    if isinstance(cooldown, int | float) and cooldown > 0:
        breaker["cool_s"] = float(cooldown)
    allowed = first(router.take("allowed_fails"), litellm.take("allowed_fails"))
    if isinstance(allowed, int) and allowed >= 0:
        breaker["after_failures"] = allowed + 1
        note(f"allowed_fails: {allowed} in a minute there are after_failures: {allowed + 1} in a row here")
    if breaker:
        section["breaker"] = breaker
    longest = max(_fallbacks(key, first(router.take(key), litellm.take(key)), note) for key in _FALLBACKS)
    if longest:
        section["max_attempts"] = max(_DEFAULT_ATTEMPTS, longest + 1)
    if strategy := router.take("routing_strategy"):
        note(f"router_settings.routing_strategy {strategy}: deployments are balanced by latency and load here")
    if aliases := router.take("model_group_alias"):
        note(f"router_settings.model_group_alias ({', '.join(map(str, aliases))}): there are no aliases here")
    return section


def _fallbacks(key: str, chains: Any, note: Notes) -> int:
    """Note what chains of fallbacks become, and return the length of the longest."""
    if not isinstance(chains, list) or not chains:
        return 0
    named: list[tuple[str, list[str]]] = []
    for entry in chains:
        pairs = entry.items() if isinstance(entry, Mapping) else [("any model", entry)]
        named += [
            (str(model), [str(n) for n in (names if isinstance(names, list) else [names])]) for model, names in pairs
        ]
    shown = "; ".join(f"{model} -> {', '.join(names)}" for model, names in named)
    note(
        f"{key} ({shown}): for model auto the router's ranking is the order of fallbacks; a request that names its "
        "model gets that model only"
    )
    return max(len(names) for _, names in named) if key != "default_fallbacks" else len(named)


def _redis(router: Keys, litellm: Keys, note: Notes) -> str | None:
    for keys, prefix in ((router, "redis_"), (Keys(litellm.peek("cache_params")), "")):
        given = {key: ours(keys.take(prefix + key)) for key in ("url", "host", "port", "password")}
        if given["url"]:
            return str(given["url"])
        if given["host"]:
            password = f":{given['password']}@" if given["password"] else ""
            if password:
                note("redis.url holds the password: characters that URLs reserve must be percent-encoded in it")
            return f"redis://{password}{given['host']}:{given['port'] or _REDIS_PORT}/0"
    return None


def _cache(litellm: Keys, note: Notes) -> dict[str, Any]:
    parameters = Keys(litellm.take("cache_params"))
    if litellm.take("cache") is not True:
        return {}
    for key in ("url", "host", "port", "password"):  # of Redis
        parameters.take(key)
    kind = str(parameters.take("type") or "local")
    section: dict[str, Any] = {"store": "redis" if kind.startswith("redis") else "memory"}
    ttl = parameters.take("ttl")
    if isinstance(ttl, int | float) and ttl > 0:
        section["ttl_s"] = ttl
    floor = parameters.take("similarity_threshold")
    if "semantic" in kind:
        section["semantic"] = {"enabled": True, **({} if floor is None else {"similarity": floor})}
    elif kind not in ("local", "redis"):
        note(f"litellm_settings.cache_params.type {kind}: answers are kept in memory here")
    note("the cache keeps the answers of each key apart (cache.scope: key); LiteLLM shares them among all")
    for key in parameters.rest():
        note(f"litellm_settings.cache_params.{key} has no counterpart")
    return section


def _keys(general: Keys, note: Notes) -> bool:
    """Return whether clients need keys, and note where those come from."""
    wanted = bool(general.take("master_key"))
    if wanted:
        note(
            "general_settings.master_key is not taken over: make the first key with `llmrouter keys create --admin`, "
            "and those of clients with it"
        )
    if general.take("database_url"):
        note("general_settings.database_url: keys, teams and spend in that database are not taken over")
    return wanted


def _telemetry(litellm: Keys, note: Notes) -> dict[str, Any]:
    names: list[str] = []
    for key in ("callbacks", "success_callback", "failure_callback"):
        given = litellm.take(key) or []
        names += [str(name) for name in (given if isinstance(given, list) else [given])]
    for name in dict.fromkeys(names):
        if name == "prometheus":
            note("callback prometheus: GET /metrics is always there, under names of its own")
        elif name in ("otel", "opentelemetry"):
            note("callback otel: set telemetry.traces.otlp_endpoint to the address of your collector")
        else:
            note(f"callback {name} has no counterpart")
    return {"logs": {"format": "json"}} if litellm.take("json_logs") is True else {}


def _top_level_note(key: str, value: Any) -> str:
    if key == "environment_variables" and isinstance(value, Mapping):
        return f"environment_variables: set them for the process itself ({', '.join(map(str, value))})"
    return f"{key} has no counterpart"
