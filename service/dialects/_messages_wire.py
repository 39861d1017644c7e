"""Values of Anthropic's messages: stop reasons, usage, kinds of errors, ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.dialects._chat_answer import Counted, string_or
from service.dialects.base import answer_id

_STOP_REASONS: Mapping[str, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_BY_STATUS: Mapping[int, str] = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_INVALID_REQUEST, _API_ERROR = "invalid_request_error", "api_error"
_TYPES = frozenset({*_BY_STATUS.values(), _INVALID_REQUEST, _API_ERROR})
_BY_CODE: Mapping[str, str] = {
    "rate_limit_exceeded": "rate_limit_error",
    "insufficient_quota": "rate_limit_error",
    "upstream_timeout": "timeout_error",
    "context_length_exceeded": _INVALID_REQUEST,
    "server_overloaded": "overloaded_error",
}
_USAGE_KNOWN = frozenset(
    {"prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details", "completion_tokens_details"}
)


def stop_of(
    choice: Mapping[str, Any], asked: Mapping[str, Any], *, has_tools: bool, refused: bool
) -> tuple[str, str | None]:
    """Return (stop reason, stop sequence).

    Chat does not say which sequence stopped an answer; vLLM (``stop_reason``) and SGLang (``matched_stop``) do.
    """
    reason = _STOP_REASONS.get(string_or(choice.get("finish_reason"), "stop"), "end_turn")
    if reason == "end_turn":
        if has_tools:  # some upstreams end tool calls with "stop"
            return "tool_use", None
        if refused:
            return "refusal", None
        sequences = asked.get("stop_sequences")
        for matched in (choice.get("stop_reason"), choice.get("matched_stop")):
            if isinstance(matched, str) and isinstance(sequences, list) and matched in sequences:
                return "stop_sequence", matched
    return reason, None


def message_usage(counted: Counted | None, given: object) -> dict[str, Any]:
    """Return the usage of a message: tokens read from and written to a cache are not counted as input again.

    Parameters
    ----------
    counted : Counted or None
        What the provider counted.
    given : object
        Its usage object; fields that OpenAI does not define are kept.
    """
    if counted is None:
        return {
            "input_tokens": 0,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 0,
        }
    vendor = given if isinstance(given, Mapping) else {}
    usage = {name: value for name, value in vendor.items() if name not in _USAGE_KNOWN and value is not None}
    usage |= {
        "input_tokens": max(counted.prompt - counted.cached - counted.written, 0),
        "cache_creation_input_tokens": counted.written,
        "cache_read_input_tokens": counted.cached,
        "output_tokens": counted.completion,
    }
    if counted.reasoning:
        usage["output_tokens_details"] = {"thinking_tokens": counted.reasoning}
    return usage


def error_type(status: int) -> str:
    """Return Anthropic's word for an error of this HTTP status."""
    return _BY_STATUS.get(status, _API_ERROR if status >= 500 else _INVALID_REQUEST)


def stream_error_type(error: Mapping[str, Any]) -> str:
    """Return Anthropic's word for an error that came within a stream, where no status tells its kind."""
    given, code = error.get("type"), error.get("code")
    if isinstance(given, str) and given in _TYPES:
        return given
    if isinstance(code, int) and 400 <= code < 600:
        return error_type(code)
    return _BY_CODE.get(code, _API_ERROR) if isinstance(code, str) else _API_ERROR


def tool_use_id(call_id: str, request_id: str, index: int) -> str:
    """Return the id of a tool call: the upstream's, or one of ours where it gave none."""
    return call_id or f"{answer_id('toolu', request_id)}_{index}"
