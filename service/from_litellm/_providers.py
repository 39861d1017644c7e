"""Which of LiteLLM's providers speak OpenAI's protocol, where they are reached, and which variable holds their key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider with OpenAI's protocol.

    Attributes
    ----------
    base_url : str or None
        Its public address; None where everybody has their own (an ``api_base`` is needed).
    key_variable : str
        Where LiteLLM finds its key unless told.
    needs_key : bool
        Whether it asks for one.
    model_prefix : str
        What LiteLLM puts before names of models that lack it.
    path : str
        What belongs between an ``api_base`` of one's own and OpenAI's paths.
    """

    base_url: str | None
    key_variable: str
    needs_key: bool = True
    model_prefix: str = ""
    path: str = ""


_OWN_SERVERS: Mapping[str, Provider] = {
    "hosted_vllm": Provider(None, "HOSTED_VLLM_API_KEY", needs_key=False),
    "custom_openai": Provider(None, "OPENAI_API_KEY", needs_key=False),
    "openai_like": Provider(None, "OPENAI_LIKE_API_KEY", needs_key=False),
    "litellm_proxy": Provider(None, "LITELLM_PROXY_API_KEY", needs_key=False),
    "llamafile": Provider(None, "LLAMAFILE_API_KEY", needs_key=False),
    "lm_studio": Provider(None, "LM_STUDIO_API_KEY", needs_key=False),
    "xinference": Provider(None, "XINFERENCE_API_KEY", needs_key=False),
    "ollama": Provider("http://localhost:11434", "OLLAMA_API_KEY", needs_key=False, path="/v1"),
    "ollama_chat": Provider("http://localhost:11434", "OLLAMA_API_KEY", needs_key=False, path="/v1"),
}

PROVIDERS: Mapping[str, Provider] = {
    "openai": Provider("https://api.openai.com/v1", "OPENAI_API_KEY"),
    "cerebras": Provider("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
    "dashscope": Provider("https://dashscope-intl.aliyuncs.com/compatible-mode/v1", "DASHSCOPE_API_KEY"),
    "deepinfra": Provider("https://api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY"),
    "deepseek": Provider("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    "featherless_ai": Provider("https://api.featherless.ai/v1", "FEATHERLESS_AI_API_KEY"),
    "fireworks_ai": Provider(
        "https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY", model_prefix="accounts/fireworks/models/"
    ),
    "groq": Provider("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    "hyperbolic": Provider("https://api.hyperbolic.xyz/v1", "HYPERBOLIC_API_KEY"),
    "mistral": Provider("https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
    "moonshot": Provider("https://api.moonshot.ai/v1", "MOONSHOT_API_KEY"),
    "nebius": Provider("https://api.studio.nebius.ai/v1", "NEBIUS_API_KEY"),
    "novita": Provider("https://api.novita.ai/v3/openai", "NOVITA_API_KEY"),
    "nscale": Provider("https://inference.api.nscale.com/v1", "NSCALE_API_KEY"),
    "nvidia_nim": Provider("https://integrate.api.nvidia.com/v1", "NVIDIA_NIM_API_KEY"),
    "openrouter": Provider("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "perplexity": Provider("https://api.perplexity.ai", "PERPLEXITYAI_API_KEY"),
    "sambanova": Provider("https://api.sambanova.ai/v1", "SAMBANOVA_API_KEY"),
    "together_ai": Provider("https://api.together.xyz/v1", "TOGETHERAI_API_KEY"),
    "xai": Provider("https://api.x.ai/v1", "XAI_API_KEY"),
    **_OWN_SERVERS,
}

# Names that LiteLLM takes for OpenAI's without being told.
_OPENAI_NAMES = re.compile(r"^(gpt-|chatgpt-|o[1-9](-|$)|codex-|ft:gpt-|text-embedding-|davinci-|babbage-)")


def split_model(model: str, *, provider: str | None = None) -> tuple[str, str]:
    """Return provider and name of a model as LiteLLM writes it, e.g. ``groq/llama-3.1-8b-instant``.

    The provider is "" where LiteLLM has to find it out by its list of names.

    Parameters
    ----------
    model : str
        As in ``litellm_params.model``.
    provider : str, optional
        As in ``litellm_params.custom_llm_provider``.
    """
    if provider:
        return provider, model.removeprefix(f"{provider}/")
    prefix, slash, rest = model.partition("/")
    if slash:
        return prefix, rest
    return ("openai" if _OPENAI_NAMES.match(model) else ""), model
