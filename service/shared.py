"""What a gateway keeps when its configuration is reloaded, as far as that leaves it as it is."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from llmrouter import __version__
from llmrouter.pool import HTTPSessions
from service.batcher import Routing
from service.keys.principal import Principal
from service.learning.owners import Owners
from service.learning.signals import Signals, signal_sections
from service.limits import build_limiter
from service.limits.admission import Admission
from service.limits.subjects import Subject, Subjects
from service.log_retention import Retention
from service.log_store import open_log
from service.outcome_writer import OutcomeWriter
from service.resilience.state import Resilience
from service.settings import LogSettings, Settings
from service.spool import Spool
from service.telemetry import Telemetry
from service.workers import WORKER_VARIABLE

if TYPE_CHECKING:
    from service.cache import Cache
    from service.keys import Authenticator, KeyManager, KeyStore
    from service.limits import RedisCooldownShare
    from service.limits.grant import Limiter
    from service.redis_link import RedisLink

T = TypeVar("T")

_SQLITE_SCHEME = "sqlite:///"


class Shared:
    """The parts; each is built from some sections of the settings, and taken over where these are the same.

    Parameters
    ----------
    settings : Settings
        The configuration.
    artifact_id : str
        For metrics.
    reuse : Shared, optional
        What to take over from.
    """

    def __init__(self, settings: Settings, *, artifact_id: str = "", reuse: Shared | None = None) -> None:
        self.settings = settings
        self._old = reuse
        self._built: list[Any] = []
        names = tuple(model.name for model in settings.pool)
        self.sessions: HTTPSessions = self._part("sessions", HTTPSessions)
        self.routing: Routing = self._part("routing", Routing)
        self.resilience: Resilience = self._part(
            "resilience", lambda: Resilience(settings.resilience, names), "resilience", "pool"
        )
        self._names = names
        self._artifact_id = artifact_id

    def open(self) -> None:
        """Open what holds files and connections: the last step, once everything else is known to be right.

        Raises
        ------
        ConfigError, StoreError, MissingExtraError
            If something cannot be opened.
        """
        settings = self.settings
        self.link: RedisLink | None = self._part("link", self._build_link, "redis")
        self.subjects: Subjects = Subjects(settings.limits)
        self.limiter: Limiter = self._build_limiter_or_keep()
        self.admission: Admission = self._part("admission", lambda: Admission(settings.limits.admission), "limits")
        self.key_store: KeyStore | None = self._part("key_store", self._build_key_store, "auth", "redis")
        self.authenticator: Authenticator | None = self._part(
            "authenticator", self._build_authenticator, "auth", "redis"
        )
        self.keys: KeyManager | None = self._part("keys", self._build_keys, "auth", "redis")
        self.cache: Cache | None = self._part("cache", self._build_cache, "cache", "redis")
        self.cooldown_share: RedisCooldownShare | None = self._part(
            "cooldown_share", self._build_cooldown_share, "resilience", "pool", "redis"
        )
        self.writer: OutcomeWriter = self._part("writer", self._build_writer, "log", "redis")
        self.telemetry: Telemetry = self._part(
            "telemetry",
            lambda: Telemetry(
                settings.telemetry,
                self._names,
                version=__version__,
                artifact_id=self._artifact_id,
                base_urls={model.name: model.base_url for model in settings.pool},
            ),
            "telemetry",
        )
        self.owners: Owners = self._part("owners", Owners)
        self.signals: Signals = self._build_signals_or_keep()
        self._old = None

    def _part(self, name: str, build: Callable[[], T], *sections: str) -> T:
        old = self._old
        if old is not None and all(
            getattr(old.settings, section) == getattr(self.settings, section) for section in sections
        ):
            taken: T = getattr(old, name)
            return taken
        built = build()
        self._built.append(built)
        return built

    def _build_link(self) -> RedisLink | None:
        if self.settings.redis is None:
            return None
        from service.redis_link import RedisLink

        return RedisLink(self.settings.redis)

    def _build_signals_or_keep(self) -> Signals:
        # Other sections of `learning` leave what waits for a verdict alone.
        old = self._old
        if old is not None and signal_sections(old.settings) == signal_sections(self.settings):
            return old.signals
        signals = Signals(self.settings)
        self._built.append(signals)
        return signals

    def _build_limiter_or_keep(self) -> Limiter:
        # The limits themselves are with `subjects`: the counts go on where only those have changed.
        if self._old is not None and self._old.settings.limits.state == self.settings.limits.state:
            return self._part("limiter", self._build_limiter, "redis")
        return self._part("limiter", self._build_limiter, "redis", "limits")

    def _build_limiter(self) -> Limiter:
        return build_limiter(self.settings.limits, link=self.link)

    def _build_key_store(self) -> KeyStore | None:
        if self.settings.auth is None:
            return None
        from service.keys import open_key_store

        return open_key_store(self.settings.auth, link=self.link)

    def _build_authenticator(self) -> Authenticator | None:
        if self.settings.auth is None or self.key_store is None:
            return None
        from service.keys import Authenticator

        return Authenticator(self.settings.auth, self.key_store)

    def _build_keys(self) -> KeyManager | None:
        if self.key_store is None or self.authenticator is None:
            return None
        from service.keys import KeyManager

        return KeyManager(self.key_store, on_change=self.authenticator.forget)

    def _build_cooldown_share(self) -> RedisCooldownShare | None:
        if self.link is None:
            return None
        from service.limits import RedisCooldownShare

        share = RedisCooldownShare(self.link, apply=self.resilience.cooldowns.apply)
        self.resilience.share_with(share)
        return share

    def _build_cache(self) -> Cache | None:
        if self.settings.cache is None:
            return None
        from service.cache import Cache

        return Cache.from_settings(self.settings.cache, link=self.link)

    def _build_writer(self) -> OutcomeWriter:
        log = self.settings.log
        return OutcomeWriter(
            open_log(log.store, self.settings.redis),
            spool=Spool(spool_path(log)),
            flush_interval_s=log.flush_interval_s,
            max_queue=log.max_queue,
            retention=Retention(days=log.retention_days, most=log.max_outcomes),
        )

    def subjects_of(self, principal: Principal) -> tuple[Subject, ...]:
        """Return whose limits hold for a principal; nobody's where nothing is limited."""
        return self.subjects.of_request(principal.key_id, team=principal.team, limits=principal.limits)

    def start(self) -> None:
        """Start what runs in the background, as far as it was not taken over and runs already."""
        for part in self._built:
            start = getattr(part, "start", None)
            if start is not None and part is not self.routing:
                start()

    async def aclose(self, *, but: Shared | None = None) -> None:
        """Close the parts, in the order in which they depend on each other.

        Parameters
        ----------
        but : Shared, optional
            What took over some of them: those stay.
        """
        kept = {id(None)} if but is None else {id(None), *(id(part) for part in vars(but).values())}
        if id(self.signals) not in kept:
            await self.signals.aclose()
        if id(self.writer) not in kept:
            await asyncio.to_thread(self.writer.close)
        parts = (
            self.authenticator,
            self.key_store,
            self.cache,
            self.cooldown_share,
            self.limiter,
            self.resilience,
            self.telemetry,
            self.sessions,
            self.link,
        )
        for part in parts:
            if id(part) not in kept and part is not None:
                await part.aclose()
        if id(self.routing) not in kept:
            self.routing.close()


def spool_path(log: LogSettings) -> Path:
    """Return where outcomes go while the store cannot take them: beside a SQLite file, else the working directory.

    Every worker has its own.
    """
    worker = os.environ.get(WORKER_VARIABLE, "")
    suffix = f".{worker}" if worker else ""
    if log.spool is not None:
        return log.spool.with_name(log.spool.name + suffix)
    name = log.store.removeprefix(_SQLITE_SCHEME) if log.store.startswith(_SQLITE_SCHEME) else "outcomes"
    return Path(f"{name}.spool.jsonl{suffix}")
