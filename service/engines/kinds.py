"""Engines that are known by the way they list their models, and where each tells how it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineKind:
    """One engine.

    Attributes
    ----------
    name : str
        As people call it.
    owner : str
        What its models' ``owned_by`` says.
    health : str
        Path from the server's root that answers 200 once models can be asked.
    version : str
        Path from the root whose JSON has a ``version``; "" for none.
    any_name : bool
        Whether it answers under whatever name of a model, with the one that it serves.
    default_tag : str
        What it adds to a name without a tag.
    """

    name: str
    owner: str
    health: str
    version: str = ""
    any_name: bool = False
    default_tag: str = ""


VLLM = EngineKind("vLLM", "vllm", "/health", "/version")
SGLANG = EngineKind("SGLang", "sglang", "/health")
LLAMA_CPP = EngineKind("llama.cpp", "llamacpp", "/health", any_name=True)
OLLAMA = EngineKind("Ollama", "library", "/api/version", "/api/version", default_tag=":latest")
TGI = EngineKind("TGI", "", "/health", "/info", any_name=True)
OURS = EngineKind("llmrouter", "llmrouter", "/readyz")

_BY_OWNER = {kind.owner: kind for kind in (VLLM, SGLANG, LLAMA_CPP, OLLAMA, OURS)}


def kind_of(models: Sequence[tuple[str, str]]) -> EngineKind | None:
    """Return the engine that lists its models so, pairs of ``id`` and ``owned_by``; None where that tells nothing."""
    for name, owner in models:
        if owner in _BY_OWNER:
            return _BY_OWNER[owner]
        if name and owner == name:  # TGI's one model is its own owner
            return TGI
    return None
