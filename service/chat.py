"""The body of a chat completion: what is checked, and what the router is told of it. All else passes through."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.datastructures import Headers

from llmrouter.encoders import chat_text
from llmrouter.exceptions import ConfigError, EncoderError, MissingExtraError, UnknownModelError
from llmrouter.routes import conversation_of
from llmrouter.types import Capability, RoutingRequest, estimate_tokens
from service.body import json_kind
from service.config_checks import ROUTER_ALIAS
from service.control import BODY_KEY, Control, read_control
from service.endpoints import CHAT, Endpoint, dialect_of
from service.errors import APIError
from service.settings import RouterSettings

ALIASES = ("auto", "llmrouter/auto")
"""Names in ``model`` that ask for routing with the configured policy."""

_NUMBER, _INTEGER, _BOOLEAN = "a number", "an integer", "a boolean"
_STRING, _ARRAY, _OBJECT = "a string", "an array", "an object"

# Only types, and only of what OpenAI documents: ranges are the upstream's business. null is always allowed.
_TYPES: Mapping[str, tuple[str, ...]] = {
    "frequency_penalty": (_NUMBER,),
    "logit_bias": (_OBJECT,),
    "logprobs": (_BOOLEAN,),
    "max_completion_tokens": (_INTEGER,),
    "max_tokens": (_INTEGER,),
    "metadata": (_OBJECT,),
    "modalities": (_ARRAY,),
    "n": (_INTEGER,),
    "parallel_tool_calls": (_BOOLEAN,),
    "presence_penalty": (_NUMBER,),
    "response_format": (_OBJECT,),
    "seed": (_INTEGER,),
    "stop": (_STRING, _ARRAY),
    "stream": (_BOOLEAN,),
    "stream_options": (_OBJECT,),
    "temperature": (_NUMBER,),
    "tool_choice": (_STRING, _OBJECT),
    "tools": (_ARRAY,),
    "top_logprobs": (_INTEGER,),
    "top_p": (_NUMBER,),
    "user": (_STRING,),
}
_AT_LEAST_ONE = ("max_completion_tokens", "max_tokens", "n")
_IMAGE_PARTS = frozenset({"image_url", "input_image"})
_AUDIO_PARTS = frozenset({"input_audio"})


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A checked request.

    Attributes
    ----------
    body : mapping
        What goes upstream: the client's body without the ``llmrouter`` object.
    model : str
        As the client gave it.
    pinned : str or None
        The pool name that the client asked for; None asks for routing.
    control : Control
        What it asks of the router.
    stream, usage_asked : bool
        Whether the answer is streamed, and whether the client wants the usage chunk.
    routing : RoutingRequest
        What the router sees.
    endpoint : Endpoint
        What was asked.
    original : mapping
        The body in the shape of the endpoint, without the ``llmrouter`` object; what goes to models that serve the
        endpoint themselves.
    translatable : bool
        Whether `body` says all of it; if not, only models that serve the endpoint themselves can answer.
    """

    body: Mapping[str, Any]
    model: str
    pinned: str | None
    control: Control
    stream: bool
    usage_asked: bool
    routing: RoutingRequest
    endpoint: Endpoint = CHAT
    original: Mapping[str, Any] = field(default_factory=dict)
    translatable: bool = True


def parse_request(
    endpoint: Endpoint, body: dict[str, Any], headers: Headers, *, native: Sequence[str], **known: Any
) -> ChatRequest:
    """Check a body of any generating endpoint; see `parse_chat`.

    Parameters
    ----------
    endpoint : Endpoint
        What was asked.
    body : dict
        In the shape of the endpoint.
    headers : Headers
        Of the request.
    native : sequence of str
        Pool models that serve this endpoint themselves. Where the body holds what only they understand, the others
        are not asked.
    **known : Any
        Further parameters of `parse_chat`.

    Raises
    ------
    APIError, UnknownModelError
        As `parse_chat`.
    """
    dialect = dialect_of(endpoint)
    if dialect is None:
        return parse_chat(body, headers, **known)
    original = {key: value for key, value in body.items() if key != BODY_KEY}
    try:
        chat = parse_chat(dialect.to_chat(body), headers, **known)
    except APIError:
        if not native:
            raise
        text = {"messages": [{"role": "user", "content": _plain_text(body)}]}
        kept = {key: body[key] for key in ("model", "stream", BODY_KEY) if key in body}
        chat = parse_chat({**kept, **text}, headers, **known)
        among = tuple(name for name in chat.routing.allowed_models or native if name in native)
        if chat.pinned not in (None, *native) or not among:
            raise
        return replace(
            chat,
            endpoint=endpoint,
            original=original,
            translatable=False,
            routing=replace(chat.routing, allowed_models=among),
        )
    return replace(chat, endpoint=endpoint, original=original)


