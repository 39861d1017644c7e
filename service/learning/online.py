"""Online adaptation in a gateway: a thread follows the log, and hands over engines that have learned from it."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from llmrouter.exceptions import ArtifactCorruptError, DataError, LLMRouterError
from llmrouter.learning import DriftMonitor, OnlineLearner, load_online, save_online
from service.learning.online_settings import OnlineSettings
from service.workers import WORKER_VARIABLE

if TYPE_CHECKING:
    from llmrouter.engine import RoutingEngine
    from llmrouter.outcomes import Event, OutcomeStore
    from llmrouter.types import FloatArray, Outcome
    from service.learning.trust_settings import TrustSettings
    from service.settings import LogSettings, Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")

Submit = Callable[[Callable[["OutcomeStore"], Any]], "Future[Any]"]
"""See `OutcomeWriter.submit`."""

_PORTION = 500
_ENCODED_AT_ONCE = 10
# Of its time at work this thread leaves so much, and once more, to the decisions that it must not hold up.
_REST = 1.0
_STORE_S = 30.0
_SAVE_S = 60.0
_PATIENCE = 4.0


class OnlineUpdater:
    """Follows the log from where the artifact's training ended.

    Nothing of it is in a request's way: events are read through the writer of the log, learned in a thread of its own,
    and the engine that comes of it takes the old one's place by one assignment. What is being decided goes on with the
    engine that it began with.

    Parameters
    ----------
    learner : OnlineLearner
        Of the artifact in effect; used by the thread only.
    monitor : DriftMonitor or None
        Told of the same events.
    submit : callable
        Runs a job with the store of the log.
    swap : callable
        Takes an engine that has learned; called in the thread.
    settings : OnlineSettings
        Whether the engine adapts, and how often the log is looked at.
    snapshot : Path or None
        Where to keep what was learned.
    log : str
        Names the log.
    before : OnlineUpdater, optional
        The one whose place this one takes on a reload; it ends when this one starts.
    """

    def __init__(
        self,
        learner: OnlineLearner,
        *,
        monitor: DriftMonitor | None,
        submit: Submit,
        swap: Callable[[RoutingEngine], None],
        settings: OnlineSettings,
        snapshot: Path | None = None,
        log: str = "",
        before: OnlineUpdater | None = None,
    ) -> None:
        self.learner = learner
        self.monitor = monitor
        self.settings = settings
        self.snapshot = snapshot
        self._submit = submit
        self._swap = swap
        self._log = log
        self._before = before
        self._served: RoutingEngine | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._started = time.time()
        self._caught_up = 0.0
        self._newest = 0.0
        self._swaps = self._alarms = 0
        self._trouble = ""
        self._saved, self._saved_cursor = time.monotonic(), ""
        self._state: dict[str, Any] = {}
        self._drift: dict[str, Any] = {}
        self._tell()

    def start(self) -> None:
        """Start the thread; first end the one before, and go on where it stood. Blocks for as long."""
        before, self._before = self._before, None
        if before is not None:
            before.close()
            self._go_on(before)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="online-learning", daemon=True)
            self._thread.start()

    def close(self, timeout_s: float = 10.0) -> None:
        """End the thread, which keeps what was learned for the next start."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def state(self) -> dict[str, Any]:
        """Return where it stands; any thread."""
        now = time.time()
        behind = 0.0 if self._caught_up and not self._trouble else now - (self._caught_up or self._started)
        return {
            "status": "failing" if self._trouble else "ok" if self._caught_up else "catching up",
            **self._state,
            "behind_s": round(behind, 3),
            "newest_outcome": self._newest or None,
            "swaps": self._swaps,
            "trouble": self._trouble,
        }

    def drift_state(self) -> dict[str, Any]:
        """Return how the pool's models stand against what is expected of them; any thread."""
        drifting = sum(bool(one["alarm"]) for one in self._drift.values())
        return {
            "status": "alarm" if drifting else "ok",
            "drifting": drifting,
            "alarms": self._alarms,
            "models": self._drift,
        }

    def calibration_errors(self) -> dict[str, float]:
        """Return the expected calibration error of each model that was judged; any thread."""
        return {
            model: one["calibration_error"]
            for model, one in self._drift.items()
            if one["calibration_error"] is not None
        }

    def step(self) -> bool:
        """Learn what is new in the log; return whether the engine changed.

        Raises
        ------
        StoreError
            If the log cannot be read.
        """
        while not self._stop.is_set():
            events = self._read()
            if not events and self.learner.cursor and self._replaced():
                continue
            before = time.perf_counter()
            self._take(events)
            self._rest(time.perf_counter() - before)
            if len(events) < _PORTION:
                break
        changed = self._adapt()
        self._caught_up = time.time()
        self._tell()
        return changed

    # The thread

    def _run(self) -> None:
        restored = False
        while True:
            before = time.perf_counter()
            try:
                if not restored:
                    restored = True
                    self._restore()
                self.step()
            except LLMRouterError as error:
                self._failed(str(error))
            except Exception as error:
                logger.exception("a fault in online adaptation; it goes on")
                self._failed(f"a fault of the gateway itself: {type(error).__name__}")
            else:
                if self._trouble:
                    logger.warning("online adaptation works again")
                self._trouble = ""
            if time.monotonic() - self._saved >= _SAVE_S:
                self._save()
            # Of a processor at most a fifth, however much there is to weigh.
            if self._stop.wait(max(self.settings.interval_s, _PATIENCE * (time.perf_counter() - before))):
                break
        self._save()

    def _read(self) -> Sequence[Event]:
        after = self.learner.cursor
        events: Sequence[Event] = self._submit(lambda store: store.events(after, _PORTION)).result(_STORE_S)
        return events

    def _replaced(self) -> bool:
        """Begin again if the log is not the one that was followed so far: a new file under the old name."""
        newest: str = self._submit(lambda store: store.last_event()).result(_STORE_S)
        if not newest or newest >= self.learner.cursor:
            return False
        logger.warning("the log was replaced by another one; online adaptation begins again")
        self._begin()
        return True

    def _begin(self) -> None:
        self.learner.forget()
        if self.monitor is not None:
            self.monitor = DriftMonitor(self.monitor.parameters)

    def _go_on(self, before: OnlineUpdater) -> None:
        if before.learner.cursor and before._log == self._log and self.learner.take_over(before.learner):
            if self.monitor is not None and before.monitor is not None:
                self.monitor.restore(before.monitor.snapshot())
            self._saved_cursor = before._saved_cursor
            self._adapt()
            self._tell()

    def _take(self, events: Sequence[Event]) -> None:
        if not events:
            return
        self.learner.learn(events)
        self._newest = max(self._newest, *(event.outcome.time for event in events))
        if self.monitor is None:
            return
        for model, side in self.monitor.watch(events):
            self._alarms += 1
            logger.warning("drift: %s is %s than the router expects", model, side)

    def _adapt(self) -> bool:
        if not self.settings.enabled:
            return False
        while not self._stop.is_set():
            before = time.perf_counter()
            if not self.learner.encode(_ENCODED_AT_ONCE):
                break
            self._rest(time.perf_counter() - before)
        if self._stop.is_set():
            return False
        engine = self.learner.engine()
        if engine is self._served:
            return False
        if self._served is not None or engine is not self.learner.base:
            self._swap(engine)
            self._swaps += 1
        self._served = engine
        return True

    def _rest(self, worked_s: float) -> None:
        self._stop.wait(worked_s * _REST)

    def _tell(self) -> None:
        self._state = asdict(self.learner.state())
        self._drift = (
            {} if self.monitor is None else {model: asdict(one) for model, one in self.monitor.state().items()}
        )

    def _failed(self, trouble: str) -> None:
        if not self._trouble:
            logger.warning("online adaptation stands still: %s", trouble)
        self._trouble = trouble or "it does not say why"

    def _restore(self) -> None:
        if self.snapshot is None or self.learner.cursor:
            return
        try:
            more = load_online(self.learner, self.snapshot, log=self._log)
            if more is None:
                return
            if self.monitor is not None and "drift" in more:
                self.monitor.restore(more["drift"])
        except (ArtifactCorruptError, DataError) as error:
            logger.warning("the log is read from its beginning: %s", error)
            self._begin()
        self._saved_cursor = self.learner.cursor
        self._adapt()  # the log may be away now
        self._tell()

    def _save(self) -> None:
        self._saved = time.monotonic()
        if self.snapshot is None or self.learner.cursor == self._saved_cursor:
            return
        more = {} if self.monitor is None else {"drift": self.monitor.snapshot()}
        try:
            save_online(self.learner, self.snapshot, log=self._log, more=more)
        except OSError as error:
            logger.warning("what was learned online is not kept: %s", error)
        else:
            self._saved_cursor = self.learner.cursor


