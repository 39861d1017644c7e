"""From a configuration of LiteLLM's proxy to ours: what has a counterpart is translated, the rest is listed."""

from service.from_litellm._convert import Converted, convert

__all__ = ["Converted", "convert"]
