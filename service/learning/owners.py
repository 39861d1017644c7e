"""Whose requests the latest were: who may judge them is known without asking the log."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmrouter.types import Outcome

# Older ones are looked up in the log.
_REMEMBERED = 10_000

Owner = tuple[str | None, str | None]
"""Key id and team; None where there was none."""


class Owners:
    """Remember the key and the team of the latest requests; belongs to the event loop's thread."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Owner] = OrderedDict()
        self._latest: Owner = (None, None)

    def note(self, outcome: Outcome) -> None:
        """Take in a request that has ended."""
        if outcome.key_id is None:
            return  # anybody's: the log says so where it matters
        owner = (outcome.key_id, outcome.team)
        if owner == self._latest:
            owner = self._latest  # one tuple for many requests
        self._latest = self._known[outcome.request_id] = owner
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    def of(self, request_id: str) -> Owner | None:
        """Return the owner of a request, None where it is not remembered."""
        return self._known.get(request_id)
