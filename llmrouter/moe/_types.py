"""Requests to a local engine and what comes back; plain values, no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llmrouter.exceptions import GenerationRequestError

FinishReason = Literal["stop", "length"]

MAX_TEMPERATURE = 2.0
MAX_STOP_STRINGS = 4
MAX_TOP_LOGPROBS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One completion to generate.

    Parameters
    ----------
    messages : sequence of mapping, optional
        Chat turns, ``{"role": ..., "content": ...}`` with text content; rendered by the model's own chat template.
    prompt : str, optional
        Raw text instead of `messages`, given to the tokenizer as it is. Exactly one of the two.
    max_tokens : int, optional
        Most tokens to generate; the context window ends a completion in any case (`finish_reason` "length").
    temperature : float, optional
        In [0, 2]; 0 is greedy. None takes the default of the checkpoint's generation_config.json.
    top_p : float, optional
        Sample from the smallest set of tokens with this much probability, in (0, 1]. None as above.
    top_k : int, optional
        Sample from the k most probable tokens; 0 is all. None as above.
    seed : int, optional
        Makes sampling reproducible, whatever else is in the batch.
    stop : str or sequence of str
        Up to four strings; generation ends before the first that appears, wherever token borders fall.
    logprobs : bool
        Report the log-probability of every token of the text, before temperature and truncation.
    top_logprobs : int
        With `logprobs`: also report this many most probable tokens at each place, at most 20.

    Raises
    ------
    GenerationRequestError
        If a value is out of its range.
    """

    messages: Sequence[Mapping[str, Any]] | None = None
    prompt: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: str | Sequence[str] = ()
    logprobs: bool = False
    top_logprobs: int = 0

    def __post_init__(self) -> None:
        if (self.messages is None) == (self.prompt is None):
            raise GenerationRequestError("give exactly one of messages and prompt", param="messages")
        if self.messages is not None and not self.messages:
            raise GenerationRequestError("messages is empty; give at least one", param="messages")
        if self.max_tokens is not None and self.max_tokens < 1:
            _refuse("max_tokens", self.max_tokens, "an integer of at least 1")
        if self.temperature is not None and not 0 <= self.temperature <= MAX_TEMPERATURE:
            _refuse("temperature", self.temperature, f"a number from 0 to {MAX_TEMPERATURE:g}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            _refuse("top_p", self.top_p, "a number above 0 and up to 1")
        if self.top_k is not None and self.top_k < 0:
            _refuse("top_k", self.top_k, "an integer of at least 0 (0 is all tokens)")
        if not 0 <= self.top_logprobs <= MAX_TOP_LOGPROBS:
            _refuse("top_logprobs", self.top_logprobs, f"an integer from 0 to {MAX_TOP_LOGPROBS}")
        if self.top_logprobs and not self.logprobs:
            raise GenerationRequestError("top_logprobs needs logprobs to be true", param="top_logprobs")
        if len(self.stop_strings) > MAX_STOP_STRINGS or "" in self.stop_strings:
            _refuse("stop", self.stop, f"up to {MAX_STOP_STRINGS} strings, none of them empty")

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The stop strings as a tuple, however they were given."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


def _refuse(param: str, value: object, wanted: str) -> None:
    raise GenerationRequestError(f"{param} is {value!r}; it must be {wanted}", param=param)


@dataclass(frozen=True, slots=True)
class TokenAlternative:
    """A token that could have stood at a place: its text, UTF-8 bytes and natural log-probability."""

    text: str
    bytes: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A generated token with its log-probability and the most probable tokens at its place, best first.

    `text` is the token alone, with the replacement character where it holds a part of a character; `bytes` is exact.
    """

    text: str
    bytes: bytes
    logprob: float
    top: tuple[TokenAlternative, ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of text as it is streamed, and the log-probabilities of the tokens it came from (None: not asked)."""

    text: str
    logprobs: tuple[TokenLogprob, ...] | None = None


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """A finished completion.

    Attributes
    ----------
    text : str
        The completion, without end-of-sequence token and without stop string.
    input_tokens, output_tokens : int
        Tokens of the rendered prompt, and tokens generated (an end-of-sequence token and the tokens of a stop
        string count: they were computed).
    finish_reason : {"stop", "length"}
        Whether the model (or a stop string) ended it, or `max_tokens` or the context window did.
    logprobs : tuple of TokenLogprob or None
        One entry for each token of `text`; None where not asked for.
    latency_s : float
        Seconds from acceptance to the last token, waiting included.
    time_to_first_token_s : float
        Seconds from acceptance to the first token.
    """

    text: str
    input_tokens: int
    output_tokens: int
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprob, ...] | None
    latency_s: float
    time_to_first_token_s: float


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """What a request gets for the sampling values it leaves out (from generation_config.json)."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    @classmethod
    def from_generation_config(cls, config: Mapping[str, Any] | None) -> SamplingDefaults:
        """Read a generation_config.json as Hugging Face's `generate` does: greedy unless it says ``do_sample: true``.

        A checkpoint without the file (None) gets OpenAI's defaults: temperature 1, nothing truncated. Values out of
        range are ignored, as they are no part of the weights and requests can bring their own.
        """
        if config is None:
            return cls()
        if config.get("do_sample") is not True:
            return cls(temperature=0.0)
        plain = cls()
        return cls(
            temperature=_number(config.get("temperature"), 0, MAX_TEMPERATURE, plain.temperature),
            top_p=_number(config.get("top_p"), 1e-6, 1, plain.top_p),
            top_k=int(_number(config.get("top_k"), 0, 1e9, plain.top_k)),
        )


def _number(value: Any, low: float, high: float, default: float) -> float:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
    return float(value) if usable else default
