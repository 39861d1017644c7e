"""The limiter that a configuration asks for."""

from __future__ import annotations

from pathlib import Path

from llmrouter.exceptions import ConfigError
from service.limits.journal import SpendJournal
from service.limits.local import LocalLimiter
from service.limits.redis_limiter import RedisLimiter
from service.limits.resilient import ResilientLimiter
from service.limits.settings import LimitsSettings
from service.redis_link import RedisLink

_SQLITE = "sqlite:///"


def build_limiter(settings: LimitsSettings, *, link: RedisLink | None = None) -> LocalLimiter | ResilientLimiter:
    """Return the limiter: over Redis where there is a link, else of this process alone.

    Parameters
    ----------
    settings : LimitsSettings
        The configuration.
    link : RedisLink, optional
        The connection to Redis.
    """
    if link is not None:
        return ResilientLimiter(RedisLimiter(link))
    path = settings.state.removeprefix(_SQLITE)
    journal = SpendJournal(Path(path)) if settings.state.startswith(_SQLITE) else None
    return LocalLimiter(journal, eager=settings.budgeted)


def check_workers(settings: LimitsSettings, *, workers: int, redis: bool, keys: bool) -> None:
    """Refuse several processes that would each count by themselves.

    Parameters
    ----------
    settings : LimitsSettings
        The configuration.
    workers : int
        Processes.
    redis : bool
        Whether they share Redis.
    keys : bool
        Whether there are keys, which may have limits of their own.

    Raises
    ------
    ConfigError
        If limits could not be kept.
    """
    if workers > 1 and not redis and (settings.limited or keys):
        raise ConfigError(
            f"{workers} workers would each count limits and budgets by themselves; "
            "configure redis, set workers: 1, or leave out limits and auth",
            path="server.workers",
        )
