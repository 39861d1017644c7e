"""Policies from configuration: ``{kind: name, parameter: value, ...}``, nested under ``base``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmrouter import registry
from llmrouter.exceptions import ConfigError
from llmrouter.policy._base import Policy

DEFAULT_KIND = "utility"


def policy_from_config(section: Mapping[str, Any], /) -> Policy:
    """Construct the policy that a mapping describes.

    Parameters
    ----------
    section : mapping
        ``kind`` (by default ``utility``) and the parameters of that policy's constructor; policies that wrap another
        take one more such mapping as ``base``.

    Raises
    ------
    ConfigError
        If it does not exist or refuses its parameters.
    """
    if not isinstance(section, Mapping):
        raise ConfigError(f"a policy must be a mapping like {{kind: utility, cost_weight: 0.3}}; got {section!r}")
    parameters = dict(section)
    kind = parameters.pop("kind", DEFAULT_KIND)
    policy: Policy = registry.create("policy", kind, **parameters)
    return policy
