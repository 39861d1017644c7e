"""Backend for any upstream that speaks OpenAI's API over HTTP: raw bytes in, raw bytes out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import aiohttp
import orjson

from llmrouter.exceptions import BackendConnectError, BackendStatusError, BackendStreamError
from llmrouter.pool._base import CHAT, COMPLETIONS, EMBEDDINGS, BackendResponse, Timeouts
from llmrouter.pool._http import CALL_HEADERS, CallTrace, HTTPSessions
from llmrouter.pool._limits import CallLimits
from llmrouter.pool._openai_stream import (
    OpenAIStream,
    error_object_error,
    read_error_body,
    read_piece,
    relayed_headers,
)
from llmrouter.pool._usage import error_in

_HEALTH_TIMEOUT_S = 5.0

# What an answer has and an error sent under status 200 has not. A response that failed has all that others have.
_ANSWER_MARKS = {CHAT: b'"choices"', COMPLETIONS: b'"choices"', EMBEDDINGS: b'"data"'}


class OpenAIBackend:
    """One model behind an OpenAI-compatible HTTP API.

    Parameters
    ----------
    name : str
        Pool name, for error messages.
    model : str
        The upstream's name of the model; replaces ``model`` in every body.
    base_url : str
        E.g. ``https://api.openai.com/v1``.
    api_key : str, optional
        Sent as bearer token.
    headers : mapping of str to str, optional
        Sent with every call; they go before the ones set here.
    sessions : HTTPSessions, optional
        Shared connections; by default its own, closed with the backend.
    max_response_bytes : int
        Larger answers (and larger single events) are refused.
    """

    def __init__(
        self,
        name: str,
        *,
        model: str,
        base_url: str,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        sessions: HTTPSessions | None = None,
        max_response_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        self.name = name
        self.model = model
        self.base_url = base_url.rstrip("/")
        self.max_response_bytes = max_response_bytes
        self._sessions = HTTPSessions() if sessions is None else sessions
        self._owns_sessions = sessions is None
        # Compression saves little on answers this small and would hold events back.
        self._headers = {"content-type": "application/json", "accept-encoding": "identity"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._headers |= {key.lower(): value for key, value in (headers or {}).items()}

    def __repr__(self) -> str:
        """Return name and address, never the key."""
        return f"OpenAIBackend({self.name!r}, model={self.model!r}, base_url={self.base_url!r})"

    async def complete(self, body: Mapping[str, Any], *, timeouts: Timeouts, endpoint: str = CHAT) -> BackendResponse:
        """Return the whole answer, its bytes unchanged; see `Backend.complete`."""
        limits = CallLimits(self.name, timeouts)
        response = await self._post(limits, body, endpoint, streamed=False)
        try:
            pieces = []
            size = 0
            while piece := await read_piece(response, limits):
                size += len(piece)
                if size > self.max_response_bytes:
                    raise BackendStreamError(
                        f"{self.name}: the answer is longer than {self.max_response_bytes} bytes", model=self.name
                    )
                pieces.append(piece)
            answer = b"".join(pieces)
            mark = _ANSWER_MARKS.get(endpoint)
            if mark is None or mark not in answer:
                if error := error_in(answer):
                    raise error_object_error(error, answer, self.name)
                if mark is not None:
                    raise BackendStreamError(
                        f"{self.name}: the upstream answered 200 with something that is no answer", model=self.name
                    )
            return BackendResponse(answer, relayed_headers(response.headers))
        finally:
            response.release()

    async def stream(self, body: Mapping[str, Any], *, timeouts: Timeouts, endpoint: str = CHAT) -> OpenAIStream:
        """Return once the first token is there; see `Backend.stream`."""
        limits = CallLimits(self.name, timeouts)
        response = await self._post(limits, body, endpoint, streamed=True)
        stream = OpenAIStream(limits, response, max_event_bytes=self.max_response_bytes)
        try:
            await stream.open()
        except BaseException:
            await stream.aclose()
            raise
        return stream

    async def healthy(self) -> bool:
        """Return whether the upstream answers ``GET /models`` with anything but a server error."""
        try:
            async with self._sessions.session(self.base_url).get(
                f"{self.base_url}/models",
                headers=self._headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=_HEALTH_TIMEOUT_S),
            ) as response:
                return response.status < 500
        except (aiohttp.ClientError, OSError):
            return False

    async def aclose(self) -> None:
        """Close the connections, where they are the backend's own."""
        if self._owns_sessions:
            await self._sessions.aclose()

    async def _post(
        self, limits: CallLimits, body: Mapping[str, Any], endpoint: str, *, streamed: bool
    ) -> aiohttp.ClientResponse:
        payload = orjson.dumps({**body, "model": self.model})
        response = await self._send(limits, payload, endpoint, streamed=streamed)
        if response.status == 200:
            return response
        try:
            raise await self._status_error(limits, response)
        finally:
            response.release()

    async def _send(
        self, limits: CallLimits, payload: bytes, endpoint: str, *, streamed: bool
    ) -> aiohttp.ClientResponse:
        """Send and wait for the head of the answer.

        A kept-alive connection may be closed by the upstream in the very moment it is used again. The request was
        then not taken up, and it is sent once more over a new one: where one is closed, all may be.
        """
        wait = limits.first_byte if streamed else limits.whole
        trace = CallTrace()
        while True:
            was_reused, trace = trace.reused, CallTrace()
            try:
                return await wait(
                    self._sessions.session(self.base_url, fresh=was_reused).post(
                        f"{self.base_url}/{endpoint}",
                        data=payload,
                        headers={**self._headers, **further} if (further := CALL_HEADERS.get()) else self._headers,
                        allow_redirects=False,
                        timeout=aiohttp.ClientTimeout(total=None, sock_connect=limits.timeouts.connect_s),
                        trace_request_ctx=trace,
                    )
                )
            except aiohttp.ConnectionTimeoutError as error:
                raise limits.missed("connect_s") from error
            except (aiohttp.ClientError, OSError, ValueError) as error:
                hung_up = isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError)
                if hung_up and trace.reused and not was_reused:
                    continue
                raise BackendConnectError(f"{self.name}: {_connect_trouble(error)}", model=self.name) from error

    async def _status_error(self, limits: CallLimits, response: aiohttp.ClientResponse) -> BackendStatusError:
        if response.status < 400:
            return BackendStatusError(
                f"{self.name}: the upstream answered {response.status} where 200 was expected; check base_url",
                model=self.name,
                status=502,
                body=b"",
            )
        return BackendStatusError(
            f"{self.name}: the upstream answered {response.status}",
            model=self.name,
            status=response.status,
            body=await read_error_body(response, limits),
            headers=relayed_headers(response.headers),
        )


def _connect_trouble(error: Exception) -> str:
    """Return what went wrong in words, without the address: messages reach clients."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the upstream's host name could not be resolved"
    if isinstance(error, aiohttp.ClientSSLError):
        return "no secure connection to the upstream (certificate or TLS trouble)"
    if isinstance(error, aiohttp.ClientConnectorError):
        # Not the error's own text: that holds the address.
        reason = os.strerror(error.os_error.errno).lower() if error.os_error.errno else "no reason given"
        return f"could not connect to the upstream ({reason})"
    if isinstance(error, aiohttp.ClientResponseError):
        return "the upstream answered something that is not HTTP"
    return f"the upstream hung up before it answered ({type(error).__name__})"
