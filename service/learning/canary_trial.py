"""The trial of a canary: who takes part, what came of it, and its end."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from llmrouter.exceptions import LLMRouterError
from llmrouter.policy import uniform_of
from service.learning.canary_guard import CANARY, LIVE, Guard, value_of
from service.learning.canary_state import Status, TrialState, TrialStateError, TrialStore
from service.workers import WORKER_VARIABLE

if TYPE_CHECKING:
    from llmrouter.outcomes import Event, OutcomeStore
    from llmrouter.types import Outcome, RoutingRequest
    from service.learning.canary_settings import CanarySettings
    from service.learning.canary_shared import SharedOutcomes

logger = logging.getLogger(__name__)

T = TypeVar("T")
WithLog = Callable[[Callable[["OutcomeStore"], Any]], Awaitable[Any]]

_EVENTS = 500
_MOST_READS = 20


class CanaryTrial:
    """Decides who takes part, and watches over it; outlives the reloads of the configuration that keep it.

    Parameters
    ----------
    settings : CanarySettings
        The share, the guards.
    artifact_id : str
        What is on trial.
    live_id : callable
        Returns the artifact in the other lane.
    store : TrialStore
        Where replicas tell each other.
    with_log : callable
        Runs a job with the outcome store; see `Gateway.with_log`.
    workers : int
        Processes that count errors, costs and latencies each for themselves, and share the guards' doubts.
    shared : SharedOutcomes, optional
        Through which all replicas count them together; `workers` does not matter then.
    clock : callable, optional
        Seconds since the epoch; for tests.
    """

    def __init__(
        self,
        settings: CanarySettings,
        *,
        artifact_id: str,
        live_id: Callable[[], str],
        store: TrialStore,
        with_log: WithLog,
        workers: int = 1,
        shared: SharedOutcomes | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.artifact_id = artifact_id
        self.live_id = live_id
        self.with_log = with_log
        self.trouble = self._told = ""
        self._store = store
        self._shared = shared
        self._clock = clock
        self._state: TrialState | None = None
        self._unsaved = False
        self._cursor = ""
        self._task: asyncio.Task[None] | None = None
        doubt = 1.0 - max((guard.confidence for guard in settings.guards), default=0.95)
        self._guards = [
            Guard(
                guard,
                # What is shared every worker counts alike, judgements from the log; the rest each counts for itself.
                alpha=doubt / len(settings.guards) / (1 if guard.metric == "quality" or shared else workers),
            )
            for guard in settings.guards
        ]

    # Who takes part

    @property
    def status(self) -> Status | None:
        """How the trial stands; None before it is known."""
        return None if self._state is None else self._state.status

    def takes(self, request: RoutingRequest) -> bool:
        """Return whether the canary decides for a request: the same for the same key or session, in every replica."""
        if self.status != "running" or self.artifact_id == self.live_id():
            return False
        by = self.settings.by
        unit = _unit(by, request.key_id, request.conversation_id) or request.request_id or ""
        return uniform_of("canary", 0, f"{self.artifact_id}\0{unit}") < self.settings.share

    # What came of it

    def observe(self, outcome: Outcome) -> None:
        """Take in a request that has ended."""
        if not self._counts_ends or not self._concerns(outcome):
            return
        if self._shared is not None:
            self._shared.note(outcome, self._unit_of(outcome))
        else:
            self._take_end(outcome, self._unit_of(outcome))

    def _take_end(self, outcome: Outcome, unit: str) -> None:
        if self._concerns(outcome):
            for guard in self._guards:
                if guard.settings.metric != "quality":
                    guard.take(outcome, unit)

    @property
    def _counts_ends(self) -> bool:
        return any(guard.settings.metric != "quality" for guard in self._guards)

    def _concerns(self, outcome: Outcome) -> bool:
        state = self._state
        if state is None or state.status != "running" or outcome.time < state.since:
            return False
        return outcome.artifact_id == {CANARY: self.artifact_id, LIVE: self.live_id()}.get(outcome.lane)

    def _unit_of(self, outcome: Outcome) -> str:
        by = self.settings.by
        return _unit(by, outcome.key_id, outcome.conversation_id) or ("" if by == "request" else outcome.request_id)

    # Its end

    async def end(self, status: Status, *, reason: str, by: str) -> TrialState:
        """Roll back, promote or run again; at once here, and in other replicas when they look next."""
        before = self._state
        now = self._clock()
        since = before.since if before is not None and status != "running" else now
        cursor = before.cursor if before is not None and status != "running" else await self._newest()
        self._state = TrialState(
            self.artifact_id, status, since=since, cursor=cursor, changed=now, reason=reason[:500], by=by
        )
        if status == "running":
            self._begin(cursor)
        self._unsaved = True
        logger.warning("canary %s: %s (%s; by %s)", self.artifact_id, status.replace("_", " "), reason, by)
        await self._save()
        return self._state

    def start(self) -> None:
        """Start watching; again is nothing."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._watch(), name="canary")

    async def aclose(self) -> None:
        """Stop watching."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    def state(self) -> dict[str, Any]:
        """Return how the trial stands, for people and metrics."""
        state = self._state
        return {
            "artifact": self.artifact_id,
            "status": "starting" if state is None else state.status,
            "share": self.settings.share,
            "by": self.settings.by,
            "since": None if state is None else state.since,
            "changed": None if state is None else state.changed,
            "reason": "" if state is None else state.reason,
            "changed_by": "" if state is None else state.by,
            "trouble": self.trouble,
            "guards": [guard.state() for guard in self._guards],
        }

    async def step(self) -> None:
        """Look at what other replicas did, read new judgements, ask the guards; what `start` repeats."""
        await self.refresh()
        for read in (self._read_judgements, self._read_ends):
            try:
                await read()
            except LLMRouterError as error:
                self._complain(str(error))
        if not self.trouble:
            self._told = ""
        if self.status == "running" and self.artifact_id != self.live_id():
            for guard in self._guards:
                verdict = guard.verdict()
                if verdict.worse:
                    await self.end("rolled_back", reason=_reason(guard), by="guard")
                    break

    async def refresh(self) -> None:
        """Tell other replicas what they have not heard yet, or hear what they did; trouble is kept in `trouble`."""
        try:
            if self._unsaved:
                await self._save()
            else:
                await self._look()
            if not self._unsaved:
                self.trouble = ""
        except LLMRouterError as error:
            self._complain(str(error))

    async def _watch(self) -> None:
        while True:
            try:
                await self.step()
            except Exception:
                logger.exception("the watch over the canary had a fault and goes on")
            await asyncio.sleep(self.settings.interval_s)

    async def _look(self) -> None:
        before = self._state
        found = await self._store.read(self.artifact_id)
        if found is None:  # not begun yet, or removed by somebody: begin anew
            first = TrialState(
                self.artifact_id, "running", since=self._clock(), cursor=await self._newest(), changed=self._clock()
            )
            found = await self._store.write(first, first=True)
        if found == before or self._state is not before:  # ended here meanwhile: what was read is old
            return
        self._state = found
        if before is None or found.since != before.since:
            self._begin(found.cursor)
        if before is None or before.status != found.status:
            logger.log(
                logging.INFO if found.status == "running" else logging.WARNING,
                "canary %s is %s%s",
                self.artifact_id,
                found.status.replace("_", " "),
                f": {found.reason}" if found.reason else "",
            )

    def _begin(self, cursor: str) -> None:
        self._cursor = cursor
        self._guards = [Guard(guard.settings, alpha=guard.alpha) for guard in self._guards]
        if self._shared is not None:
            self._shared.begin()

    async def _save(self) -> None:
        state = self._state
        if state is None:
            return
        try:
            await self._store.write(state)
            if self._state is state:
                self._unsaved = False
                self.trouble = ""
        except TrialStateError as error:
            # It holds here; other replicas hear of it as soon as it can be written.
            self._complain(str(error))

    async def _newest(self) -> str:
        newest: str = await self.with_log(lambda store: store.last_event())
        return newest

    async def _read_ends(self) -> None:
        if self._shared is not None and self.status == "running" and self._counts_ends:
            await self._shared.exchange(self._take_end)

    async def _read_judgements(self) -> None:
        if self.status != "running" or all(guard.settings.metric != "quality" for guard in self._guards):
            return
        for _ in range(_MOST_READS):
            events: Sequence[Event] = await self.with_log(lambda store: store.events(self._cursor, _EVENTS))
            for event in events:
                self._cursor = event.cursor
                outcome = event.outcome
                if self._concerns(outcome) and value_of("quality", outcome) is not None:
                    for guard in self._guards:
                        if guard.settings.metric == "quality":
                            guard.take(outcome, self._unit_of(outcome))
            if len(events) < _EVENTS:
                return

    def _complain(self, trouble: str) -> None:
        if trouble != self._told:
            self._told = trouble
            logger.warning("canary %s: %s", self.artifact_id, trouble)
        self.trouble = trouble


def _unit(by: str, key_id: str | None, session: str | None) -> str | None:
    """Return what stays in one lane together; None where it is the request alone."""
    if by == "request":
        return None
    if by == "session" and session:
        return f"session {key_id or ''} {session}"
    return f"key {key_id}" if key_id else (f"session {session}" if session else None)


def _reason(guard: Guard) -> str:
    state = guard.state()
    return (
        f"{state['metric']}: {state['canary']['mean']:g} of {state['canary']['outcomes']} outcomes against "
        f"{state['live']['mean']:g} of {state['live']['outcomes']}; worse by at least {state['worse_by_at_least']:g}, "
        f"allowed are {state['max_drop']:g}"
    )


def counts_in(workers: int) -> int:
    """Return among how many processes outcomes are counted: one where this process is no worker."""
    return workers if os.environ.get(WORKER_VARIABLE) else 1
