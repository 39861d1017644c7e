"""One request on its way through the engine: waiting, running, finished."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from llmrouter.exceptions import LocalModelError
from llmrouter.moe._handle import GenerationHandle
from llmrouter.moe._text import TextStream
from llmrouter.moe._tool_stream import ForcedCall, OfferedCalls
from llmrouter.moe._tools import ToolCallDelta
from llmrouter.moe._types import (
    Delta,
    FinishReason,
    GenerationRequest,
    GenerationResult,
    TokenAlternative,
    TokenLogprob,
)
from llmrouter.moe._vocabulary import Vocabulary

if TYPE_CHECKING:
    from llmrouter.moe._adjust import Adjustment
    from llmrouter.moe._sampling import Choice, Sampling


class Sequence:
    """State of one request.

    Parameters
    ----------
    request : GenerationRequest
        What to generate.
    prompt : list of int
        Token ids of the rendered prompt.
    sampling : Sampling
        The request's sampling values with the model's defaults filled in.
    max_new_tokens : int
        Tokens after which it ends with "length".
    vocabulary : Vocabulary
        The model's.
    handle : GenerationHandle
        Receives deltas and outcome.
    adjustment : Adjustment, optional
        What changes its logits.
    calls : ForcedCall or OfferedCalls, optional
        Reads tool calls in its text.
    kept_tokens : frozenset of int
        Special tokens that stay in the text.
    """

    def __init__(
        self,
        request: GenerationRequest,
        prompt: list[int],
        *,
        sampling: Sampling,
        max_new_tokens: int,
        vocabulary: Vocabulary,
        handle: GenerationHandle,
        adjustment: Adjustment | None = None,
        calls: ForcedCall | OfferedCalls | None = None,
        kept_tokens: frozenset[int] = frozenset(),
    ) -> None:
        self.prompt = prompt
        self.sampling = sampling
        self.handle = handle
        self.adjustment = adjustment
        self.last_token = -1
        self.generated = 0
        self.token_interval_s = 0.0  # from the token before, or from acceptance, to the last one
        self._max_new_tokens = max_new_tokens
        self._vocabulary = vocabulary
        self._text = TextStream(vocabulary, request.stop_strings, kept_tokens=kept_tokens)
        self._calls = calls
        self._tool_is_named = request.forced_tool is not None
        self._pieces: list[str] = []
        self._waiting_logprobs: deque[tuple[int, TokenLogprob]] = deque()
        self._logprobs: list[TokenLogprob] = []
        self._accepted = self._last_token_time = time.perf_counter()
        self._first_token: float | None = None

    def advance(self, choice: Choice, end_tokens: frozenset[int]) -> FinishReason | None:
        """Take the next token, pass on what text is final, and return why the sequence has ended, if it has."""
        self.last_token = choice.token
        self.generated += 1
        if self.adjustment is not None:
            self.adjustment.accept(choice.token)
        now = time.perf_counter()
        self.token_interval_s, self._last_token_time = now - self._last_token_time, now
        if self._first_token is None:
            self._first_token = now
        if choice.token in end_tokens:
            return self._end("stop")
        if choice.logprob is not None:
            self._waiting_logprobs.append((self._text.decoded, self._token_logprob(choice)))
        self._emit(self._text.push(choice.token))
        if self._text.stopped or self._whole():
            return self._end("stop")
        return self._end("length") if self.generated >= self._max_new_tokens else None

    def fail(self, error: LocalModelError) -> None:
        """End without a result."""
        self.handle.settle(error)

    def _whole(self) -> bool:
        """Whether nothing can follow: the grammar's end, or the only call that the answer may have."""
        if self.adjustment is not None and self.adjustment.finished:
            return True
        return self._calls is not None and self._calls.finished

    def _end(self, reason: FinishReason) -> FinishReason:
        if not self._text.stopped:
            self._emit(self._text.finish(), final=True)
        if self._text.stopped:  # the end of the text may be what stops it
            reason = "stop"
        if self._calls is not None:
            self._pass_on(*self._calls.finish(), [])
            if self._calls.calls and reason == "stop" and not self._tool_is_named:
                reason = "tool_calls"
        now = time.perf_counter()
        self.handle.settle(
            GenerationResult(
                text="".join(self._pieces),
                input_tokens=len(self.prompt),
                output_tokens=self.generated,
                finish_reason=reason,
                logprobs=tuple(self._logprobs) if self.sampling.logprobs else None,
                latency_s=now - self._accepted,
                time_to_first_token_s=(self._first_token or now) - self._accepted,
                tool_calls=self._calls.calls if self._calls is not None else (),
            )
        )
        return reason

    def _emit(self, text: str, *, final: bool = False) -> None:
        """Pass on text with the log-probabilities of the tokens that begin in it."""
        ready = self._ready_logprobs(everything=final and not self._text.stopped)
        content, calls = (text, ()) if self._calls is None else self._calls.push(text)
        self._pass_on(content, calls, ready)

    def _pass_on(self, text: str, calls: tuple[ToolCallDelta, ...], ready: list[TokenLogprob]) -> None:
        if not text and not ready and not calls:
            return
        self._pieces.append(text)
        self._logprobs += ready
        self.handle.push(Delta(text, tuple(ready) if self.sampling.logprobs else None, calls))

    def _ready_logprobs(self, *, everything: bool) -> list[TokenLogprob]:
        ready = []
        while self._waiting_logprobs and (everything or self._waiting_logprobs[0][0] < self._text.released):
            ready.append(self._waiting_logprobs.popleft()[1])
        return ready

    def _token_logprob(self, choice: Choice) -> TokenLogprob:
        words = self._vocabulary
        top = tuple(TokenAlternative(words.token_text(token), words.token_bytes(token), p) for token, p in choice.top)
        assert choice.logprob is not None  # noqa: S101 -- the caller asked for it
        return TokenLogprob(words.token_text(choice.token), words.token_bytes(choice.token), choice.logprob, top)
