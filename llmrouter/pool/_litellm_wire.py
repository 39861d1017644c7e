"""What LiteLLM takes and gives, written as OpenAI's JSON and events; its errors as ours."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from types import ModuleType
from typing import Any, NamedTuple

import orjson

from llmrouter.exceptions import (
    BackendConnectError,
    BackendError,
    BackendStatusError,
    BackendTimeoutError,
    MissingExtraError,
)
from llmrouter.pool._base import CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES
from llmrouter.pool._openai_stream import relayed_headers
from llmrouter.pool._sse import ServerSentEvent, encode_event


class Function(NamedTuple):
    """A function of LiteLLM.

    Attributes
    ----------
    name : str
        In the package.
    arguments : frozenset of str
        Fields of a request that become arguments. Everything else goes into the upstream body: LiteLLM takes
        addresses, credentials and callbacks as arguments too, and a client must not set those.
    streams : bool
        Whether it knows ``stream``.
    """

    name: str
    arguments: frozenset[str]
    streams: bool = True


FUNCTIONS: Mapping[str, Function] = {
    CHAT: Function("acompletion", frozenset({
        "messages", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs",
        "max_completion_tokens", "max_tokens", "modalities", "n", "parallel_tool_calls", "prediction",
        "presence_penalty", "audio", "reasoning_effort", "response_format", "seed", "stop", "stream_options",
        "temperature", "thinking", "tool_choice", "tools", "top_logprobs", "top_p", "user", "verbosity",
        "web_search_options",
    })),
    COMPLETIONS: Function("atext_completion", frozenset({
        "prompt", "best_of", "echo", "frequency_penalty", "logit_bias", "logprobs", "max_tokens", "n",
        "presence_penalty", "stop", "stream_options", "suffix", "temperature", "top_p", "user",
    })),
    EMBEDDINGS: Function(
        "aembedding", frozenset({"input", "dimensions", "encoding_format", "user"}), streams=False
    ),
    RESPONSES: Function("aresponses", frozenset({
        "input", "include", "instructions", "max_output_tokens", "prompt", "parallel_tool_calls",
        "previous_response_id", "reasoning", "store", "temperature", "text", "tool_choice", "tools", "top_p",
        "truncation", "user", "service_tier", "safety_identifier",
    })),
}  # fmt: skip
"""By endpoint."""

NOT_SENT = frozenset({"model", "stream"})
"""Fields of a request that the backend sets itself."""

# "litellm.BadGatewayError: BadGatewayError: OpenAIException - " before what the provider said.
_MESSAGE_PREFIX = re.compile(r"^(?:(?:litellm\.)?\w*(?:Error|Exception|Timeout)(?: \w+Error)?(?:: | - ))+")


def litellm_module() -> ModuleType:
    """Import LiteLLM, quiet and off the network.

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
    # Otherwise the import fetches a price list from the network.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    try:
        import litellm
    except ImportError as error:
        raise missing() from error
    # Its settings are attributes of the module, which the type of a module does not know.
    loaded: ModuleType = litellm
    module: Any = loaded
    # It prints help texts to standard output on errors otherwise.
    module.suppress_debug_info = True
    module.telemetry = False
    # It fetches images from URLs in messages for some providers: not from addresses inside the network.
    module.user_url_validation = True
    return loaded


def missing() -> MissingExtraError:
    """Return the error that names the extra."""
    return MissingExtraError("litellm", extra="litellm", purpose="the backend 'litellm'")


def answer_object(answer: Any, endpoint: str) -> dict[str, Any]:
    """Return a whole answer as OpenAI writes it."""
    payload: dict[str, Any] = answer.model_dump(exclude_none=endpoint != RESPONSES)
    for choice in payload.get("choices", []):
        choice.setdefault("finish_reason", None)
        if endpoint == CHAT:
            choice.get("message", {}).setdefault("content", None)
    return payload


