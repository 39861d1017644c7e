"""The contract of outcome stores."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from llmrouter.types import Outcome


@dataclass(frozen=True, slots=True)
class Feedback:
    """A judgement of one answer; idempotent on (request_id, source).

    Of two judgements of one source the one with the later `time` counts, whichever comes first; 0 is the time of
    arrival. `by` is the key that gave it; "" for the gateway itself, or a caller without a key. `cost_usd` is what
    judging cost, in US dollars.
    """

    request_id: str
    quality: float
    source: str = "user"
    weight: float = 1.0
    time: float = 0.0
    by: str = ""
    cost_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class Event:
    """What is known of a judged outcome changed: the step of which online learning is made.

    Attributes
    ----------
    cursor : str
        Its place in the one order that all readers see: later events have greater cursors, compared as texts.
    outcome : Outcome
        The outcome with its judgements (``quality``, ``quality_source``, ``quality_weight``, ``quality_time``,
        ``quality_by``) as they were at the event, whenever it is read.
    """

    cursor: str
    outcome: Outcome


@runtime_checkable
class OutcomeStore(Protocol):
    """Durable log of outcomes. `append` and `feedback` return when the data is on disk."""

    def append(self, outcomes: Sequence[Outcome], /) -> None:
        """Store outcomes in one transaction; one already stored under its request_id is left as it is."""
        ...

    def feedback(self, feedback: Feedback, /) -> bool:
        """Store a judgement; return whether its request is known already (else it waits for it)."""
        ...

    def feedback_many(self, batch: Sequence[Feedback], /) -> list[bool]:
        """Store judgements, in order; return of each what `feedback` returns."""
        ...

    def get(self, request_id: str, /) -> Outcome | None:
        """Return one outcome with its feedback joined, or None."""
        ...

    def scan(self, since: float = 0.0) -> Iterator[Outcome]:
        """Yield outcomes with ``time >= since``, oldest first, feedback joined."""
        ...

    def events(self, after: str = "", limit: int = 1000) -> Sequence[Event]:
        """Return at most `limit` events that come after a cursor, in order; from the first one where it is "".

        There is one when a judged outcome is stored, and one each time a judgement of a stored outcome is added or
        changed. A judgement that waited for its outcome counts when that comes. An event is the new state of its
        outcome, in place of what earlier ones said. Events go with their outcomes when those are pruned.
        """
        ...

    def last_event(self) -> str:
        """Return the cursor of the newest event, "" where there is none."""
        ...

    def prune(self, *, before: float = -math.inf, keep: int | None = None, limit: int = 1000) -> int:
        """Remove outcomes, oldest first, with their judgements and events; return how many.

        Those with ``time < before``, and those beyond the newest `keep`; at most `limit` in one call.
        """
        ...

    def close(self) -> None:
        """Release the store."""
        ...
