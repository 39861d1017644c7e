"""The store of the outcome log, as it is configured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmrouter.exceptions import ConfigError
from llmrouter.outcomes import OutcomeStore, open_store

if TYPE_CHECKING:
    from service.limits.settings import RedisSettings

OWN_REDIS = "redis://"
"""As ``log.store``: the log is in the Redis of the section ``redis``."""


def open_log(url: str, redis: RedisSettings | None) -> OutcomeStore:
    """Open the store of the log.

    Parameters
    ----------
    url : str
        ``log.store``.
    redis : RedisSettings or None
        The Redis that replicas share.

    Raises
    ------
    ConfigError, StoreError, MissingExtraError
        If it cannot be used. A store in Redis is opened whether or not that answers: until it does, the log is spooled.
    """
    if url != OWN_REDIS:
        return open_store(url)
    if redis is None:
        raise ConfigError(
            f"log.store {url!r} is the Redis of the section 'redis', and there is none; add it, or write "
            "redis://HOST:PORT/DATABASE"
        )
    from llmrouter.outcomes import RedisOutcomeStore

    return RedisOutcomeStore(redis.url.get_secret_value(), prefix=redis.prefix)
