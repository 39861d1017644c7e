"""Legacy completions over chat completions, for models whose upstreams have no such endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmrouter.pool import usage_in
from service.dialects._chat_answer import (
    string_or,
    text_of,
    vendor_fields,
)
from service.dialects._checks import (
    ARRAY,
    BOOLEAN,
    INTEGER,
    NUMBER,
    OBJECT,
    STRING,
    check_at_least_one,
    check_types,
    missing,
    unsupported,
    wrong_type,
)
from service.dialects.base import ChunkTranslator, StreamTranslator, answer_id, data_event
from service.errors import APIError

DEFAULT_MAX_TOKENS = 16
"""What OpenAI documents for a request that does not say."""

_TYPES: Mapping[str, tuple[str, ...]] = {
    "best_of": (INTEGER,),
    "echo": (BOOLEAN,),
    "frequency_penalty": (NUMBER,),
    "logit_bias": (OBJECT,),
    "logprobs": (INTEGER,),
    "max_tokens": (INTEGER,),
    "n": (INTEGER,),
    "presence_penalty": (NUMBER,),
    "seed": (INTEGER,),
    "stop": (STRING, ARRAY),
    "stream": (BOOLEAN,),
    "stream_options": (OBJECT,),
    "suffix": (STRING,),
    "temperature": (NUMBER,),
    "top_p": (NUMBER,),
    "user": (STRING,),
}
_TRANSLATED = frozenset({"best_of", "echo", "logprobs", "max_tokens", "prompt", "suffix"})
_FINISH_REASONS = ("stop", "length", "content_filter")
_END = b"data: [DONE]\n\n"


class CompletionsDialect:
    """Requests and answers of ``POST /v1/completions``: the prompt becomes one user message.

    A chat model answers a prompt; it does not continue it. What only a base model can do is refused.
    """

    name = "completions"

    def to_chat(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the chat completion that a request asks for; unknown fields go with it as they are.

        Raises
        ------
        APIError
            400, with ``param`` naming the client's own field.
        """
        check_types(body, _TYPES)
        prompt = _prompt(body.get("prompt"))
        _check_supported(body)
        max_tokens = body.get("max_tokens")
        check_at_least_one("max_tokens", max_tokens)
        chat = {name: value for name, value in body.items() if name not in _TRANSLATED}
        chat["messages"] = [{"role": "user", "content": prompt}]
        chat["max_completion_tokens"] = DEFAULT_MAX_TOKENS if max_tokens is None else max_tokens
        if body.get("logprobs") is not None:
            chat["logprobs"] = True
            chat["top_logprobs"] = body["logprobs"]
        return chat

    def answer(self, chat: dict[str, Any], asked: dict[str, Any], *, request_id: str) -> dict[str, Any]:
        """Return a completion."""
        choices = chat.get("choices")
        echo = _echo(asked)
        answer = _head(chat, asked, request_id)
        answer["choices"] = [
            _choice(choice, choice.get("message"), position, prefix=echo)
            for position, choice in enumerate(choices if isinstance(choices, list) else ())
            if isinstance(choice, Mapping)
        ]
        if (usage := usage_in(chat)) is not None:
            answer["usage"] = usage
        return answer

    def stream(self, asked: dict[str, Any], *, request_id: str) -> StreamTranslator:
        """Return the translator of one streamed completion."""
        return CompletionsStream(asked, request_id=request_id)

    def error(self, status: int, error: Mapping[str, Any], *, request_id: str) -> dict[str, Any]:
        """Return an error; the shape is that of chat completions."""
        del status, request_id
        return {"error": dict(error)}


class CompletionsStream(ChunkTranslator):
    """The state of one streamed completion.

    Parameters
    ----------
    asked : mapping
        The client's request.
    request_id : str
        Ours.
    """

    def __init__(self, asked: Mapping[str, Any], *, request_id: str) -> None:
        self._asked = asked
        self._request_id = request_id
        self._echo = _echo(asked)
        self._usage_asked = bool((asked.get("stream_options") or {}).get("include_usage"))
        self._lengths: dict[int, int] = {}
        self._ended = False

    def _take(self, chunk: dict[str, Any]) -> bytes:
        given = chunk.get("choices")
        choices = [
            choice
            for position, one in enumerate(given if isinstance(given, list) else ())
            if isinstance(one, Mapping) and (choice := self._choice(one, position))
        ]
        usage = usage_in(chunk) if self._usage_asked else None
        if not choices and not usage:
            return b""
        head = _head(chunk, self._asked, self._request_id)
        if not self._usage_asked:
            return data_event({**head, "choices": choices})
        if choices and usage:  # OpenAI sends usage in a chunk of its own
            ahead = data_event({**head, "choices": choices, "usage": None})
            return ahead + data_event({**head, "choices": [], "usage": usage})
        return data_event({**head, "choices": choices, "usage": usage})

    def fail(self, error: Mapping[str, Any]) -> bytes:
        """Return the error event that ends the stream, without ``[DONE]``."""
        if self._ended:
            return b""
        self._ended = True
        return data_event({"error": dict(error)})

    def finish(self) -> bytes:
        """Return ``[DONE]``."""
        if self._ended:
            return b""
        self._ended = True
        return _END

    def _choice(self, choice: Mapping[str, Any], position: int) -> dict[str, Any] | None:
        index = _index(choice, position)
        offset = self._lengths.get(index)
        prefix = self._echo if offset is None else ""
        translated = _choice(choice, choice.get("delta"), position, prefix=prefix, offset=offset or 0)
        if not translated["text"] and translated["finish_reason"] is None:
            return None
        self._lengths[index] = (offset or 0) + len(translated["text"])
        return translated


