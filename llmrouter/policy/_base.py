"""The contract of policies: estimates in, a ranking out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from llmrouter.types import Candidate, Decision, Estimates, RoutingRequest


@runtime_checkable
class Policy(Protocol):
    """Chooses among candidates; never chooses one that is not eligible."""

    @property
    def name(self) -> str:
        """Short name with settings, as reported in headers and outcomes, e.g. ``utility(0.3)``."""
        ...

    def choose(self, request: RoutingRequest, candidates: Sequence[Candidate], estimates: Estimates, /) -> Decision:
        """Return a decision; `estimates.models` is in the order of `candidates`.

        Raises
        ------
        NoEligibleModelError
            If no candidate is eligible.
        """
        ...
