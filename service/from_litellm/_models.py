"""LiteLLM's ``model_list``: entries of one name become one model of the pool, with several deployments."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from service import config_checks
from service.from_litellm._keys import ENVIRONMENT, Keys, Notes, first, ours
from service.from_litellm._providers import PROVIDERS, Provider, split_model

_PER_TOKEN = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cached_input",
}
_CAPABILITIES = {
    "supports_function_calling": "tools",
    "supports_vision": "vision",
    "supports_response_schema": "json_schema",
    "supports_audio_input": "audio",
}
_ENDPOINTS = {"chat": "chat", "completion": "completions", "embedding": "embeddings", "responses": "responses"}
# Parameters that are meant for LiteLLM's own router, not for its functions.
_OF_ITS_ROUTER = frozenset({
    "max_retries", "num_retries", "order", "tags", "use_in_pass_through", "use_litellm_proxy", "max_budget",
    "budget_duration", "cooldown_time", "merge_reasoning_content_in_choices", "litellm_credential_name",
    "mock_response", "input_cost_per_second", "output_cost_per_second", "max_file_size_mb",
})  # fmt: skip
_SAYS_NOTHING = frozenset({"id", "db_model", "created_at", "updated_at", "created_by", "updated_by"})
_LIMITS = {"rpm": "rpm", "tpm": "tpm", "max_parallel_requests": "concurrency"}
_LONGEST_NAME = 128
_DIGITS = 10


@dataclass
class _Deployment:
    """One entry of a model_list, translated."""

    name: str
    endpoint: str
    place: dict[str, Any] = field(default_factory=dict)
    price: dict[str, float] = field(default_factory=dict)
    window: int | None = None
    supports: dict[str, bool] = field(default_factory=dict)
    base_model: str | None = None
    limits: dict[str, int] = field(default_factory=dict)
    timeouts: dict[str, Any] = field(default_factory=dict)
    weight: Any = None


class Models:
    """The translation of a model_list.

    Parameters
    ----------
    note : Notes
        Gets what is changed or left out.
    timeout, stream_timeout
        LiteLLM's settings for models that have none of their own.

    Attributes
    ----------
    names : dict of str to str
        LiteLLM's names -> ours.
    """

    def __init__(self, note: Notes, *, timeout: Any = None, stream_timeout: Any = None) -> None:
        self.names: dict[str, str] = {}
        self._note = note
        self._timeouts = {"total_s": timeout, "first_byte_s": stream_timeout}

    def translate(self, entries: Iterable[Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Return the pool, and limits by model."""
        entries = list(entries)
        wanted = [entry.get("model_name") if isinstance(entry, Mapping) else None for entry in entries]
        # First those that may stay as they are, so that no mended name takes theirs.
        self.names = {name: name for name in wanted if isinstance(name, str) and _mended(name) == name}
        groups: dict[str, list[_Deployment]] = {}
        for i, entry in enumerate(entries):
            deployment = self._deployment(entry, f"model_list[{i}]")
            if deployment is not None:
                groups.setdefault(deployment.name, []).append(deployment)
        pool = [self._model(name, deployments) for name, deployments in groups.items()]
        limits = {name: self._limits(name, deployments) for name, deployments in groups.items()}
        return pool, {name: limited for name, limited in limits.items() if limited}

    # One model

    def _model(self, name: str, deployments: list[_Deployment]) -> dict[str, Any]:
        main = deployments[0]
        entry: dict[str, Any] = {"name": name, **main.place}
        if len(deployments) > 1:
            places = [each.place for each in deployments]
            weights = [{} if each.weight is None else {"weight": each.weight} for each in deployments]
            entry["deployments"] = [{**place, **weight} for place, weight in zip(places, weights, strict=True)]
            # What holds for all belongs into the entry; the rest each deployment says itself.
            for key in ("headers", "options"):
                entry.pop(key, None)
            if any(each.price != main.price for each in deployments):
                self._note(f"{name}: its deployments differ in price; that of the first is taken")
        self._add_facts(entry, main)
        if main.endpoint != "chat":
            entry["endpoints"] = [main.endpoint]
        if main.timeouts:
            entry["timeouts"] = main.timeouts
        return entry

    def _add_facts(self, entry: dict[str, Any], main: _Deployment) -> None:
        name = entry["name"]
        question = {key: value for key, value in main.place.items() if key in ("backend", "model", "base_url")}
        if main.base_model is not None:
            question |= {"backend": "litellm", "model": main.base_model}
        known = config_checks.with_known_prices({"pool": [{"name": name, **question}]})["pool"][0]
        price = main.price or known.get("price")
        if price is None:
            price = {"input": 0.0, "output": 0.0}
            self._note(f"{name}: its price is not known; it is written as 0, which the router takes for free: mend it")
        entry["price"] = price
        window = first(main.window, known.get("context_window"))
        if window is not None:
            entry["context_window"] = window
        offered = [capability for capability in known.get("capabilities", ()) if main.supports.get(capability, True)]
        offered += [each for each, given in main.supports.items() if given and each not in offered]
        if offered:
            entry["capabilities"] = offered
        elif main.endpoint == "chat":
            self._note(f"{name}: what it can do is not known; write its capabilities (tools, vision, json_schema, ...)")

    def _limits(self, name: str, deployments: list[_Deployment]) -> dict[str, int]:
        found: dict[str, int] = {}
        for key in _LIMITS.values():
            given = [each.limits[key] for each in deployments if key in each.limits]
            if given and len(given) == len(deployments):
                found[key] = sum(given)
            elif given:
                self._note(f"{name}: {key} holds for some of its deployments only and is left out")
        if found and len(deployments) > 1:
            self._note(f"{name}: limits of its deployments are added up; they hold for the model as a whole")
        return found

    # One deployment

    def _deployment(self, entry: Any, where: str) -> _Deployment | None:
        wanted = entry.get("model_name") if isinstance(entry, Mapping) else None
        keys = Keys(entry.get("litellm_params") if isinstance(entry, Mapping) else None)
        model = keys.take("model")
        if not isinstance(wanted, str) or not isinstance(model, str):
            self._note(f"{where} has no model_name or no litellm_params.model and is left out")
            return None
        if "*" in wanted or "*" in model:
            self._note(f"{where}: {wanted!r} stands for many models and is left out; list each one that you use")
            return None
        info = Keys(entry.get("model_info"))
        mode = str(info.take("mode") or ("embedding" if "embed" in model.lower() else "chat"))
        if mode not in _ENDPOINTS:
            self._note(f"{where}: {wanted!r} is left out: nothing here serves mode {mode!r}")
            return None
        deployment = _Deployment(self._name(wanted), _ENDPOINTS[mode])
        self._read_facts(deployment, keys, info)
        self._read_treatment(deployment, keys)
        provider, bare = split_model(model, provider=keys.take("custom_llm_provider"))
        known = PROVIDERS.get(provider)
        if known is not None and (known.base_url or keys.peek("api_base") or keys.peek("base_url")):
            deployment.place = self._openai_place(deployment.name, known, bare, keys)
        else:
            full = f"{provider}/{bare}" if provider else bare
            deployment.place = self._litellm_place(deployment.name, full, keys)
        for key in info.rest():
            if key not in _SAYS_NOTHING:
                self._note(f"{deployment.name}: model_info.{key} has no counterpart")
        return deployment

    def _openai_place(self, name: str, known: Provider, bare: str, keys: Keys) -> dict[str, Any]:
        model = known.model_prefix + bare if known.model_prefix and "/" not in bare else bare
        given = first(keys.take("api_base"), keys.take("base_url"))
        base = str(known.base_url if given is None else ours(given)).rstrip("/").removesuffix("/chat/completions")
        place: dict[str, Any] = {"backend": "openai", "model": ours(model)}
        place["base_url"] = base if base.endswith("/v1") else base + known.path
        if known.path:
            self._note(f"{name}: it is reached by its OpenAI-compatible address, {place['base_url']}")
        default = f"${{{known.key_variable}}}" if known.needs_key else f"${{{known.key_variable}:-}}"
        key = keys.take("api_key")
        place["api_key"] = default if key is None else self._secret(name, key)
        headers = _headers(keys)
        if organization := keys.take("organization"):
            headers["OpenAI-Organization"] = ours(organization)
        if headers:
            place["headers"] = headers
        for left in keys.rest():
            remedy = "" if left in _OF_ITS_ROUTER else "; let clients send it"
            self._note(f"{name}: litellm_params.{left} has no counterpart{remedy}")
        return place

    def _litellm_place(self, name: str, model: str, keys: Keys) -> dict[str, Any]:
        place: dict[str, Any] = {"backend": "litellm", "model": ours(model)}
        base = first(keys.take("api_base"), keys.take("base_url"))
        if base is not None:
            place["base_url"] = ours(base)
        key = keys.take("api_key")
        if key is not None:
            place["api_key"] = self._secret(name, key)
        if headers := _headers(keys):
            place["headers"] = headers
        options = {}
        for left in keys.rest():
            if left in _OF_ITS_ROUTER:
                self._note(f"{name}: litellm_params.{left} has no counterpart")
            else:
                options[left] = ours(keys.peek(left))
        if options:
            place["options"] = options
        self._note("models with backend: litellm need the extra: pip install 'llmrouter-service[litellm]'")
        return place

    def _read_facts(self, deployment: _Deployment, keys: Keys, info: Keys) -> None:
        for theirs, name in _PER_TOKEN.items():
            value = first(keys.take(theirs), info.take(theirs))
            if isinstance(value, int | float | str):
                deployment.price[name] = _per_million(value)
        if deployment.endpoint == "embeddings" and "input" in deployment.price:
            deployment.price.setdefault("output", 0.0)
        if deployment.price and not {"input", "output"} <= deployment.price.keys():
            self._note(f"{deployment.name}: its price is given in part only and is left out")
            deployment.price = {}
        window = first(info.take("max_input_tokens"), keys.take("max_input_tokens"), info.take("max_tokens"))
        deployment.window = window if isinstance(window, int) else None
        for theirs, capability in _CAPABILITIES.items():
            given = info.take(theirs)
            if isinstance(given, bool):
                deployment.supports[capability] = given
        base_model = first(info.take("base_model"), keys.take("base_model"))
        deployment.base_model = base_model if isinstance(base_model, str) else None

    def _read_treatment(self, deployment: _Deployment, keys: Keys) -> None:
        deployment.weight = keys.take("weight")
        for theirs, name in _LIMITS.items():
            value = keys.take(theirs)
            if isinstance(value, int) and value > 0:
                deployment.limits[name] = value
        own = {"first_byte_s": keys.take("stream_timeout"), "total_s": keys.take("timeout")}
        chosen = {name: first(value, self._timeouts[name]) for name, value in own.items()}
        deployment.timeouts = {name: ours(value) for name, value in chosen.items() if value is not None}

    def _secret(self, name: str, value: Any) -> str:
        if isinstance(value, str) and not value.startswith(ENVIRONMENT):
            self._note(f"{name}: its api_key stands in the file itself; better put it into an environment variable")
        return str(ours(value))

    def _name(self, wanted: str) -> str:
        if wanted in self.names:
            return self.names[wanted]
        name = _mended(wanted)
        base, number = name, 2
        while name in self.names.values():
            name, number = f"{base[: _LONGEST_NAME - 4]}-{number}", number + 1
        if name != wanted:
            self._note(
                f"the model {wanted!r} is called {name!r} here: names follow a stricter rule, or ask for routing"
            )
        self.names[wanted] = name
        return name


def _mended(wanted: str) -> str:
    name = re.sub(r"[^A-Za-z0-9._:/@+-]+", "-", wanted).lstrip("-._:/@+")[:_LONGEST_NAME] or "model"
    if name in config_checks.RESERVED_NAMES or config_checks.ROUTER_ALIAS.match(name):
        return f"model-{name.replace('/', '-')}"[:_LONGEST_NAME]
    return name


def _headers(keys: Keys) -> dict[str, Any]:
    given = [keys.take(key) for key in ("extra_headers", "headers")]
    return {str(name): ours(value) for each in given if isinstance(each, Mapping) for name, value in each.items()}


def _per_million(per_token: float | str) -> float:
    return round(float(Decimal(str(per_token)) * 10**6), _DIGITS)