def answer_event(chunk: Any, endpoint: str) -> ServerSentEvent:
    """Return one chunk of a streamed answer as an event."""
    payload: dict[str, Any] = chunk.model_dump(exclude_none=endpoint != RESPONSES, mode="json")
    if endpoint == RESPONSES:
        data = orjson.dumps(payload)
        return ServerSentEvent(f"event: {payload.get('type', '')}\n".encode() + encode_event(data), data)
    choices = payload.get("choices", [])
    for choice in choices:
        choice.setdefault("finish_reason", None)
    empty = not any(choice.get("delta") or choice.get("text") or choice["finish_reason"] for choice in choices)
    if payload.get("usage") and empty:
        payload["choices"] = []  # as OpenAI sends the chunk that carries nothing but usage
    data = orjson.dumps(payload)
    return ServerSentEvent(encode_event(data), data)


def translated(error: Exception, name: str) -> BackendError:
    """Return an error of LiteLLM as one of ours; `name` is the pool name of the model."""
    litellm = litellm_module()
    if isinstance(error, litellm.Timeout):
        return BackendTimeoutError(f"{name}: the upstream is too slow (LiteLLM's timeout)", model=name)
    if isinstance(error, litellm.APIConnectionError):
        return BackendConnectError(f"{name}: could not reach the upstream", model=name)
    status = getattr(error, "status_code", None)
    if not isinstance(status, int) or status < 400:
        return BackendError(f"{name}: the call through LiteLLM failed ({type(error).__name__})", model=name)
    return BackendStatusError(
        f"{name}: the upstream answered {status}",
        model=name,
        status=status,
        body=orjson.dumps({"error": _error_object(error, litellm)}),
        headers=_headers(error),
    )


def _headers(error: Exception) -> dict[str, str]:
    """Return the provider's headers worth keeping; the body, and so its type, is written here."""
    response = getattr(error, "response", None)
    for headers in (getattr(error, "litellm_response_headers", None), getattr(response, "headers", None)):
        if isinstance(headers, Mapping) and headers:
            kept = relayed_headers({str(name): str(value) for name, value in headers.items()})
            kept.pop("content-type", None)
            return kept
    return {}


def _error_object(error: Exception, litellm: ModuleType) -> dict[str, Any]:
    said = _said(error)
    if said is None:
        code = getattr(error, "code", None)
        said = {
            "message": _MESSAGE_PREFIX.sub("", str(getattr(error, "message", "") or error)),
            "type": getattr(error, "type", None) or "invalid_request_error",
            "param": getattr(error, "param", None),
            "code": None if code is None else str(code),
        }
    if not isinstance(said.get("code"), str):
        # LiteLLM knows these by the wording of each provider.
        if isinstance(error, litellm.ContextWindowExceededError):
            said["code"] = "context_length_exceeded"
        elif isinstance(error, litellm.ContentPolicyViolationError):
            said["code"] = "content_policy_violation"
    return said


def _said(error: BaseException) -> dict[str, Any] | None:
    """Return the provider's own error object, None where there is none.

    LiteLLM's exception has it as a body, as text within its message, or not at all; then one that it was made of has.
    """
    found: BaseException | None = error
    while found is not None and not isinstance(found, BackendError):  # that is of a call before this one
        body = getattr(found, "body", None)
        if not isinstance(body, Mapping):
            body = _object_within(str(getattr(found, "message", "")))
        if body and isinstance(body.get("message"), str) and body["message"]:
            return {"type": None, "param": None, "code": None, **body}
        found = found.__cause__ or found.__context__
    return None


def _object_within(text: str) -> Mapping[str, Any] | None:
    """Return the error object that is written out in a message."""
    try:
        payload = orjson.loads(text[text.index("{") : text.rindex("}") + 1])
    except ValueError:
        return None
    error = payload.get("error") if isinstance(payload, dict) else None
    return error if isinstance(error, Mapping) else None
