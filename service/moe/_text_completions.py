"""POST /v1/completions: the older endpoint, a prompt as it is instead of a chat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field, model_validator

from llmrouter.moe import GenerationRequest, GenerationResult, TokenLogprob
from service.moe._schema import CommonBody, invalid, parse_body
from service.moe._wire import CompletionWriter, usage

DEFAULT_TOKENS = 16
MOST_LOGPROBS = 5

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "echo": (False,),
    "suffix": ("",),
    "best_of": (1,),
}


class TextBody(CommonBody):
    """OpenAI's request for a completion of one prompt."""

    prompt: str | list[str]
    logprobs: int | None = Field(default=None, ge=0, le=MOST_LOGPROBS)

    @model_validator(mode="after")
    def _check_prompt(self) -> TextBody:
        if not isinstance(self.prompt, str) and len(self.prompt) != 1:
            raise invalid(f"prompt holds {len(self.prompt)} texts; this server takes one a request", "prompt")
        return self

    def generation_requests(self) -> list[GenerationRequest]:
        """Return one request per choice; with a seed, choice i is seeded with ``seed + i``.

        Raises
        ------
        GenerationRequestError
            If a value is out of range.
        """
        prompt = self.prompt if isinstance(self.prompt, str) else self.prompt[0]
        return [
            GenerationRequest(
                prompt=prompt,
                max_tokens=DEFAULT_TOKENS if self.max_tokens is None else self.max_tokens,
                logprobs=self.logprobs is not None,
                top_logprobs=self.logprobs or 0,
                **self.sampling(choice),
            )
            for choice in range(self.n or 1)
        ]


def parse_text_body(body: Any) -> TextBody:
    """Check a decoded JSON body.

    Raises
    ------
    APIError
        400 with `param` naming the first wrong field.
    """
    return parse_body(TextBody, body, _NEUTRAL)


class TextWriter(CompletionWriter):
    """Builds the objects of one answer; chunks of a stream have the same shape."""

    prefix = "cmpl"

    def completion(self, results: Sequence[GenerationResult]) -> dict[str, Any]:
        """Return the whole answer."""
        choices = [
            _choice(index, result.text, result.logprobs, result.finish_reason) for index, result in enumerate(results)
        ]
        return {**self._head("text_completion"), "choices": choices, "usage": usage(results)}

    def chunk(
        self,
        index: int,
        delta: dict[str, Any],
        *,
        logprobs: Sequence[TokenLogprob] | None = None,
        finish_reason: str | None = None,
    ) -> dict[str, Any]:
        """Return a piece of choice `index`."""
        choice = _choice(index, delta.get("content", ""), logprobs, finish_reason)
        extra = {"usage": None} if self._include_usage else {}
        return {**self._head("text_completion"), "choices": [choice], **extra}

    def usage_chunk(self, results: Sequence[GenerationResult]) -> dict[str, Any]:
        """Return the chunk that ends a stream with usage."""
        return {**self._head("text_completion"), "choices": [], "usage": usage(results)}


def _choice(
    index: int, text: str, logprobs: Sequence[TokenLogprob] | None, finish_reason: str | None
) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": _logprobs(logprobs), "finish_reason": finish_reason}


def _logprobs(entries: Sequence[TokenLogprob] | None) -> dict[str, Any] | None:
    if entries is None:
        return None
    offsets, reached = [], 0
    for entry in entries:
        offsets.append(reached)
        reached += len(entry.text)
    return {
        "tokens": [entry.text for entry in entries],
        "token_logprobs": [entry.logprob for entry in entries],
        "top_logprobs": [{other.text: other.logprob for other in entry.top} for entry in entries],
        "text_offset": offsets,
    }