def build_updater(
    settings: Settings,
    engine: object,
    *,
    submit: Submit,
    swap: Callable[[RoutingEngine], None],
    before: OnlineUpdater | None = None,
) -> OnlineUpdater | None:
    """Return what adapts an engine and watches for drift as configured; None where neither is wanted.

    An engine that is not the library's cannot be adapted, and gives None too.
    """
    from llmrouter.engine import RoutingEngine

    learning = settings.learning
    online = learning.online if learning.online is not None and learning.online.enabled else None
    drift = learning.drift if learning.drift is not None and learning.drift.enabled else None
    if (online is None and drift is None) or not isinstance(engine, RoutingEngine):
        return None
    wanted = OnlineSettings(enabled=False, window=1) if online is None else online
    return OnlineUpdater(
        OnlineLearner(
            engine,
            parameters=wanted.parameters(),
            trust=_trust_of(learning.trust) if wanted.trust else None,
        ),
        monitor=None if drift is None else DriftMonitor(drift.parameters()),
        submit=submit,
        swap=swap,
        settings=wanted,
        snapshot=snapshot_path(settings.log, wanted.snapshot),
        log=_name_of(settings.log.store),
        before=before,
    )


def snapshot_path(log: LogSettings, configured: Path | None) -> Path | None:
    """Return where a worker keeps what it learned: beside the spool of its outcomes; None with a log in memory."""
    worker = os.environ.get(WORKER_VARIABLE, "")
    suffix = f".{worker}" if worker else ""
    if configured is not None:
        return configured.with_name(configured.name + suffix)
    if log.store.startswith("memory:"):
        return None
    name = log.store.removeprefix("sqlite:///") if log.store.startswith("sqlite:///") else "outcomes"
    return Path(f"{name}.online{suffix}")


def _trust_of(settings: TrustSettings) -> Callable[[Sequence[Outcome], FloatArray], FloatArray]:
    from llmrouter.learning import trusted_weights

    limits = settings.limits()
    return lambda outcomes, X: trusted_weights(outcomes, X, limits).weight


def _name_of(store: str) -> str:
    """Return a name of the log without what its URL may hold of secrets."""
    return hashlib.sha256(store.encode()).hexdigest()[:16]
