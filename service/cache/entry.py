"""A kept answer, and one that was found."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

_MAGIC = b"llmr1"
_DIGEST_BYTES = 16
_LENGTH_BYTES = 4
_OVERHEAD_BYTES = 512


@dataclass(frozen=True, slots=True)
class Entry:
    """A kept answer: the upstream's chat completion.

    Attributes
    ----------
    payload : bytes
        The body as it came; of a stream its events as they came, without the extra usage chunk and ``[DONE]``.
    streamed : bool
        Which of the two.
    served_by : str
        The model that answered.
    stored : float
        Seconds since the epoch when it came.
    usage : mapping or None
        As the provider counted, where it did.
    usage_event : bytes
        The extra usage chunk of a stream as it came; b"" where there was none.
    usage_shown : bool
        Whether `payload` holds the usage already.
    plain : bool
        Whether it is one whole text without tool calls, which may answer a similar question too.
    scope : str
        Who may be given it.
    """

    payload: bytes
    streamed: bool
    served_by: str
    stored: float
    usage: Mapping[str, Any] | None = None
    usage_event: bytes = b""
    usage_shown: bool = False
    plain: bool = False
    scope: str = ""

    @property
    def size(self) -> int:
        """About how many bytes of memory it takes."""
        return len(self.payload) + len(self.usage_event) + _OVERHEAD_BYTES


@dataclass(frozen=True, slots=True)
class Hit:
    """A kept answer to what was asked.

    Attributes
    ----------
    entry : Entry
        The answer.
    age_s : float
        Since it came.
    similarity : float or None
        Of the question it answered to the one that was asked; None where it was the same.
    """

    entry: Entry
    age_s: float = 0.0
    similarity: float | None = None

    @property
    def semantic(self) -> bool:
        """Whether the question was a similar one."""
        return self.similarity is not None

    def headers(self) -> dict[str, str]:
        """Return the response headers that tell of it."""
        headers = {"age": str(int(self.age_s))}
        if self.similarity is not None:
            headers["x-llmrouter-cache-similarity"] = f"{self.similarity:.4f}"
        return headers


def encode(key: bytes, entry: Entry) -> bytes:
    """Return an entry as bytes that tell damage; see `decode`."""
    head = orjson.dumps(
        {
            "streamed": entry.streamed,
            "served_by": entry.served_by,
            "stored": entry.stored,
            "usage": None if entry.usage is None else dict(entry.usage),
            "usage_event": len(entry.usage_event),
            "usage_shown": entry.usage_shown,
            "plain": entry.plain,
            "scope": entry.scope,
        }
    )
    rest = b"".join((len(head).to_bytes(_LENGTH_BYTES), head, entry.usage_event, entry.payload))
    return _MAGIC + _digest(key, rest) + rest


def decode(key: bytes, value: object) -> Entry | None:
    """Return the entry that `encode` wrote for this key, or None where anything is wrong with the value."""
    start = len(_MAGIC) + _DIGEST_BYTES
    if not isinstance(value, bytes) or not value.startswith(_MAGIC) or len(value) < start + _LENGTH_BYTES:
        return None
    rest = value[start:]
    if _digest(key, rest) != value[len(_MAGIC) : start]:
        return None
    end = _LENGTH_BYTES + int.from_bytes(rest[:_LENGTH_BYTES])
    try:
        head = orjson.loads(rest[_LENGTH_BYTES:end])
        events = end + head.pop("usage_event")
        return Entry(payload=rest[events:], usage_event=rest[end:events], **head)
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return None  # whole, but of another version


def _digest(key: bytes, rest: bytes) -> bytes:
    return hashlib.blake2b(rest, key=key, digest_size=_DIGEST_BYTES).digest()
