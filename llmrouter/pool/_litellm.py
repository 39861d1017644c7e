"""Backend for providers with another wire format, through LiteLLM's function-level API."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import orjson

from llmrouter.exceptions import (
    BackendConnectError,
    BackendError,
    BackendStatusError,
    BackendStreamError,
    BackendTimeoutError,
    MissingExtraError,
)
from llmrouter.pool._base import BackendResponse, Timeouts
from llmrouter.pool._limits import CallLimits
from llmrouter.pool._sse import DONE, ServerSentEvent, encode_event

# Fields of a request that become arguments. Everything else goes into the upstream body: LiteLLM takes addresses,
# credentials and callbacks as arguments too, and a client must not set those.
_ARGUMENTS = frozenset({
    "messages", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs", "max_completion_tokens",
    "max_tokens", "modalities", "n", "parallel_tool_calls", "prediction", "presence_penalty", "audio",
    "reasoning_effort", "response_format", "seed", "stop", "stream_options", "temperature", "thinking", "tool_choice",
    "tools", "top_logprobs", "top_p", "user", "verbosity", "web_search_options",
})  # fmt: skip
_NOT_SENT = frozenset({"model", "stream"})
_MESSAGE_PREFIX = re.compile(r"^(?:litellm\.)?\w+(?:Error|Exception)?: (?:litellm\.)?")


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
        Further arguments of ``litellm.acompletion``, e.g. ``aws_region_name``.

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
            raise _missing()
        self.name = name
        self.model = model
        self._options: dict[str, Any] = {"num_retries": 0, "max_retries": 0, **options}
        for key, value in (("api_base", base_url), ("api_key", api_key), ("extra_headers", dict(headers or {}))):
            if value:
                self._options[key] = value

    def __repr__(self) -> str:
        """Return the names, never the key."""
        return f"LiteLLMBackend({self.name!r}, model={self.model!r})"

    async def complete(self, body: Mapping[str, Any], *, timeouts: Timeouts) -> BackendResponse:
        """Return the whole answer as OpenAI-shaped JSON; see `Backend.complete`."""
        limits = CallLimits(self.name, timeouts)
        answer = await self._call(limits.whole, body, stream=False, timeout_s=timeouts.total_s)
        return BackendResponse(orjson.dumps(_completion(answer)), {"content-type": "application/json"})

    async def stream(self, body: Mapping[str, Any], *, timeouts: Timeouts) -> LiteLLMStream:
        """Return once the first chunk is there; see `Backend.stream`."""
        limits = CallLimits(self.name, timeouts)
        chunks = await self._call(limits.first_byte, body, stream=True, timeout_s=timeouts.total_s)
        stream = LiteLLMStream(self.name, chunks, limits)
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
        *,
        stream: bool,
        timeout_s: float,
    ) -> Any:
        litellm = _litellm()
        arguments = {key: value for key, value in body.items() if key in _ARGUMENTS}
        extra = {key: value for key, value in body.items() if key not in _ARGUMENTS | _NOT_SENT}
        if extra:
            arguments["extra_body"] = extra
        try:
            return await wait(
                litellm.acompletion(model=self.model, **arguments, stream=stream, timeout=timeout_s, **self._options)
            )
        except BackendError:
            raise
        except Exception as error:  # LiteLLM's errors and those of its providers have no common base
            raise _translated(error, self.name) from error


class LiteLLMStream:
    """A streamed answer, written as OpenAI's events; see `BackendStream`."""

    def __init__(self, name: str, chunks: Any, limits: CallLimits) -> None:
        self._name = name
        self._chunks = chunks
        self._iterator = aiter(chunks)
        self._limits = limits
        self._first: ServerSentEvent | None = None

    @property
    def headers(self) -> Mapping[str, str]:
        """None to relay but the content type."""
        return {"content-type": "text/event-stream; charset=utf-8"}

    async def open(self) -> None:
        """Wait for the first chunk."""
        try:
            self._first = _event(await self._limits.first_byte(anext(self._iterator)))
        except StopAsyncIteration as error:
            raise BackendStreamError(
                f"{self._name}: the stream ended before its first event", model=self._name
            ) from error
        except BackendError:
            raise
        except Exception as error:
            raise _translated(error, self._name) from error

    async def __aiter__(self) -> AsyncIterator[Sequence[ServerSentEvent]]:
        """Yield events one by one, then ``[DONE]``."""
        if self._first is not None:
            yield [self._first]
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
            yield [_event(chunk)]
        yield [ServerSentEvent(encode_event(DONE), DONE)]

    async def aclose(self) -> None:
        """Cancel the upstream call."""
        close = getattr(self._chunks, "aclose", None)
        if close is not None:
            await close()


def _litellm() -> ModuleType:
    # Otherwise the import fetches a price list from the network.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    try:
        import litellm
    except ImportError as error:
        raise _missing() from error
    module: ModuleType = litellm
    # It prints help texts to standard output on errors otherwise.
    module.suppress_debug_info = True  # type: ignore[attr-defined]
    module.telemetry = False  # type: ignore[attr-defined]
    return module


def _missing() -> MissingExtraError:
    return MissingExtraError("litellm", extra="litellm", purpose="the backend 'litellm'")


def _completion(answer: Any) -> dict[str, Any]:
    payload: dict[str, Any] = answer.model_dump(exclude_none=True)
    for choice in payload.get("choices", []):
        choice.setdefault("finish_reason", None)
        choice.get("message", {}).setdefault("content", None)
    return payload


def _event(chunk: Any) -> ServerSentEvent:
    payload: dict[str, Any] = chunk.model_dump(exclude_none=True)
    choices = payload.get("choices", [])
    for choice in choices:
        choice.setdefault("finish_reason", None)
    if payload.get("usage") and not any(choice.get("delta") or choice["finish_reason"] for choice in choices):
        payload["choices"] = []  # as OpenAI sends the chunk that carries nothing but usage
    data = orjson.dumps(payload)
    return ServerSentEvent(encode_event(data), data)


def _translated(error: Exception, name: str) -> BackendError:
    litellm = _litellm()
    if isinstance(error, litellm.Timeout):
        return BackendTimeoutError(f"{name}: the upstream is too slow (LiteLLM's timeout)", model=name)
    if isinstance(error, litellm.APIConnectionError):
        return BackendConnectError(f"{name}: could not reach the upstream", model=name)
    status = getattr(error, "status_code", None)
    if not isinstance(status, int) or status < 400:
        return BackendError(f"{name}: the call through LiteLLM failed ({type(error).__name__})", model=name)
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    return BackendStatusError(
        f"{name}: the upstream answered {status}",
        model=name,
        status=status,
        body=orjson.dumps({"error": _error_object(error, litellm)}),
        headers={key: headers[key] for key in ("retry-after", "retry-after-ms") if key in headers},
    )


def _error_object(error: Exception, litellm: ModuleType) -> dict[str, Any]:
    body = getattr(error, "body", None)
    if isinstance(body, Mapping) and body.get("message"):
        return dict(body)  # the provider's own words
    code = getattr(error, "code", None)
    if isinstance(error, litellm.ContextWindowExceededError):
        code = "context_length_exceeded"
    return {
        "message": _MESSAGE_PREFIX.sub("", str(getattr(error, "message", "") or error)),
        "type": getattr(error, "type", None) or "invalid_request_error",
        "param": getattr(error, "param", None),
        "code": None if code is None else str(code),
    }
