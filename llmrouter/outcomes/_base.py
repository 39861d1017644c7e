"""The contract of outcome stores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from llmrouter.types import Outcome


@dataclass(frozen=True, slots=True)
class Feedback:
    """A judgement of one answer; idempotent on (request_id, source).

    `by` is the key that gave it; "" for the gateway itself, or a caller without a key.
    """

    request_id: str
    quality: float
    source: str = "user"
    weight: float = 1.0
    time: float = 0.0
    by: str = ""


@runtime_checkable
class OutcomeStore(Protocol):
    """Durable log of outcomes. `append` and `feedback` return when the data is on disk."""

    def append(self, outcomes: Sequence[Outcome], /) -> None:
        """Store outcomes in one transaction; one already stored under its request_id is left as it is."""
        ...

    def feedback(self, feedback: Feedback, /) -> bool:
        """Store a judgement; return whether its request is known already (else it waits for it)."""
        ...

    def get(self, request_id: str, /) -> Outcome | None:
        """Return one outcome with its feedback joined, or None."""
        ...

    def scan(self, since: float = 0.0) -> Iterator[Outcome]:
        """Yield outcomes with ``time >= since``, oldest first, feedback joined."""
        ...

    def close(self) -> None:
        """Release the store."""
        ...
