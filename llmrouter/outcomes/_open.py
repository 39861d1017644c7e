"""A store by its URL."""

from __future__ import annotations

from llmrouter import registry
from llmrouter.exceptions import ConfigError
from llmrouter.outcomes._base import OutcomeStore


def open_store(url: str) -> OutcomeStore:
    """Open the outcome store that `url` names.

    Parameters
    ----------
    url : str
        ``sqlite:///relative.db``, ``sqlite:////absolute.db``, ``memory://``, or the scheme of a registered store; its
        class has a class method ``from_url``.

    Raises
    ------
    ConfigError
        If the scheme is not registered or the URL is malformed.
    StoreError
        If the store cannot be used.
    """
    scheme, separator, _ = url.partition("://")
    if not separator:
        known = ", ".join(f"{name}://" for name in registry.available("store"))
        raise ConfigError(f"log.store {url!r} is not a URL; write sqlite:///outcomes.db (schemes: {known})")
    store: OutcomeStore = registry.resolve("store", scheme).from_url(url)
    return store
