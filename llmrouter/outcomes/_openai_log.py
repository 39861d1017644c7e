"""OpenAI-style logs: request and response bodies, Batch API files, stored completions, fine-tuning examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llmrouter.outcomes._calls import (
    BadRowError,
    LoggedCall,
    ReadingOptions,
    UnusableRowError,
    as_object,
    find_quality,
    read_number,
    shown,
)
from llmrouter.outcomes._chat import request_text

_REQUEST_KEYS = ("request", "request_body", "input", "body")
_RESPONSE_KEYS = ("response", "response_body", "output")
_MARKS = ("messages", "input", "prompt", "body", "choices", "output", "usage", "error")
_COST_KEYS = ("cost_usd", "cost", "response_cost")
_OTHER_ENDPOINTS = ("embeddings", "moderations", "images", "audio", "rerank")


def read_openai(record: Mapping[str, Any], options: ReadingOptions) -> LoggedCall:
    """Return the call of one log line.

    The model is the one that answered (the response's), else the one asked for. Quality is taken from ``quality``,
    ``score``, ``rating`` or ``feedback`` of the line or its ``metadata``, cost from ``cost_usd`` or ``cost``.

    Raises
    ------
    BadRowError, UnusableRowError
        If the line is wrong, or is no answered text prompt.
    """
    request = _body(record, _REQUEST_KEYS)
    response = _body(record, _RESPONSE_KEYS)
    _refuse_failures(record, response)
    usage = as_object(response.get("usage") or record.get("usage"))
    model = options.model_name(response.get("model") or request.get("model"))
    text = request_text(request, options.chat_text)
    input_tokens, output_tokens, cached = read_usage(usage)
    logged = next((place[key] for place in (record, usage) for key in _COST_KEYS if place.get(key) is not None), None)
    metadata = [as_object(place.get("metadata")) for place in (record, request, response)]
    return LoggedCall(
        text=text,
        model=model,
        quality=find_quality([record, *metadata], options.quality_range),
        cost_usd=options.cost(read_number(logged, "cost_usd"), model, input_tokens, output_tokens, cached),
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        propensity=read_number(record.get("propensity"), "propensity"),
        task=_task(record, *metadata),
    )


def read_usage(usage: Mapping[str, Any]) -> tuple[float | None, float | None, float]:
    """Return input, output and cached input tokens of a usage object of either OpenAI interface."""
    input_tokens = read_number(usage.get("prompt_tokens", usage.get("input_tokens")), "input_tokens")
    output_tokens = read_number(usage.get("completion_tokens", usage.get("output_tokens")), "output_tokens")
    details = as_object(usage.get("prompt_tokens_details") or usage.get("input_tokens_details"))
    cached = read_number(details.get("cached_tokens"), "input_tokens", label="cached_tokens")
    return input_tokens, output_tokens, cached or 0.0


def _body(record: Mapping[str, Any], keys: tuple[str, ...]) -> Mapping[str, Any]:
    """Return the request or response of a line: nested, nested with its HTTP envelope, or the line itself."""
    for key in keys:
        nested = as_object(record.get(key))
        # A string of JSON without any such key is a prompt or an answer that happens to be JSON.
        if nested and (isinstance(record[key], Mapping) or any(mark in nested for mark in _MARKS)):
            return as_object(nested.get("body")) or nested
    return record


def is_openai(record: Mapping[str, Any]) -> bool:
    """Return whether a line holds a request or response body, or is one."""
    nested = any(_body(record, (key,)) is not record for key in (*_REQUEST_KEYS, *_RESPONSE_KEYS))
    return nested or "custom_id" in record or "choices" in record or isinstance(record.get("messages"), list)


def _refuse_failures(record: Mapping[str, Any], response: Mapping[str, Any]) -> None:
    envelope = as_object(record.get("response"))
    status = envelope.get("status_code", record.get("status_code"))
    if isinstance(status, int) and status >= 400:
        raise UnusableRowError("the call failed")
    if any(place.get("error") for place in (record, envelope, response)):
        raise UnusableRowError("the call failed")
    url = str(record.get("url") or as_object(record.get("request")).get("url") or "")
    if response.get("object") == "list" or any(name in url for name in _OTHER_ENDPOINTS):
        raise UnusableRowError("the call is not a text generation")


def _task(*places: Mapping[str, Any]) -> str | None:
    tasks = (place.get("task") for place in places)
    return next((task for task in tasks if isinstance(task, str) and task), None)


class BatchJoin:
    """Brings the lines of Batch API input and output files together, by `custom_id`, in whatever order they come."""

    def __init__(self) -> None:
        self._requests: dict[str, tuple[str, Mapping[str, Any]]] = {}
        self._responses: dict[str, tuple[str, Mapping[str, Any]]] = {}
        self._joined: set[str] = set()

    @staticmethod
    def takes(record: Mapping[str, Any]) -> bool:
        """Return whether a line is one half of a batch's call."""
        halves = ("body" in record, "response" in record or "error" in record)
        return "custom_id" in record and halves[0] != halves[1]

    def add(self, record: Mapping[str, Any], where: str) -> dict[str, Any] | None:
        """Return the whole call once its second half has come, None after the first.

        Raises
        ------
        BadRowError
            If the same half came before.
        """
        identity = str(record["custom_id"])
        mine, other = (self._requests, self._responses) if "body" in record else (self._responses, self._requests)
        if identity in mine or identity in self._joined:
            raise BadRowError(f"custom_id {shown(identity)} is repeated; import each batch on its own")
        if identity not in other:
            mine[identity] = (where, record)
            return None
        _, half = other.pop(identity)
        self._joined.add(identity)
        request, response = (record, half) if "body" in record else (half, record)
        return {**response, "request": request["body"], "url": request.get("url")}

    def unmatched(self) -> Iterator[tuple[str, BadRowError | UnusableRowError]]:
        """Yield the place of every half that stayed alone, and what that means."""
        for where, _ in self._requests.values():
            yield where, UnusableRowError("the batch has no response to the request")
        for identity, (where, _) in self._responses.items():
            yield where, BadRowError(f"custom_id {shown(identity)} has no request; give the batch's input file too")
