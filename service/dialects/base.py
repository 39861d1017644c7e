"""What a dialect is: a shape of requests and answers beside chat completions, translated both ways without I/O."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol

import orjson

from service.dialects._chat_answer import DONE, NOT_JSON, error_of, read_chunk

_REQUEST_ID_PREFIX = "req_"


class StreamTranslator(Protocol):
    """The state of one streamed answer."""

    def feed(self, data: bytes) -> bytes:
        """Take the data of one upstream event (a chat chunk or ``[DONE]``), the one that carries only usage included.

        Returns
        -------
        bytes
            The events of the dialect that follow from it; b"" where none does, and after the end.
        """
        ...

    def fail(self, error: Mapping[str, Any]) -> bytes:
        """Return the events that end the stream with an OpenAI error object (``message``, ``type``, ``code``)."""
        ...

    def finish(self) -> bytes:
        """Return the events that close the stream; b"" where it is closed."""
        ...


class ChunkTranslator(ABC):
    """A translator that takes parsed chunks one by one; a dialect says what follows from each."""

    _ended = False

    def feed(self, data: bytes) -> bytes:
        """Take one upstream event; see `StreamTranslator`."""
        if self._ended:
            return b""
        if data.startswith(DONE):
            return self.finish()
        chunk = read_chunk(data)
        if chunk is None:
            return self.fail(NOT_JSON)
        if error := error_of(chunk):
            return self.fail(error)
        return self._take(chunk) if chunk else b""

    @abstractmethod
    def _take(self, chunk: dict[str, Any]) -> bytes:
        """Return the events that follow from a chunk."""

    @abstractmethod
    def fail(self, error: Mapping[str, Any]) -> bytes:
        """See `StreamTranslator`."""

    @abstractmethod
    def finish(self) -> bytes:
        """See `StreamTranslator`."""


class Dialect(Protocol):
    """A shape of requests and answers.

    `asked` is the client's own body throughout; it is never changed.
    """

    name: str

    def to_chat(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the chat completion that a request asks for; fields that are not known go with it as they are.

        Raises
        ------
        APIError
            400, with ``param`` naming the client's own field.
        """
        ...

    def answer(self, chat: dict[str, Any], asked: dict[str, Any], *, request_id: str) -> dict[str, Any]:
        """Return a whole chat completion in the shape of the dialect."""
        ...

    def stream(self, asked: dict[str, Any], *, request_id: str) -> StreamTranslator:
        """Return the translator of one streamed answer."""
        ...

    def error(self, status: int, error: Mapping[str, Any], *, request_id: str) -> dict[str, Any]:
        """Return the body of an error answer, given OpenAI's error object and the HTTP status."""
        ...


def named_event(name: str, payload: Mapping[str, Any]) -> bytes:
    """Return a server-sent event with a name and one line of data."""
    return b"event: " + name.encode() + b"\ndata: " + orjson.dumps(payload) + b"\n\n"


def data_event(payload: Mapping[str, Any]) -> bytes:
    """Return a server-sent event with one line of data."""
    return b"data: " + orjson.dumps(payload) + b"\n\n"


def answer_id(prefix: str, request_id: str) -> str:
    """Return the id of an answer, made of the request's own, so that one leads to the other."""
    return f"{prefix}_{request_id.removeprefix(_REQUEST_ID_PREFIX)}"