def _plain_text(body: Mapping[str, Any]) -> str:
    """Return the text that a router can read of a body that is not translated: the last text of ``input``."""
    given: Any = body.get("input") or body.get("prompt") or ""
    while isinstance(given, list | dict) and given:
        given = given[-1] if isinstance(given, list) else given.get("text") or given.get("content") or ""
    return given if isinstance(given, str) else ""


def parse_chat(
    body: dict[str, Any],
    headers: Headers,
    *,
    pool: Sequence[str],
    router_name: str,
    settings: RouterSettings,
    request_id: str,
    restricted: bool = False,
    key_id: str | None = None,
    explore: bool = True,
    verifiable: Collection[str] | None = None,
    conversation: bool = False,
) -> ChatRequest:
    """Check a body and work out what it needs.

    Parameters
    ----------
    body : dict
        The parsed JSON object; its ``llmrouter`` key is removed.
    headers : Headers
        Of the request.
    pool : sequence of str
        Pool names, as far as the key may see them.
    router_name : str
        The router in use, for ``router-<router>-<cost weight>``.
    settings : RouterSettings
        What text of the chat the router reads.
    request_id : str
        Recorded.
    restricted : bool
        Whether `pool` is a part of the pool only: then routing keeps to it.
    key_id : str, optional
        Of whom it is.
    explore : bool
        Whether the key allows exploring; a request can only say no to it.
    verifiable : collection of str, optional
        Kinds of verifiers that a request may bring along; by default all.
    conversation : bool
        Whether the router is told what was said, turn by turn: where routes are picked.

    Raises
    ------
    APIError
        400, with ``param`` naming the field.
    UnknownModelError
        If ``model`` is neither in the pool nor an alias.
    """
    given_control = body.pop(BODY_KEY, None)
    model = _check_model(body)
    _check_messages(body)
    _check_types(body)
    pinned, alias_cost_weight = _resolve(model, pool, router_name)
    control = read_control(headers, given_control, pool=pool, alias_cost_weight=alias_cost_weight)
    if control.verify is not None:
        check_verify(control.verify, verifiable)
    try:
        text = chat_text(body["messages"], settings.text, turns=settings.turns)
        said = conversation_of(body["messages"]) if conversation and pinned is None else ()
    except EncoderError as error:
        raise APIError(str(error), param="messages", code="invalid_type") from error
    stream_options = body.get("stream_options") or {}
    return ChatRequest(
        body=body,
        original=body,
        model=model,
        pinned=pinned,
        control=control,
        stream=bool(body.get("stream")),
        usage_asked=bool(stream_options.get("include_usage")),
        routing=RoutingRequest(
            text=text,
            prompt_tokens=_prompt_tokens(body),
            max_output_tokens=body.get("max_completion_tokens") or body.get("max_tokens"),
            needs=_needs(body),
            allowed_models=tuple(pool) if restricted and control.models is None else control.models,
            preference=control.preference,
            request_id=request_id,
            conversation_id=control.session_id,
            key_id=key_id,
            dry_run=control.dry_run,
            explore=explore and control.explore is not False,
            conversation=said,
        ),
    )


def check_verify(spec: Mapping[str, Any], kinds: Collection[str] | None = None) -> None:
    """Check the verifier that a request brings along.

    Parameters
    ----------
    spec : mapping
        ``kind`` and parameters.
    kinds : collection of str, optional
        Those that are allowed.

    Raises
    ------
    APIError
        400, with ``param`` naming the parameter.
    """
    from llmrouter.verifiers import create_verifier

    kind = spec["kind"]
    param = f"{BODY_KEY}.verify"
    if kinds is not None and kind not in kinds:
        allowed = f"it allows {', '.join(sorted(kinds))}" if kinds else "it allows none"
        message = f"Invalid value for '{param}.kind': this gateway runs no verifier {kind!r} for requests; {allowed}."
        raise APIError(message, param=f"{param}.kind", code="invalid_value")
    try:
        create_verifier(spec)
    except ConfigError as error:
        place = f"{param}.{error.path}" if error.path else param
        raise APIError(f"Invalid value for '{place}': {error}.", param=place, code="invalid_value") from error
    except MissingExtraError as error:
        raise APIError(f"Invalid value for '{param}': {error}", param=param, code="invalid_value") from error


def field_types() -> Mapping[str, tuple[str, ...]]:
    """Return the types that are checked, by field, in JSON's words."""
    return _TYPES


