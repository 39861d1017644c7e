"""The contract of backends, the only asynchronous protocol of the library."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from llmrouter.pool._sse import ServerSentEvent
from llmrouter.pool._usage import StreamObserver

CHAT, COMPLETIONS, RESPONSES, EMBEDDINGS = "chat/completions", "completions", "responses", "embeddings"
"""The endpoints of OpenAI's API that backends know: paths below the base URL."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits on one upstream call, in seconds.

    Attributes
    ----------
    connect_s : float
        Until the connection stands.
    first_byte_s : float
        From sending until the first token of a stream; keep-alives and empty chunks are none. An answer that is not
        streamed comes in one piece when all of it is thought out, so only `total_s` limits the wait for that.
    between_chunks_s : float
        Between two pieces of an answer.
    total_s : float
        The whole call.
    """

    connect_s: float = 5.0
    first_byte_s: float = 60.0
    between_chunks_s: float = 60.0
    total_s: float = 600.0


@dataclass(frozen=True, slots=True)
class BackendResponse:
    """A complete answer: the upstream's own bytes, unchanged; header names in lower case."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class BackendStream(Protocol):
    """An answer under way, its first token already there."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Upstream headers worth relaying, names in lower case."""
        ...

    @property
    def observer(self) -> StreamObserver | None:
        """What has gone by, where the stream watches it anyway: it then marks events as `usage_only` too."""
        ...

    def __aiter__(self) -> AsyncIterator[Sequence[ServerSentEvent]]:
        """Yield events in batches as they come; their `raw` joined are the upstream's own bytes.

        Raises
        ------
        BackendStreamError
            If the upstream breaks off: a reset, or an end that is no end of an answer.
        BackendTimeoutError
            If it falls silent.
        """
        ...

    async def aclose(self) -> None:
        """Cancel the upstream call, or release it where it has ended (idempotent)."""
        ...


@runtime_checkable
class Backend(Protocol):
    """Reaches one model of the pool.

    `body` is one of OpenAI's for the `endpoint` that is asked (chat completions by default, see `CHAT`); `model` in
    it is replaced.
    """

    async def complete(self, body: Mapping[str, Any], *, timeouts: Timeouts, endpoint: str = CHAT) -> BackendResponse:
        """Return the whole answer.

        Raises
        ------
        BackendError
            The subclass says what went wrong.
        """
        ...

    async def stream(self, body: Mapping[str, Any], *, timeouts: Timeouts, endpoint: str = CHAT) -> BackendStream:
        """Return once the first token is there, so that failures before it can fall back.

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
