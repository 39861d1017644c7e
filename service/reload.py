"""A changed configuration or artifact takes effect in a running gateway: as a whole, or not at all."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from llmrouter.exceptions import LLMRouterError
from service.limits import check_workers
from service.server import check_exposure
from service.settings import Settings, load_settings

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from service.gateway import Gateway

logger = logging.getLogger(__name__)

FIXED = ("host", "port", "workers", "header_timeout_s", "drain_s")
"""Keys of ``server`` that are read at the start only."""

_SETTLE_S = 0.2
_LAST_RETIREMENT_S = 5.0


@dataclass(frozen=True, slots=True)
class ReloadResult:
    """How an attempt to take in the configuration ended.

    Attributes
    ----------
    ok : bool
        Whether it is in effect.
    trigger : str
        ``change``, ``SIGHUP`` or what the caller of `Reloader.reload` said.
    time : float
        Seconds since the epoch.
    duration_s : float
        How long it took.
    error : str
        Everything that is wrong; "" if it is in effect.
    ignored : tuple of str
        What takes effect after a restart only, one line a key.
    """

    ok: bool
    trigger: str
    time: float
    duration_s: float
    error: str = ""
    ignored: tuple[str, ...] = ()


class _Fingerprint(NamedTuple):
    """What the files looked like: a digest of the configuration and of what it names (None without), the artifacts."""

    configuration: bytes | None
    artifacts: tuple[str | None, ...]


class Reloader:
    """Watches the configuration of a gateway, and swaps the gateway's state when it has changed and is right.

    The new state is built beside the old one, off the event loop, and takes its place by one assignment. Requests under
    way end on the old state, which is closed after them. Whatever goes wrong before that leaves the old state in place.

    Parameters
    ----------
    app : Starlette
        The gateway is its ``state.gateway``.
    source : Path
        The configuration.
    build : callable
        Makes the new gateway from its settings and the one whose place it takes; called in a thread.
    interval_s : float
        How often to look for changes; 0 leaves it to SIGHUP and `reload`. A new configuration sets it anew.
    load : callable
        Reads the settings; for a host and port that go before those in the file.
    on_result : callable, optional
        Called with every result.
    retire_s : float
        Requests under way keep the old state open for that many seconds at most.
    """

    def __init__(
        self,
        app: Starlette,
        source: Path,
        *,
        build: Callable[[Settings, Gateway], Gateway],
        interval_s: float,
        load: Callable[[Path], Settings] = load_settings,
        on_result: Callable[[ReloadResult], None] | None = None,
        retire_s: float = 3600.0,
    ) -> None:
        self.source = source
        self.retire_s = retire_s
        self._app = app
        self._build = build
        self._interval_s = interval_s
        self._load = load
        self._on_result = on_result
        self._artifacts = _artifacts(app.state.gateway.settings)
        self._beside = _beside(app.state.gateway.settings)
        self._seen = self._fingerprint()
        self._lock = asyncio.Lock()
        self._asked = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None
        self._retirement: asyncio.Task[None] | None = None
        self._loaded = time.time()
        self._last: ReloadResult | None = None
        self._counts = {True: 0, False: 0}

    def start(self) -> None:
        """Watch the files and, in the main thread, SIGHUP; must run in the event loop."""
        if hasattr(signal, "SIGHUP") and threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._asked.set)
        self._watch = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop watching, and wait for a reload under way and for old states to be closed."""
        if self._watch is None:
            return
        async with self._lock:
            self._watch.cancel()
        with suppress(asyncio.CancelledError):
            await self._watch
        self._watch = None
        if hasattr(signal, "SIGHUP") and threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
            # Its default, to end the process, would cut off the end that is under way.
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        if self._retirement is not None:
            await asyncio.wait([self._retirement], timeout=_LAST_RETIREMENT_S)
            self._retirement.cancel()

    def state(self) -> dict[str, Any]:
        """Return what ``/readyz`` says of the configuration.

        The details of what is wrong are in the log only: they quote the file.
        """
        last = self._last
        failing = last is not None and not last.ok
        return {
            "status": "failing" if failing else "ok",
            "source": str(self.source),
            "in_effect_since": round(self._loaded, 3),
            "reloads": self._counts[True],
            "failures": self._counts[False],
            "error": last.error.splitlines()[0] if last is not None and failing else "",
            "needs_restart": [] if last is None else [line.partition(":")[0] for line in last.ignored],
        }

    async def reload(self, trigger: str = "request") -> ReloadResult:
        """Read the configuration and put it into effect, if all of it is right; never raises for what is wrong."""
        async with self._lock:
            started = time.perf_counter()
            error = ""
            ignored: tuple[str, ...] = ()
            try:
                ignored = await self._replace()
            except LLMRouterError as problem:
                error = str(problem)
            except Exception as problem:
                logger.exception("a fault in the gateway itself kept the configuration from taking effect")
                error = f"{type(problem).__name__}: {problem}"
            result = ReloadResult(not error, trigger, time.time(), time.perf_counter() - started, error, ignored)
            self._record(result)
            return result

    async def _replace(self) -> tuple[str, ...]:
        # Before reading, so that what is written meanwhile counts as another change.
        self._seen = await asyncio.to_thread(self._fingerprint)
        settings = await asyncio.to_thread(self._load, self.source)
        self._artifacts = _artifacts(settings)
        if _beside(settings) != self._beside:
            self._beside = _beside(settings)
            self._seen = await asyncio.to_thread(self._fingerprint)
        self._seen = self._seen._replace(artifacts=_targets(self._artifacts))
        old: Gateway = self._app.state.gateway
        settings, ignored = keep_fixed(settings, old.settings)
        check_exposure(settings)
        check_workers(
            settings.limits,
            workers=settings.server.workers,
            redis=settings.redis is not None,
            keys=settings.auth is not None,
        )
        new = await asyncio.to_thread(self._build, settings, old)
        try:
            await new.start()
        except BaseException:
            await new.retire(old, within_s=0.0)
            raise
        self._app.state.gateway = new
        self._interval_s = settings.server.watch_s
        self._retirement = asyncio.create_task(self._retire(old, new, after=self._retirement))
        return ignored

    async def _retire(self, old: Gateway, new: Gateway, *, after: asyncio.Task[None] | None) -> None:
        # One after the other: what a state does not pass on may be what the state before it passed on and still uses.
        if after is not None:
            await asyncio.wait([after])
        try:
            await old.retire(new, within_s=self.retire_s)
        except Exception:
            logger.exception("the state before the last reload could not be closed")

    def _record(self, result: ReloadResult) -> None:
        self._last = result
        self._counts[result.ok] += 1
        if result.ok:
            self._loaded = result.time
            logger.info("%s is in effect (%s, %.2f s)", self.source, result.trigger, result.duration_s)
            for line in result.ignored:
                logger.warning("ignored until a restart: %s", line)
        else:
            logger.error(
                "the configuration was NOT reloaded (%s); the last good one stays in effect. %s",
                result.trigger,
                result.error,
            )
        if self._on_result is not None:
            self._on_result(result)

    async def _run(self) -> None:
        while True:
            asked = await self._asked_within(self._interval_s)
            try:
                if asked:
                    self._asked.clear()
                    await self.reload("SIGHUP")
                elif await self._changed():
                    await self.reload("change")
            except Exception:
                logger.exception("the watch over %s had a fault and goes on", self.source)

    async def _asked_within(self, interval_s: float) -> bool:
        try:
            await asyncio.wait_for(self._asked.wait(), interval_s or None)
        except TimeoutError:
            return False
        return True

    async def _changed(self) -> bool:
        """Return whether the files differ from those last read, once nobody is writing them."""
        now = await asyncio.to_thread(self._fingerprint)
        while now != self._seen:
            await asyncio.sleep(_SETTLE_S)
            before, now = now, await asyncio.to_thread(self._fingerprint)
            if now == before:
                return now != self._seen
        return False

    def _fingerprint(self) -> _Fingerprint:
        try:
            content = self.source.read_bytes()
            for file in self._beside:
                content += b"\0" + (file.read_bytes() if file.exists() else b"")
            digest = hashlib.blake2b(content).digest()
        except OSError:
            digest = None
        return _Fingerprint(digest, _targets(self._artifacts))