def _resolve(model: str, pool: Sequence[str], router_name: str) -> tuple[str | None, float | None]:
    """Return (pool name or None for routing, cost weight in the alias or None)."""
    if model in pool:
        return model, None
    if model in ALIASES:
        return None, None
    alias = ROUTER_ALIAS.match(model)
    if alias and alias["router"] == router_name and math.isfinite(float(alias["cost_weight"])):
        return None, float(alias["cost_weight"])
    raise UnknownModelError(model, known=[*ALIASES, f"router-{router_name}-<cost weight>", *pool])


def _check_model(body: Mapping[str, Any]) -> str:
    model = body.get("model")
    if model is None:
        raise APIError("Missing required parameter: 'model'.", param="model", code="missing_required_parameter")
    if not isinstance(model, str):
        raise _wrong_type("model", _STRING, model)
    return model


def _check_messages(body: Mapping[str, Any]) -> None:
    messages = body.get("messages")
    if messages is None:
        raise APIError("Missing required parameter: 'messages'.", param="messages", code="missing_required_parameter")
    if not isinstance(messages, list):
        raise _wrong_type("messages", "an array of objects", messages)
    if not messages:
        raise APIError(
            "Invalid 'messages': the array is empty. Expected at least one message.",
            param="messages",
            code="empty_array",
        )
    for i, message in enumerate(messages):
        if not isinstance(message, dict):
            raise _wrong_type(f"messages[{i}]", _OBJECT, message)
        role = message.get("role")
        if role is None:
            param = f"messages[{i}].role"
            raise APIError(f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")
        if not isinstance(role, str):
            raise _wrong_type(f"messages[{i}].role", _STRING, role)
        _check_content(message.get("content"), f"messages[{i}].content")


def _check_content(content: object, param: str) -> None:
    if content is None or isinstance(content, str):
        return
    if not isinstance(content, list):
        raise _wrong_type(param, "a string or an array of parts", content)
    for i, part in enumerate(content):
        if not isinstance(part, dict):
            raise _wrong_type(f"{param}[{i}]", _OBJECT, part)
        if "text" in part and not isinstance(part["text"], str):
            raise _wrong_type(f"{param}[{i}].text", _STRING, part["text"])
        if not isinstance(part.get("type", ""), str):
            raise _wrong_type(f"{param}[{i}].type", _STRING, part["type"])


def _check_types(body: Mapping[str, Any]) -> None:
    for name, allowed in _TYPES.items():
        value = body.get(name)
        if value is not None and not any(_is(kind, value) for kind in allowed):
            raise _wrong_type(name, " or ".join(allowed), value)
    for name in _AT_LEAST_ONE:
        value = body.get(name)
        if value is not None and value < 1:
            raise APIError(
                f"Invalid '{name}': expected a value of at least 1, but got {value}.",
                param=name,
                code="integer_below_min_value",
            )


def _is(kind: str, value: object) -> bool:
    if kind is _INTEGER:
        return isinstance(value, int) and not isinstance(value, bool)
    return json_kind(value) == kind


def _wrong_type(param: str, expected: str, value: object) -> APIError:
    return APIError(
        f"Invalid type for '{param}': expected {expected}, but got {json_kind(value)} instead.",
        param=param,
        code="invalid_type",
    )


def _parts(body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for message in body["messages"]:
        if isinstance(message.get("content"), list):
            yield from message["content"]


def _needs(body: Mapping[str, Any]) -> frozenset[Capability]:
    """Return what a model must offer to serve this body."""
    kinds = {part.get("type") for part in _parts(body)}
    response_format = (body.get("response_format") or {}).get("type")
    needed = {
        Capability.TOOLS: bool(body.get("tools") or body.get("functions")),
        Capability.VISION: bool(kinds & _IMAGE_PARTS),
        Capability.AUDIO: bool(kinds & _AUDIO_PARTS) or "audio" in (body.get("modalities") or ()),
        Capability.JSON_MODE: response_format == "json_object",
        Capability.JSON_SCHEMA: response_format == "json_schema",
        Capability.LOGPROBS: bool(body.get("logprobs") or body.get("top_logprobs")),
    }
    return frozenset(capability for capability, needs_it in needed.items() if needs_it)


def _prompt_tokens(body: Mapping[str, Any]) -> int:
    """Return an estimate of the tokens of all text of the request, tool definitions included."""
    texts = [message["content"] for message in body["messages"] if isinstance(message.get("content"), str)]
    texts += [part["text"] for part in _parts(body) if "text" in part]
    tokens = sum(estimate_tokens(text) for text in texts)
    return tokens + (estimate_tokens(str(body["tools"])) if body.get("tools") else 0)
