"""LiteLLM logs: standard logging payloads (S3, GCS, file loggers) and rows of the proxy's spend table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmrouter.outcomes._calls import (
    LoggedCall,
    ReadingOptions,
    UnusableRowError,
    as_object,
    decoded,
    find_quality,
    read_number,
)
from llmrouter.outcomes._chat import request_text
from llmrouter.outcomes._openai_log import read_usage

_TEXT_CALLS = ("completion", "responses", "messages", "generate_content")


def is_litellm(record: Mapping[str, Any]) -> bool:
    """Return whether a line has fields that only LiteLLM writes."""
    marks = ("standard_logging_object", "response_cost", "litellm_call_id", "call_type")
    return any(mark in record for mark in marks)


def read_litellm(record: Mapping[str, Any], options: ReadingOptions) -> LoggedCall:
    """Return the call of one log line.

    Spend rows hold prompts only with ``store_prompts_in_spend_logs``, in ``proxy_server_request``. The cost of a
    call answered from LiteLLM's cache, or that LiteLLM failed to compute, counts as unknown, not as zero.

    Raises
    ------
    BadRowError, UnusableRowError
        If the line is wrong, or is no answered text prompt.
    """
    payload = as_object(record.get("standard_logging_object")) or record
    call_type = str(payload.get("call_type") or "completion")
    if payload.get("status") == "failure":
        raise UnusableRowError("the call failed")
    if not any(name in call_type for name in _TEXT_CALLS):
        raise UnusableRowError("the call is not a text generation")
    model = options.model_name(payload.get("model"))
    metadata = as_object(payload.get("metadata"))
    input_tokens, output_tokens, cached = _tokens(payload, metadata)
    places = [as_object(metadata.get(key)) for key in ("requester_metadata", "spend_logs_metadata")]
    return LoggedCall(
        text=_text(payload, options),
        model=model,
        quality=find_quality([record, payload, metadata, *places], options.quality_range),
        cost_usd=options.cost(_cost(payload), model, input_tokens, output_tokens, cached),
        input_tokens=input_tokens,
        output_tokens=output_tokens,
    )


def _text(payload: Mapping[str, Any], options: ReadingOptions) -> str:
    if decoded(payload.get("messages")):
        return request_text({"messages": payload["messages"]}, options.chat_text)
    request = as_object(payload.get("proxy_server_request"))
    body = as_object(request.get("body")) or request
    if not body:
        raise UnusableRowError("the log has no prompts (LiteLLM keeps them with store_prompts_in_spend_logs: true)")
    return request_text(body, options.chat_text)


def _tokens(payload: Mapping[str, Any], metadata: Mapping[str, Any]) -> tuple[float | None, float | None, float]:
    usage = as_object(as_object(payload.get("response")).get("usage")) or as_object(metadata.get("usage_object"))
    _, _, cached = read_usage(usage)
    input_tokens, output_tokens, _ = read_usage(payload)
    if not input_tokens and not output_tokens:
        return None, None, cached  # LiteLLM writes 0 where the provider sent no usage
    return input_tokens, output_tokens, cached


def _cost(payload: Mapping[str, Any]) -> float | None:
    logged = payload.get("response_cost")
    cost = read_number(payload.get("spend") if logged is None else logged, "cost_usd", label="response_cost")
    from_cache = str(payload.get("cache_hit")).casefold() == "true"
    not_computed = bool(payload.get("response_cost_failure_debug_info"))
    return None if cost == 0.0 and (from_cache or not_computed) else cost