def _prompt(prompt: object) -> str:
    if prompt is None:
        raise missing("prompt")
    if isinstance(prompt, str):
        return prompt
    if not isinstance(prompt, list):
        raise wrong_type("prompt", "a string or an array", prompt)
    if not prompt:
        raise APIError("Invalid 'prompt': the array is empty.", param="prompt", code="empty_array")
    if all(isinstance(one, int | list) for one in prompt):
        raise unsupported(
            "prompt",
            "Prompts of tokens are not supported by this gateway: models differ in their tokens. Send text.",
            code="unsupported_value",
        )
    if len(prompt) > 1:
        raise unsupported(
            "prompt",
            f"An array of {len(prompt)} prompts is not supported by this gateway. Send one request for each prompt.",
            code="unsupported_value",
        )
    if not isinstance(prompt[0], str):
        raise wrong_type("prompt[0]", STRING, prompt[0])
    return prompt[0]


def _check_supported(body: Mapping[str, Any]) -> None:
    check_at_least_one("n", body.get("n"))
    if body.get("suffix"):
        raise unsupported(
            "suffix",
            "'suffix' is not supported by this gateway: chat models do not fill in. Leave it out and describe the "
            "gap in the prompt.",
        )
    if body.get("best_of") not in (None, 1, body.get("n")):
        raise unsupported(
            "best_of", "'best_of' is not supported by this gateway. Leave it out; 'n' asks for several choices."
        )
    logprobs = body.get("logprobs")
    if logprobs is not None and logprobs < 0:
        raise APIError(
            f"Invalid 'logprobs': expected a value of at least 0, but got {logprobs}.",
            param="logprobs",
            code="integer_below_min_value",
        )
    if logprobs is not None and body.get("echo"):
        raise unsupported(
            "echo",
            "'echo' with 'logprobs' is not supported by this gateway: chat models do not tell the log-probabilities of "
            "the prompt. Leave one of them out.",
        )


def _echo(asked: Mapping[str, Any]) -> str:
    """Return what every choice begins with."""
    return _prompt(asked.get("prompt")) if asked.get("echo") else ""


def _head(chat: Mapping[str, Any], asked: Mapping[str, Any], request_id: str) -> dict[str, Any]:
    created = chat.get("created")
    return {
        **vendor_fields(chat),
        "id": answer_id("cmpl", request_id),
        "object": "text_completion",
        "created": created if isinstance(created, int) else 0,
        "model": string_or(chat.get("model"), str(asked.get("model", ""))),
    }


def _choice(
    choice: Mapping[str, Any], message: object, position: int, *, prefix: str = "", offset: int = 0
) -> dict[str, Any]:
    said = message if isinstance(message, Mapping) else {}
    text = text_of(said.get("content")) or string_or(said.get("refusal"), "")
    reason = choice.get("finish_reason")
    if reason is not None and reason not in _FINISH_REASONS:
        reason = "stop"
    return {
        "text": prefix + text,
        "index": _index(choice, position),
        "logprobs": _logprobs(choice.get("logprobs"), offset),
        "finish_reason": reason,
    }


def _index(choice: Mapping[str, Any], position: int) -> int:
    index = choice.get("index")
    return index if isinstance(index, int) else position


def _logprobs(logprobs: object, offset: int) -> dict[str, Any] | None:
    """Return the lists of the legacy shape; the sampled token is always among the top ones."""
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    if not isinstance(content, list):
        return None
    legacy: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for token in content:
        given = token if isinstance(token, Mapping) else {}
        text, logprob = string_or(given.get("token"), ""), given.get("logprob")
        top = given.get("top_logprobs")
        likely = [one for one in top if isinstance(one, Mapping)] if isinstance(top, list) else []
        legacy["tokens"].append(text)
        legacy["token_logprobs"].append(logprob)
        legacy["top_logprobs"].append({string_or(one.get("token"), ""): one.get("logprob") for one in likely})
        legacy["top_logprobs"][-1].setdefault(text, logprob)
        legacy["text_offset"].append(offset)
        offset += len(text)
    return legacy
