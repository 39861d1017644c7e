"""Backend for providers with another wire format, through LiteLLM's function-level API."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import orjson

from llmrouter.exceptions import BackendError, BackendStreamError
from llmrouter.pool._base import CHAT, RESPONSES, BackendResponse, Timeouts
from llmrouter.pool._limits import CallLimits
from llmrouter.pool._litellm_wire import (
    FUNCTIONS,
    NOT_SENT,
    answer_event,
    answer_object,
    litellm_module,
    missing,
    translated,
)
from llmrouter.pool._sse import DONE, ServerSentEvent, encode_event
from llmrouter.pool._usage import StreamObserver


class LiteLLMBackend:
    """One model behind any provider that LiteLLM knows.

    LiteLLM is imported on first use (2 to 4 seconds), and with its packaged price list: importing it must not call
    out. Its retries, caches, callbacks, router and proxy are not used.

    Parameters
    ----------
    name : str
        Pool name, for error messages.
    model : str
        LiteLLM's name of the model, e.g. ``anthropic/claude-sonnet-4-5``.
    base_url, api_key : str, optional
        Where they differ from the provider's defaults and environment variables.
    headers : mapping of str to str, optional
        Sent with every call.
    **options : Any
        Further arguments of LiteLLM's functions, e.g. ``aws_region_name``.

    Raises
    ------
    MissingExtraError
        If LiteLLM is not installed.
    """

    def __init__(
        self,
        name: str,
        *,
        model: str,
        base_url: str | None = None,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        if importlib.util.find_spec("litellm") is None:
            raise missing()
        self.name = name
        self.model = model
        self._options: dict[str, Any] = {"num_retries": 0, "max_retries": 0, **options}
        for key, value in (("api_base", base_url), ("api_key", api_key), ("extra_headers", dict(headers or {}))):
            if value:
                self._options[key] = value

    def __repr__(self) -> str:
        """Return the names, never the key."""
        return f"LiteLLMBackend({self.name!r}, model={self.model!r})"

    async def complete(self, body: Mapping[str, Any], *, timeouts: Timeouts, endpoint: str = CHAT) -> BackendResponse:
        """Return the whole answer as OpenAI-shaped JSON; see `Backend.complete`."""
        limits = CallLimits(self.name, timeouts)
        answer = await self._call(limits.whole, body, endpoint, stream=False, timeout_s=timeouts.total_s)
        return BackendResponse(orjson.dumps(answer_object(answer, endpoint)), {"content-type": "application/json"})

    async def stream(self, body: Mapping[str, Any], *, timeouts: Timeouts, endpoint: str = CHAT) -> LiteLLMStream:
        """Return once the first token is there; see `Backend.stream`."""
        limits = CallLimits(self.name, timeouts)
        chunks = await self._call(limits.first_byte, body, endpoint, stream=True, timeout_s=timeouts.total_s)
        stream = LiteLLMStream(self.name, chunks, limits, endpoint=endpoint)
        try:
            await stream.open()
        except BaseException:
            await stream.aclose()
            raise
        return stream

    async def healthy(self) -> bool:
        """Return True: there is no way to ask every provider without spending tokens."""
        return True

    async def aclose(self) -> None:
        """Do nothing: LiteLLM keeps its own connections."""

    async def _call(
        self,
        wait: Callable[[Awaitable[Any]], Awaitable[Any]],
        body: Mapping[str, Any],
        endpoint: str,
        *,
        stream: bool,
        timeout_s: float,
    ) -> Any:
        function = FUNCTIONS.get(endpoint)
        if function is None:
            raise BackendError(f"{self.name}: LiteLLM is not asked for {endpoint!r}", model=self.name)
        if endpoint == RESPONSES and importlib.util.find_spec("mcp") is None:
            raise BackendError(
                f"{self.name}: LiteLLM serves the responses API with the package 'mcp' only (pip install mcp); without "
                "it leave 'responses' out of this model's endpoints",
                model=self.name,
            )
        arguments = {key: value for key, value in body.items() if key in function.arguments}
        extra = {key: value for key, value in body.items() if key not in function.arguments | NOT_SENT}
        if extra:
            arguments["extra_body"] = extra
        if function.streams:
            arguments["stream"] = stream
        if endpoint == CHAT:
            # Tools are the client's: LiteLLM would run those of MCP servers itself, and fails without the package mcp.
            arguments["_skip_mcp_handler"] = True
        call = getattr(litellm_module(), function.name)
        try:
            return await wait(call(model=self.model, **arguments, timeout=timeout_s, **self._options))
        except BackendError:
            raise
        except Exception as error:  # LiteLLM's errors and those of its providers have no common base
            raise translated(error, self.name) from error


class LiteLLMStream:
    """A streamed answer, written as OpenAI's events; see `BackendStream`.

    Attributes
    ----------
    observer : StreamObserver
        What has gone by.
    """

    def __init__(self, name: str, chunks: Any, limits: CallLimits, *, endpoint: str = CHAT) -> None:
        self._name = name
        self._endpoint = endpoint
        self._chunks = chunks
        self._iterator = aiter(chunks)
        self._limits = limits
        self._first: list[ServerSentEvent] = []
        self.observer = StreamObserver()

    @property
    def headers(self) -> Mapping[str, str]:
        """None to relay but the content type."""
        return {"content-type": "text/event-stream; charset=utf-8"}

    async def open(self) -> None:
        """Wait for the first token; empty chunks before it are kept and relayed with it."""
        while not self.observer.begun:
            try:
                chunk = await self._limits.first_byte(anext(self._iterator))
            except StopAsyncIteration as error:
                raise BackendStreamError(
                    f"{self._name}: the stream ended before its first token", model=self._name
                ) from error
            except BackendError:
                raise
            except Exception as error:
                raise translated(error, self._name) from error
            self._first.append(self._event(chunk))

    async def __aiter__(self) -> AsyncIterator[Sequence[ServerSentEvent]]:
        """Yield events as they come, then ``[DONE]``, which responses do without."""
        if self._first:
            yield self._first
        while True:
            try:
                chunk = await self._limits.next_piece(anext(self._iterator))
            except StopAsyncIteration:
                break
            except BackendError:
                raise
            except Exception as error:
                raise BackendStreamError(
                    f"{self._name}: the upstream broke off in the middle of its answer ({type(error).__name__})",
                    model=self._name,
                ) from error
            yield [self._event(chunk)]
        if self._endpoint != RESPONSES:
            self.observer.observe(DONE)
            yield [ServerSentEvent(encode_event(DONE), DONE)]

    def _event(self, chunk: Any) -> ServerSentEvent:
        event = answer_event(chunk, self._endpoint)
        usage_only = event.data is not None and self.observer.observe(event.data)
        return event._replace(usage_only=True) if usage_only else event

    async def aclose(self) -> None:
        """Cancel the upstream call."""
        close = getattr(self._chunks, "aclose", None)
        if close is not None:
            await close()
