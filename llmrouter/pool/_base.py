"""The contract of backends, the only asynchronous protocol of the library."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits on one upstream call, in seconds.

    Attributes
    ----------
    connect_s : float
        Until the connection stands.
    first_byte_s : float
        From sending until the first byte of the answer.
    between_chunks_s : float
        Between two pieces of a stream.
    total_s : float
        The whole call.
    """

    connect_s: float = 5.0
    first_byte_s: float = 60.0
    between_chunks_s: float = 60.0
    total_s: float = 600.0


@dataclass(frozen=True, slots=True)
class BackendResponse:
    """A complete answer: the upstream's own bytes, unchanged."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class BackendStream(Protocol):
    """An answer under way, its first byte already there."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the upstream's own bytes as they come; raise BackendStreamError or BackendTimeoutError on a break."""
        ...

    async def aclose(self) -> None:
        """Cancel the upstream call (idempotent)."""
        ...


@runtime_checkable
class Backend(Protocol):
    """Reaches one model of the pool. `body` is an OpenAI chat-completions body; `model` in it is replaced."""

    async def complete(self, body: Mapping[str, Any], *, timeouts: Timeouts) -> BackendResponse:
        """Return the whole answer.

        Raises
        ------
        BackendError
            The subclass says what went wrong.
        """
        ...

    async def stream(self, body: Mapping[str, Any], *, timeouts: Timeouts) -> BackendStream:
        """Return once the first byte is there, so that failures before it can fall back.

        Raises
        ------
        BackendError
            The subclass says what went wrong.
        """
        ...

    async def healthy(self) -> bool:
        """Return whether the upstream answers at all (cheap; no tokens spent)."""
        ...

    async def aclose(self) -> None:
        """Release connections."""
        ...
