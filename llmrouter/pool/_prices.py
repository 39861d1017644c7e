"""Prices of models: a file of one's own before LiteLLM's list, each with its source and date."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit

import orjson

from llmrouter.pool._cost_map import CostMap, installed_cost_map
from llmrouter.pool._known_model import KnownModel
from llmrouter.pool._price_file import read_price_file
from llmrouter.types import Capability, Price

PRICES_VARIABLE = "LLMROUTER_PRICES"
"""Environment variable that names a price file."""

_POCKET = Path(__file__).parent.parent / "assets" / "pocket" / "pool.json"
_SCRIPTED = "scripted"

# Who answers at an address, by LiteLLM's names. At any other address a bare name is looked up as it stands.
_PROVIDERS: Mapping[str, str] = {
    "api.openai.com": "openai",
    "api.anthropic.com": "anthropic",
    "api.cerebras.ai": "cerebras",
    "api.deepinfra.com": "deepinfra",
    "api.deepseek.com": "deepseek",
    "api.fireworks.ai": "fireworks_ai",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral",
    "api.moonshot.ai": "moonshot",
    "api.perplexity.ai": "perplexity",
    "api.sambanova.ai": "sambanova",
    "api.together.xyz": "together_ai",
    "api.x.ai": "xai",
    "dashscope-intl.aliyuncs.com": "dashscope",
    "generativelanguage.googleapis.com": "gemini",
    "integrate.api.nvidia.com": "nvidia_nim",
    "openrouter.ai": "openrouter",
}
_AZURE_SUFFIXES = (".openai.azure.com", ".services.ai.azure.com")
_LOOKBACK = 1024


class PriceBook:
    """What is known of models, from several lists; the first that has a price gives it.

    In order: `overrides`, the price file, the pocket pool, LiteLLM's list. Context window and capabilities come from
    the first list that says something of them. LiteLLM's list is read when a model is asked for that the others lack.

    Parameters
    ----------
    file : Path, optional
        A price file (see `read_price_file`).
    overrides : mapping of str to Price, optional
        Prices by name, e.g. those of the configured pool.
    cost_map : CostMap, optional
        In place of the one of the installed LiteLLM.

    Raises
    ------
    ConfigError
        If the file is wrong.
    """

    def __init__(
        self,
        *,
        file: Path | None = None,
        overrides: Mapping[str, Price] = MappingProxyType({}),
        cost_map: CostMap | None = None,
    ) -> None:
        self.file = file
        self._overrides = {name: KnownModel(name, price) for name, price in overrides.items()}
        self._file_models = {} if file is None else read_price_file(file)
        self._cost_map = cost_map
        self._lookup = lru_cache(maxsize=_LOOKBACK)(self._merged)

    @classmethod
    def from_environment(
        cls,
        *,
        file: Path | str | None = None,
        overrides: Mapping[str, Price] = MappingProxyType({}),
        environment: Mapping[str, str] | None = None,
    ) -> PriceBook:
        """Return the book with `file`, or else the file that ``LLMROUTER_PRICES`` names.

        Raises
        ------
        ConfigError
            If that file is wrong.
        """
        named = file or (os.environ if environment is None else environment).get(PRICES_VARIABLE)
        return cls(file=Path(named) if named else None, overrides=overrides)

    @property
    def cost_map(self) -> CostMap | None:
        """LiteLLM's list, read now if it was not yet; None where LiteLLM is not installed.

        Raises
        ------
        DataError
            If it cannot be read.
        """
        if self._cost_map is None:
            self._cost_map = installed_cost_map()
        return self._cost_map

    def lookup(
        self, model: str, backend: str = "openai", *, base_url: str | None = None, name: str | None = None
    ) -> KnownModel | None:
        """Return what is known of a model, or None.

        Parameters
        ----------
        model : str
            The upstream's name of it.
        backend : str
            The backend that reaches it. Of a scripted one LiteLLM's list says nothing.
        base_url : str, optional
            Where it is served: the list's prices of other providers do not count where the address says who serves it.
        name : str, optional
            Its name in the pool, by which overrides and price file may know it too.
        """
        return self._lookup(model, backend, base_url, name)

    def price(self, model: str) -> Price | None:
        """Return the price of a model, by its name in the pool or the upstream's, or None."""
        known = self.lookup(model)
        return None if known is None else known.price

    def listings(
        self, model: str, backend: str = "openai", *, base_url: str | None = None, name: str | None = None
    ) -> tuple[KnownModel, ...]:
        """Return what each list says of a model, in the order in which they count; see `lookup`."""
        return tuple(self._found(model, backend, base_url, name, every=True))

    def _merged(self, model: str, backend: str, base_url: str | None, name: str | None) -> KnownModel | None:
        found = self._found(model, backend, base_url, name, every=False)
        if not found:
            return None
        return KnownModel(
            name=found[0].name,
            price=found[0].price,
            context_window=next((known.context_window for known in found if known.context_window is not None), None),
            capabilities=next((known.capabilities for known in found if known.capabilities is not None), None),
        )

    def _found(
        self, model: str, backend: str, base_url: str | None, name: str | None, *, every: bool
    ) -> list[KnownModel]:
        """Return what the lists say; LiteLLM's is left closed where the others say everything, unless `every`."""
        names = [model] if name is None else [name, model]
        found = [
            models[spelling]
            for models in (self._overrides, self._file_models, pocket_models())
            for spelling in names
            if spelling in models
        ]
        complete = any(known.context_window is not None and known.capabilities is not None for known in found)
        if (every or not complete) and backend != _SCRIPTED and self.cost_map is not None:
            listed = self.cost_map.find(model, provider=provider_at(base_url) if backend == "openai" else None)
            found += [] if listed is None else [listed]
        return found


@lru_cache(maxsize=1)
def pocket_models() -> Mapping[str, KnownModel]:
    """Return the models of the pocket pool by name; none where the package was built without them."""
    try:
        pool = orjson.loads(_POCKET.read_bytes())["models"]
    except FileNotFoundError:
        return {}
    return {
        model["name"]: KnownModel(
            name=model["name"],
            price=Price(**model["price"], source="pocket"),
            context_window=model.get("context_window"),
            capabilities=frozenset(Capability(name) for name in model.get("capabilities", ())),
        )
        for model in pool
    }


def provider_at(base_url: str | None) -> str | None:
    """Return LiteLLM's name of the provider behind an address, or None where the address does not tell."""
    host = (urlsplit(base_url).hostname or "") if base_url else ""
    return "azure" if host.endswith(_AZURE_SUFFIXES) else _PROVIDERS.get(host)
