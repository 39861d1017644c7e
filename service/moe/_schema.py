"""The body of a request: what is taken, what only in its neutral form, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from llmrouter.moe import GenerationRequest
from service.moe._chat_options import ResponseFormatBody, ToolBody, ToolChoiceBody, offered_tools
from service.moe._errors import APIError

MAX_CHOICES = 16

Body = TypeVar("Body", bound="CommonBody")
Checked = TypeVar("Checked", bound=BaseModel)

_ALTERNATIVES = {"str", "float", "int", "NamedTool", "list"}  # in pydantic's places of errors, not of the body

# Parameters that this server does not implement, with the values that ask for nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
}


class StreamOptions(BaseModel):
    """Options of a stream."""

    model_config = ConfigDict(strict=True, extra="ignore")

    include_usage: bool | None = None


class Message(BaseModel):
    """One turn of the chat; roles and content parts are checked by the engine, which knows what it can take."""

    model_config = ConfigDict(strict=True, extra="ignore")

    role: str
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None


class CommonBody(BaseModel):
    """What chats and texts share of a request. Unknown fields are refused, not ignored."""

    model_config = ConfigDict(strict=True, extra="forbid")

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None  # not OpenAI's; as vLLM takes it
    seed: int | None = None
    stop: str | list[str] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    user: str | None = None  # changes nothing about the answer here

    @model_validator(mode="after")
    def _check_stream_options(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise invalid("stream_options is only allowed when stream is true", "stream_options")
        return self

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk of usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self, choice: int) -> dict[str, Any]:
        """Return the sampling values of a choice, as `GenerationRequest` takes them."""
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "seed": None if self.seed is None else self.seed + choice,
            "stop": self.stop or (),
            "frequency_penalty": self.frequency_penalty or 0.0,
            "presence_penalty": self.presence_penalty or 0.0,
            "logit_bias": self._bias(),
        }

    def _bias(self) -> dict[int, float]:
        bias = {}
        for token, value in (self.logit_bias or {}).items():
            if not (token.isascii() and token.isdigit()):
                raise invalid(f"logit_bias has the key {token[:40]!r}; keys are token ids such as '50'", "logit_bias")
            bias[int(token)] = value
        return bias

    def generation_requests(self) -> list[GenerationRequest]:
        """Return one request per choice; with a seed, choice i is seeded with ``seed + i``."""
        raise NotImplementedError


class ChatBody(CommonBody):
    """OpenAI's request for a chat, as far as a local text model can serve it."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: ResponseFormatBody | None = None
    tools: list[ToolBody] | None = None
    tool_choice: ToolChoiceBody | None = None
    parallel_tool_calls: bool | None = None

    # Changes nothing about the answer here.
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None

    @model_validator(mode="after")
    def _check_combinations(self) -> ChatBody:
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise invalid("give max_tokens or max_completion_tokens, not both", "max_tokens")
        return self

    def generation_requests(self) -> list[GenerationRequest]:
        """Return one request per choice; with a seed, choice i is seeded with ``seed + i``.

        Raises
        ------
        GenerationRequestError
            If a value is out of range.
        """
        messages = [message.model_dump() for message in self.messages]
        wanted = None if self.response_format is None else self.response_format.wanted()
        tools = offered_tools(self.tools, self.tool_choice)
        return [
            GenerationRequest(
                messages=messages,
                max_tokens=self.max_completion_tokens if self.max_tokens is None else self.max_tokens,
                logprobs=bool(self.logprobs),
                top_logprobs=self.top_logprobs or 0,
                response_format=wanted,
                parallel_tool_calls=self.parallel_tool_calls is not False,
                **tools,
                **self.sampling(choice),
            )
            for choice in range(self.n or 1)
        ]


def parse_chat_body(body: Any) -> ChatBody:
    """Check a decoded JSON body.

    Raises
    ------
    APIError
        400 with `param` naming the first wrong field.
    """
    return parse_body(ChatBody, body, _NEUTRAL)


def parse_body(kind: type[Body], body: Any, neutral: Mapping[str, tuple[Any, ...]]) -> Body:
    """Check a decoded JSON body against `kind`; `neutral` has the values that unsupported parameters may have.

    Raises
    ------
    APIError
        400 with `param` naming the first wrong field.
    """
    given = _given(body)
    for name in neutral.keys() & given.keys():
        if given[name] not in neutral[name]:
            raise APIError(
                400,
                f"{name} is not supported by this server; leave it out",
                param=name,
                code="unsupported_parameter",
            )
        del given[name]
    return check_body(kind, given)


def check_body(kind: type[Checked], body: Any) -> Checked:
    """Check a decoded JSON body against `kind`; null is as good as absent.

    Raises
    ------
    APIError
        400 with `param` naming the first wrong field.
    """
    try:
        return kind.model_validate(_given(body))
    except ValidationError as error:
        raise _translated(error) from error


def _given(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise APIError(400, f"the body is a JSON {type(body).__name__}; it must be an object")
    return {name: value for name, value in body.items() if value is not None}


def invalid(message: str, param: str) -> APIError:
    """Return a 400 about a field."""
    return APIError(400, message, param=param)


def _translated(error: ValidationError) -> APIError:
    first = error.errors(include_url=False)[0]
    param = _param(first["loc"])
    if first["type"] == "missing":
        return APIError(400, f"you must provide {param}", param=param, code="missing_required_parameter")
    if first["type"] == "extra_forbidden":
        return APIError(400, f"unrecognized request argument: {param}", param=param, code="unknown_parameter")
    value = repr(first["input"])
    shown = value if len(value) <= 80 else f"{value[:77]}..."
    return APIError(400, f"{param} is {shown}: {first['msg'].lower()}", param=param, code="invalid_value")


def _param(location: Sequence[str | int]) -> str:
    """Return ``messages[0].role`` for ``("messages", 0, "role")``, without the names of alternatives in a union."""
    path = ""
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        elif not path:
            path = step
        elif step.isidentifier() and step not in _ALTERNATIVES:
            path += f".{step}"
    return path
