"""What the spans of one request are: names, times and attributes, without OpenTelemetry.

Attributes follow OpenTelemetry's conventions for generative AI where these have a name, and begin with ``llmrouter.``
where they have none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import orjson

from service.telemetry.reasons import reason_of

if TYPE_CHECKING:
    from llmrouter.types import Outcome
    from service.call import Call

Attributes = dict[str, Any]
SpanKind = Literal["server", "client", "internal"]

_OPERATIONS = {"embeddings": "embeddings", "completions": "text_completion"}
_BEFORE_ROUTE = ("auth", "parse", "limits", "cache")
_REQUEST = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "seed": "gen_ai.request.seed",
    "n": "gen_ai.request.choice.count",
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "max_output_tokens": "gen_ai.request.max_tokens",
}
_PROVIDERS = {
    "api.openai.com": "openai",
    "api.anthropic.com": "anthropic",
    "api.groq.com": "groq",
    "api.deepseek.com": "deepseek",
    "api.mistral.ai": "mistral_ai",
    "api.x.ai": "x_ai",
    "api.perplexity.ai": "perplexity",
    "api.cohere.com": "cohere",
    "generativelanguage.googleapis.com": "gcp.gemini",
}
_AZURE = ".openai.azure.com"
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class SpanData:
    """One span.

    Attributes
    ----------
    name : str
        What was done.
    kind : str
        ``server``, ``client`` or ``internal``.
    start, end : float
        Seconds since the epoch.
    attributes : dict
        Strings, numbers, booleans, and lists of one of them.
    error : str
        ``error.type`` of what failed, "" where nothing did.
    """

    name: str
    kind: SpanKind
    start: float
    end: float
    attributes: Attributes
    error: str = ""


def server_attributes(base_urls: Mapping[str, str | None]) -> dict[str, Attributes]:
    """Return pool name -> where its upstream is, from the configured base URLs."""
    return {name: _server(url) for name, url in base_urls.items() if url}


def spans_of(
    call: Call, outcome: Outcome, *, servers: Mapping[str, Attributes], prompts: bool
) -> tuple[SpanData, list[SpanData]]:
    """Return the span of a request and those below it: the routing and every call of an upstream.

    Parameters
    ----------
    call, outcome
        The request, ended.
    servers : mapping
        See `server_attributes`.
    prompts : bool
        Whether the messages are put into the span.
    """
    endpoint = getattr(call, "endpoint", "chat")
    operation = _OPERATIONS.get(endpoint, "chat")
    start = call.received
    end = start + (outcome.latency_s or 0.0)
    stages: Mapping[str, float] = getattr(call, "stages", None) or {}
    # A client that hangs up is no failure of the gateway.
    failed = "" if outcome.status in {"ok", "cancelled"} else _error_type(call, outcome)
    root = SpanData(
        name=f"{operation} {call.chat.model}",
        kind="server",
        start=start,
        end=end,
        attributes=_of_request(call, outcome, operation, prompts=prompts),
        error=failed,
    )
    routed = start + sum(stages.get(stage, 0.0) for stage in _BEFORE_ROUTE)
    decided = routed + stages.get("route", 0.0)
    below = []
    if call.decision.ranking:
        below.append(SpanData("route", "internal", routed, decided, _of_decision(call)))
    below += _attempts(call, outcome, operation, servers, decided, end)
    return root, below


def _of_request(call: Call, outcome: Outcome, operation: str, *, prompts: bool) -> Attributes:
    chat = call.chat
    found: Attributes = {
        "gen_ai.operation.name": operation,
        "gen_ai.request.model": chat.model,
        "gen_ai.request.stream": bool(getattr(chat, "stream", False)),
        "http.request.method": "POST",
        "http.route": getattr(getattr(chat, "endpoint", None), "url", None),
        "gen_ai.response.model": getattr(call, "response_model", None) or outcome.served_by,
        "gen_ai.response.finish_reasons": list(getattr(call, "finish_reasons", None) or ()) or None,
        "gen_ai.response.time_to_first_chunk": outcome.time_to_first_token_s,
        "gen_ai.conversation.id": outcome.conversation_id,
        "gen_ai.usage.input_tokens": outcome.input_tokens,
        "gen_ai.usage.output_tokens": outcome.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": outcome.cached_tokens,
        "gen_ai.usage.reasoning.output_tokens": outcome.reasoning_tokens,
        "llmrouter.request_id": outcome.request_id,
        "llmrouter.model": outcome.served_by,
        "llmrouter.status": outcome.status,
        "llmrouter.key_id": outcome.key_id,
        "llmrouter.cost_usd": outcome.cost_usd,
        "llmrouter.fallbacks": list(outcome.fallbacks) or None,
        "llmrouter.cache": getattr(call, "cache", None) or None,
    }
    body: Mapping[str, Any] = chat.body
    for field, name in _REQUEST.items():
        value = body.get(field)
        if isinstance(value, int | float):
            found[name] = value
    if prompts and not call.principal.hides_text:
        found["gen_ai.input.messages"] = _messages(body)
    return {name: value for name, value in found.items() if value is not None}


def _of_decision(call: Call) -> Attributes:
    decision = call.decision
    ranking = decision.ranking
    return {
        "llmrouter.policy": decision.policy,
        **({} if decision.route is None else {"llmrouter.route": decision.route.name}),
        "llmrouter.router": decision.router,
        "llmrouter.artifact": decision.artifact_id,
        "llmrouter.chosen": ranking[0].model,
        "llmrouter.propensity": decision.propensity,
        "llmrouter.candidates": [entry.model for entry in ranking],
        "llmrouter.candidates.expected_quality": [entry.expected_quality for entry in ranking],
        "llmrouter.candidates.standard_error": [entry.standard_error for entry in ranking],
        "llmrouter.candidates.expected_cost_usd": [entry.expected_cost_usd for entry in ranking],
        "llmrouter.candidates.eligible": [entry.eligible for entry in ranking],
    }


def _attempts(
    call: Call, outcome: Outcome, operation: str, servers: Mapping[str, Attributes], start: float, end: float
) -> Iterator[SpanData]:
    """Yield a span for every call of an upstream, in the order in which they began where that is known.

    A call that says when its attempts began and ended (`attempts`: model, started, ended on the clock of
    `Call.started`, error) gets these times; of others only the sum of all waits is known, which the spans share.
    """
    recorded: Sequence[Any] = getattr(call, "attempts", None) or ()
    if recorded:
        for attempt in recorded:
            began = call.received + (attempt.started - call.started)
            ended = call.received + (attempt.ended - call.started)
            hedge = bool(getattr(attempt, "hedge", False))
            yield _attempt(attempt.model, operation, servers, (began, ended), error=attempt.error, hedge=hedge)
        return
    if outcome.served_by is None and not call.failures:
        return
    if getattr(call, "cache", None) in {"hit", "semantic"}:
        return
    count = len(call.failures) + (outcome.served_by is not None)
    share = max(end - start, 0.0) / count
    for i, (name, error) in enumerate(call.failures):
        yield _attempt(name, operation, servers, (start + i * share, start + (i + 1) * share), error=error)
    hedges: Sequence[str] = getattr(call, "hedges", None) or ()
    for name, seconds in getattr(call, "abandoned", None) or ():
        yield _attempt(name, operation, servers, (start, start + seconds), abandoned=True, hedge=name in hedges)
    if outcome.served_by is not None:
        hedge = outcome.served_by in hedges
        yield _attempt(outcome.served_by, operation, servers, (end - share, end), hedge=hedge)


def _attempt(
    model: str,
    operation: str,
    servers: Mapping[str, Attributes],
    times: tuple[float, float],
    *,
    error: object = None,
    hedge: bool = False,
    abandoned: bool = False,
) -> SpanData:
    reason = "abandoned" if abandoned else "" if error is None else reason_of(error)
    attributes: Attributes = {
        "gen_ai.operation.name": operation,
        "gen_ai.request.model": model,
        "llmrouter.hedge": hedge,
        **servers.get(model, {}),
    }
    status = getattr(error, "status", None)
    if isinstance(status, int):
        attributes["http.response.status_code"] = status
    # A call that was given up because another answered first did not fail.
    if abandoned:
        attributes["llmrouter.abandoned"] = True
        reason = ""
    return SpanData(f"{operation} {model}", "client", *times, attributes, error=reason)


def _error_type(call: Call, outcome: Outcome) -> str:
    if outcome.status == "error" and call.failures:
        return reason_of(call.failures[-1].error)
    return outcome.status


def _server(url: str) -> Attributes:
    parts = urlsplit(url)
    host = parts.hostname or ""
    provider = "azure.ai.openai" if host.endswith(_AZURE) else _PROVIDERS.get(host, host)
    try:
        port = parts.port
    except ValueError:
        port = None
    return {
        "server.address": host,
        "server.port": port or _PORTS.get(parts.scheme, 0),
        "gen_ai.provider.name": provider,
    }


def _messages(body: Mapping[str, Any]) -> str | None:
    """Return the messages of a body as JSON in the shape of OpenTelemetry's conventions."""
    given = body.get("messages", body.get("input", body.get("prompt")))
    if given is None:
        return None
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    shaped = [_message(message) for message in given if isinstance(message, Mapping)]
    return orjson.dumps(shaped).decode()


def _message(message: Mapping[str, Any]) -> Attributes:
    content = message.get("content")
    parts = [{"type": "text", "content": content}] if isinstance(content, str) else []
    if isinstance(content, list):
        parts = [
            {"type": "text", "content": part["text"]}
            for part in content
            if isinstance(part, Mapping) and "text" in part
        ]
    return {"role": message.get("role"), "parts": parts}


def nanoseconds(seconds: float) -> int:
    """Return a time as OpenTelemetry takes it."""
    return int(seconds * 1e9) if math.isfinite(seconds) else 0
