"""An outcome store that forgets: for tests and demonstrations."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Self

from llmrouter.exceptions import ConfigError
from llmrouter.outcomes._base import Feedback
from llmrouter.outcomes._feedback import check_feedback, check_outcome, join_feedback
from llmrouter.types import Outcome


class MemoryOutcomeStore:
    """The `OutcomeStore` contract without a disk; pending feedback is kept as long as the store."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outcomes: dict[str, Outcome] = {}
        self._feedback: dict[str, dict[str, Feedback]] = {}

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
                self._outcomes.setdefault(outcome.request_id, outcome)

    def feedback(self, feedback: Feedback, /) -> bool:
        """Store a judgement; return whether its request is known already."""
        check_feedback(feedback)
        with self._lock:
            judgements = self._feedback.setdefault(feedback.request_id, {})
            before = judgements.get(feedback.source)
            if before is None or (before.quality, before.weight) != (feedback.quality, feedback.weight):
                judgements[feedback.source] = dataclasses.replace(feedback, time=feedback.time or time.time())
            return feedback.request_id in self._outcomes

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
            return outcome and join_feedback(outcome, self._feedback.get(request_id, {}).values())

    def scan(self, since: float = 0.0) -> Iterator[Outcome]:
        """Yield outcomes with ``time >= since``, oldest first, feedback joined."""
        with self._lock:
            recent = [outcome for outcome in self._outcomes.values() if outcome.time >= since]
            judged = [
                join_feedback(outcome, self._feedback.get(outcome.request_id, {}).values())
                for outcome in sorted(recent, key=lambda outcome: outcome.time)
            ]
        yield from judged

    def close(self) -> None:
        """Do nothing: there is nothing to release."""
