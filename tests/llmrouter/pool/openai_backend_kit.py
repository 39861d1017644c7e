"""What the tests of the OpenAI backend share."""

from __future__ import annotations

from contracts.backend_kit import BODY, read
from contracts.misbehaving_upstream import MisbehavingUpstream, ordinary_stream

from llmrouter.pool import OpenAIBackend, Timeouts

STREAM_BODY = {**BODY, "stream": True}
DEFAULT_TIMEOUTS = Timeouts()
SLOW = 30.0
ORDINARY = b"".join(ordinary_stream("Hé", "llo", "漢字 🙂"))


def behave(upstream: MisbehavingUpstream, behaviour: object, model: str = "up") -> None:
    upstream.behaviours[model] = behaviour  # type: ignore[assignment]


async def stream_bytes(backend: OpenAIBackend, timeouts: Timeouts = DEFAULT_TIMEOUTS) -> bytes:
    return b"".join(found.raw for found in await read(await backend.stream(STREAM_BODY, timeouts=timeouts)))


def pieces_of(stream: bytes, size: int) -> list[bytes]:
    return [stream[i : i + size] for i in range(0, len(stream), size)]
