"""LiteLLM's list of prices, read as a file: LiteLLM itself is not imported."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from llmrouter.exceptions import DataError
from llmrouter.pool._known_model import KnownModel
from llmrouter.types import TOKENS_PER_PRICE_UNIT, Capability, Price, PriceTier

COST_MAP_FILE = "model_prices_and_context_window_backup.json"

_MODES = frozenset({"chat", "responses", "completion", "embedding"})
_EMBEDDING = "embedding"
_CAPABILITIES: Mapping[str, Capability] = {
    "supports_function_calling": Capability.TOOLS,
    "supports_vision": Capability.VISION,
    "supports_audio_input": Capability.AUDIO,
    "supports_response_schema": Capability.JSON_SCHEMA,
}
_TIER = re.compile(r"^input_cost_per_token_above_(\d+)k_tokens$")


class CostMap:
    """The list, by LiteLLM's names of models; entries are read when they are asked for.

    Parameters
    ----------
    path : Path
        The JSON file.
    source : str
        What prices taken from it say of where they come from, e.g. ``litellm 1.106.2``.

    Raises
    ------
    DataError
        If the file cannot be read as such a list.
    """

    def __init__(self, path: Path, *, source: str) -> None:
        self.path = path
        self.source = source
        try:
            entries = orjson.loads(path.read_bytes())
        except (OSError, orjson.JSONDecodeError) as error:
            raise DataError(
                f"{path} cannot be read as LiteLLM's price list ({error}); install litellm again"
            ) from error
        if not isinstance(entries, dict):
            raise DataError(f"{path} is no price list: it holds a {type(entries).__name__}; install litellm again")
        # As text again: parsed, the list takes twenty times the memory, and a pool asks for a few models of thousands.
        self._entries = {name: orjson.dumps(entry) for name, entry in entries.items() if isinstance(entry, dict)}

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self._entries)

    def find(self, model: str, *, provider: str | None = None) -> KnownModel | None:
        """Return what the list says of a model, or None.

        Parameters
        ----------
        model : str
            ``gpt-4o-mini``, ``openai/gpt-4o-mini``, ``anthropic/claude-sonnet-4-5``.
        provider : str, optional
            LiteLLM's name of who serves it, where that is known: entries of others do not count then.
        """
        for name, required in _spellings(model, provider):
            entry = self._entry(name)
            if entry is not None and (required is None or _served_by(entry, required)):
                known = _known(name, entry, self.source)
                if known is not None:
                    return known
        return None

    def _entry(self, name: str) -> dict[str, Any] | None:
        text = self._entries.get(name)
        entry: dict[str, Any] | None = None if text is None else orjson.loads(text)
        return entry


def installed_cost_map() -> CostMap | None:
    """Return the list of the installed LiteLLM, or None where it is not installed.

    Raises
    ------
    DataError
        If it is installed and its list cannot be read.
    """
    found = importlib.util.find_spec("litellm")
    for folder in (found.submodule_search_locations or ()) if found else ():
        path = Path(folder) / COST_MAP_FILE
        if path.is_file():
            return _loaded(path, path.stat().st_mtime_ns)
    return None


@lru_cache(maxsize=1)
def _loaded(path: Path, changed: int) -> CostMap:
    del changed  # a list that was replaced is another one
    try:
        version = importlib.metadata.version("litellm")
    except importlib.metadata.PackageNotFoundError:
        version = "(version unknown)"
    return CostMap(path, source=f"litellm {version}")


def _spellings(model: str, provider: str | None) -> Iterator[tuple[str, str | None]]:
    """Yield the names under which a model may stand, each with the provider that its entry then has to have."""
    if provider is not None:
        yield f"{provider}/{model}", None
        yield model, provider
        return
    yield model, None
    prefix, separator, rest = model.partition("/")
    if separator:
        yield rest, prefix


def _served_by(entry: Mapping[str, Any], provider: str) -> bool:
    served_by = str(entry.get("litellm_provider", ""))
    # Vertex has providers such as vertex_ai-language-models, OpenAI has text-completion-openai.
    return served_by == provider or served_by.startswith(f"{provider}-") or served_by.endswith(f"-{provider}")


def _known(name: str, entry: Mapping[str, Any], source: str) -> KnownModel | None:
    price = _price(entry, source)
    if price is None or entry.get("mode", "chat") not in _MODES:
        return None
    window = entry.get("max_input_tokens") or entry.get("max_tokens")
    return KnownModel(
        name=name,
        price=price,
        context_window=window if isinstance(window, int) and window > 0 else None,
        capabilities=frozenset(capability for key, capability in _CAPABILITIES.items() if entry.get(key) is True),
    )


def _price(entry: Mapping[str, Any], source: str) -> Price | None:
    ranges = entry.get("tiered_pricing")
    if "input_cost_per_token" not in entry and isinstance(ranges, list) and ranges:
        tiers, base = _range_tiers(ranges[1:]), ranges[0]
    else:
        tiers, base = _suffix_tiers(entry), entry
    fresh, output = _rate(base, "input_cost_per_token"), _rate(base, "output_cost_per_token")
    if output is None and entry.get("mode") == _EMBEDDING:
        output = 0.0
    if fresh is None or output is None:
        return None
    return Price(
        input=fresh,
        output=output,
        cached_input=_rate(base, "cache_read_input_token_cost", "input_cost_per_token_cache_hit"),
        cache_write=_rate(base, "cache_creation_input_token_cost"),
        reasoning_output=_rate(base, "output_cost_per_reasoning_token"),
        input_audio=_rate(base, "input_cost_per_audio_token"),
        output_audio=_rate(base, "output_cost_per_audio_token"),
        per_request=_dollars(entry.get("input_cost_per_request")) or 0.0,
        tiers=tiers,
        source=source,
    )


def _suffix_tiers(entry: Mapping[str, Any]) -> tuple[PriceTier, ...]:
    """Return the tiers of keys such as ``input_cost_per_token_above_200k_tokens``."""
    tiers = []
    for key in entry:
        if match := _TIER.match(key):
            above = f"_above_{match[1]}k_tokens"
            fresh = _rate(entry, f"input_cost_per_token{above}")
            output = _rate(entry, f"output_cost_per_token{above}", "output_cost_per_token")
            if fresh is not None and output is not None:
                cached = _rate(entry, f"cache_read_input_token_cost{above}")
                written = _rate(entry, f"cache_creation_input_token_cost{above}")
                tiers.append(PriceTier(int(match[1]) * 1000, fresh, output, cached, written))
    return tuple(tiers)


def _range_tiers(ranges: list[Any]) -> tuple[PriceTier, ...]:
    """Return the tiers of a list of ``{"range": [from, to], "input_cost_per_token": ...}``."""
    tiers = []
    for part in ranges:
        fresh, output = _rate(part, "input_cost_per_token"), _rate(part, "output_cost_per_token")
        if fresh is not None and output is not None:
            cached = _rate(part, "cache_read_input_token_cost")
            tiers.append(PriceTier(int(part["range"][0]), fresh, output, cached))
    return tuple(tiers)


def _rate(entry: Mapping[str, Any], *names: str) -> float | None:
    """Return a price a token as a price a million tokens: 7.5e-08 is 0.075, and not the binary number next to it."""
    for name in names:
        value = _dollars(entry.get(name))
        if value is not None:
            return float(Decimal(repr(value)) * TOKENS_PER_PRICE_UNIT)
    return None


def _dollars(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 else None
