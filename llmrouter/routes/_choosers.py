"""What choosers of routes have in common: their contracts, and the pick that is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from llmrouter.exceptions import EncoderError
from llmrouter.routes._conversation import Conversation
from llmrouter.types import OTHER_ROUTE, RoutePick, RoutingRequest


@runtime_checkable
class Chooser(Protocol):
    """Picks routes without waiting for anybody: runs where requests are decided, in batches."""

    def pick(self, conversations: Sequence[Conversation], /) -> list[RoutePick]:
        """Return the route of each conversation, the same as alone."""
        ...


def other(chooser: str, reason: str, *, failure: str = "") -> RoutePick:
    """Return the pick that leaves a request to the ordinary policy."""
    return RoutePick(OTHER_ROUTE, chooser, reason, failure=failure)


def with_picks(chooser: Chooser, requests: Sequence[RoutingRequest]) -> list[RoutingRequest]:
    """Return requests with their routes, where nobody has picked them before.

    A text that cannot be encoded is on no route; whoever decides next says what is wrong with it.
    """
    open_ones = [i for i, request in enumerate(requests) if request.route is None]
    if not open_ones:
        return list(requests)
    conversations = [requests[i].conversation or (("user", requests[i].text),) for i in open_ones]
    try:
        picks = chooser.pick(conversations)
    except EncoderError:
        picks = [_alone(chooser, conversation) for conversation in conversations]
    found = dict(zip(open_ones, picks, strict=True))
    return [replace(request, route=found.get(i, request.route)) for i, request in enumerate(requests)]


def _alone(chooser: Chooser, conversation: Conversation) -> RoutePick:
    try:
        return chooser.pick([conversation])[0]
    except EncoderError:
        return other("embedding", "the text cannot be encoded", failure="unreadable")
