"""An outcome store that forgets: for tests and demonstrations."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Self

from llmrouter.exceptions import ConfigError
from llmrouter.outcomes._base import Event, Feedback
from llmrouter.outcomes._cursor import parse_number, write_number
from llmrouter.outcomes._feedback import check_feedback, check_outcome, join_feedback, replaces
from llmrouter.types import Outcome, is_missing


class MemoryOutcomeStore:
    """The `OutcomeStore` contract without a disk; pending feedback is kept as long as the store."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outcomes: dict[str, Outcome] = {}
        self._feedback: dict[str, dict[str, Feedback]] = {}
        self._events: dict[int, Outcome] = {}
        self._last_event = 0

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Return an empty store for ``memory://``."""
        if url != "memory://":
            raise ConfigError(f"log.store {url!r}: a memory store has no name; write memory://")
        return cls()

    def append(self, outcomes: Sequence[Outcome], /) -> None:
        """Store outcomes; one already stored under its request_id is left as it is."""
        for outcome in outcomes:
            check_outcome(outcome)
        with self._lock:
            for outcome in outcomes:
                if outcome.request_id not in self._outcomes:
                    self._outcomes[outcome.request_id] = outcome
                    self._note(outcome.request_id)

    def feedback(self, feedback: Feedback, /) -> bool:
        """Store a judgement; return whether its request is known already."""
        return self.feedback_many([feedback])[0]

    def feedback_many(self, batch: Sequence[Feedback], /) -> list[bool]:
        """Store judgements, in order; return of each whether its request is known already."""
        for feedback in batch:
            check_feedback(feedback)
        with self._lock:
            return [self._judge(feedback) for feedback in batch]

    def _judge(self, feedback: Feedback) -> bool:
        feedback = dataclasses.replace(feedback, time=feedback.time or time.time())
        judgements = self._feedback.setdefault(feedback.request_id, {})
        known = feedback.request_id in self._outcomes
        if replaces(feedback, judgements.get(feedback.source)):
            judgements[feedback.source] = feedback
            if known:
                self._note(feedback.request_id)
        return known

    def update_costs(self, costs: Iterable[tuple[str, float, str]], /) -> int:
        """Replace costs (request id, US dollars, stamp of the price list); return how many outcomes were found."""
        found = 0
        with self._lock:
            for request_id, cost, stamp in costs:
                if outcome := self._outcomes.get(request_id):
                    self._outcomes[request_id] = dataclasses.replace(outcome, cost_usd=cost, price_as_of=stamp)
                    found += 1
        return found

    def get(self, request_id: str, /) -> Outcome | None:
        """Return one outcome with its feedback joined, or None."""
        with self._lock:
            outcome = self._outcomes.get(request_id)
            return outcome and self._joined(outcome)

    def scan(self, since: float = 0.0) -> Iterator[Outcome]:
        """Yield outcomes with ``time >= since``, oldest first, feedback joined."""
        with self._lock:
            recent = [outcome for outcome in self._outcomes.values() if outcome.time >= since]
            judged = [self._joined(outcome) for outcome in sorted(recent, key=lambda outcome: outcome.time)]
        yield from judged

    def events(self, after: str = "", limit: int = 1000) -> Sequence[Event]:
        """Return at most `limit` events that come after a cursor, in order."""
        last = parse_number(after)
        with self._lock:
            found: list[Event] = []
            for number, outcome in self._events.items():
                if len(found) == limit:
                    break
                if number > last:
                    found.append(Event(write_number(number), outcome))
            return found

    def last_event(self) -> str:
        """Return the cursor of the newest event, "" where there is none."""
        with self._lock:
            return write_number(self._last_event) if self._last_event else ""

    def prune(self, *, before: float = -math.inf, keep: int | None = None, limit: int = 1000) -> int:
        """Remove outcomes, oldest first, with their judgements and events; return how many."""
        with self._lock:
            oldest_first = sorted(self._outcomes.values(), key=lambda outcome: outcome.time)
            excess = 0 if keep is None else max(len(oldest_first) - keep, 0)
            aged = sum(outcome.time < before for outcome in oldest_first)
            gone = {outcome.request_id for outcome in oldest_first[: min(max(excess, aged), limit)]}
            for request_id in gone:
                del self._outcomes[request_id]
                self._feedback.pop(request_id, None)
            self._events = {n: event for n, event in self._events.items() if event.request_id not in gone}
        return len(gone)

    def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def _joined(self, outcome: Outcome) -> Outcome:
        return join_feedback(outcome, self._feedback.get(outcome.request_id, {}).values())

    def _note(self, request_id: str) -> None:
        """Add an event, where the outcome is judged."""
        outcome = self._joined(self._outcomes[request_id])
        if not is_missing(outcome.quality):
            self._last_event += 1
            self._events[self._last_event] = outcome