def keep_fixed(settings: Settings, running: Settings) -> tuple[Settings, tuple[str, ...]]:
    """Return settings with what cannot change as it is in the running gateway, and a line on each such change."""
    kept = {key: getattr(running.server, key) for key in FIXED}
    changed = {key: getattr(settings.server, key) for key in FIXED if getattr(settings.server, key) != kept[key]}
    if not changed:
        return settings, ()
    server = settings.server.model_copy(update=kept)
    lines = tuple(f"server.{key}: {value!r} in the file, {kept[key]!r} in effect" for key, value in changed.items())
    return settings.model_copy(update={"server": server}), lines


def _beside(settings: Settings) -> tuple[Path, ...]:
    """Return the files that are read with the configuration: the overlay, the routes, their labelled examples."""
    overlay = None if settings.learning.models is None else settings.learning.models.overlay
    router = settings.router
    files = (overlay, router.routes_file, None if router.routes is None else router.picks_by.examples_file)
    return tuple(file for file in files if file is not None)


def _artifacts(settings: Settings) -> tuple[Path | None, ...]:
    """Return the artifacts that are configured: the router's, the canary's and the shadow's."""
    learning = settings.learning
    second = (None if part is None else part.artifact for part in (learning.canary, learning.shadow))
    return (settings.router.artifact, *second)


def _targets(artifacts: tuple[Path | None, ...]) -> tuple[str | None, ...]:
    return tuple(_target(artifact) for artifact in artifacts)


def _target(artifact: Path | None) -> str | None:
    """Return the folder that a link such as ``artifacts/current`` leads to; artifacts themselves never change."""
    if artifact is None:
        return None
    target = os.path.realpath(artifact)
    return target if Path(target).exists() else None
