"""Requests to a local engine and what comes back; plain values, no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from llmrouter.exceptions import GenerationRequestError
from llmrouter.moe._tools import Tool, ToolCall, ToolCallDelta, ToolChoice, check_tools

FinishReason = Literal["stop", "length", "tool_calls"]

MAX_TEMPERATURE = 2.0
MAX_STOP_STRINGS = 4
MAX_TOP_LOGPROBS = 20
MAX_PENALTY = 2.0
MAX_BIAS = 100.0
MAX_BIASED_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """An answer in JSON.

    Attributes
    ----------
    schema : mapping, optional
        The JSON schema it follows; None: any object.
    strict : bool
        Refuse a schema that cannot be enforced whole, instead of ignoring the keywords in question.
    """

    schema: Mapping[str, Any] | None = None
    strict: bool = False


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
    frequency_penalty, presence_penalty : float
        In [-2, 2]; taken from the logit of a token for each time that it was generated, and once if it was.
    logit_bias : mapping of int to float
        Added to the logits of these token ids, each in [-100, 100].
    response_format : ResponseFormat, optional
        An answer in JSON; not together with `tools` unless `tool_choice` is "none".
    tools : sequence of Tool
        Functions that the model may call; needs `messages`.
    tool_choice : {"auto", "none", "required"}
        Whether the model decides, may not, or must call one.
    forced_tool : str, optional
        The name of the tool that must be called.
    parallel_tool_calls : bool
        Whether an answer may have more than one call; one that must have a call has one.

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
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    response_format: ResponseFormat | None = None
    tools: Sequence[Tool] = ()
    tool_choice: ToolChoice = "auto"
    forced_tool: str | None = None
    parallel_tool_calls: bool = True

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
        self._check_adjustments()
        self._check_tools()

    def _check_adjustments(self) -> None:
        for name in ("frequency_penalty", "presence_penalty"):
            if not -MAX_PENALTY <= getattr(self, name) <= MAX_PENALTY:
                _refuse(name, getattr(self, name), f"a number from {-MAX_PENALTY:g} to {MAX_PENALTY:g}")
        if len(self.logit_bias) > MAX_BIASED_TOKENS:
            _refuse("logit_bias", f"{len(self.logit_bias)} tokens", f"at most {MAX_BIASED_TOKENS}")
        for token, bias in self.logit_bias.items():
            if not -MAX_BIAS <= bias <= MAX_BIAS:
                _refuse(f"logit_bias[{token}]", bias, f"a number from {-MAX_BIAS:g} to {MAX_BIAS:g}")

    def _check_tools(self) -> None:
        check_tools(self.tools, self.tool_choice, self.forced_tool)
        if not self.calls_tools:
            return
        if self.messages is None:
            raise GenerationRequestError("tools need messages; a raw prompt has no place for them", param="tools")
        if self.response_format is not None:
            raise GenerationRequestError(
                "response_format and tools do not go together, as a call is no such answer; "
                'leave one of them out, or give tool_choice "none"',
                param="response_format",
            )

    @property
    def calls_tools(self) -> bool:
        """Whether the answer may have tool calls."""
        return bool(self.tools) and (self.tool_choice != "none" or self.forced_tool is not None)

    @property
    def must_call(self) -> bool:
        """Whether the answer must be a tool call."""
        return self.tool_choice == "required" or self.forced_tool is not None

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
    """A piece of text as it is streamed, and the log-probabilities of the tokens it came from (None: not asked).

    With tools also pieces of calls; the log-probabilities are then those of the calls' tokens too.
    """

    text: str
    logprobs: tuple[TokenLogprob, ...] | None = None
    tool_calls: tuple[ToolCallDelta, ...] = ()


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
    finish_reason : {"stop", "length", "tool_calls"}
        Whether the model (or a stop string) ended it, or `max_tokens` or the context window did; "tool_calls" if it
        ended with calls, "stop" all the same where the request named the tool.
    logprobs : tuple of TokenLogprob or None
        One entry for each token of `text`; None where not asked for.
    latency_s : float
        Seconds from acceptance to the last token, waiting included.
    time_to_first_token_s : float
        Seconds from acceptance to the first token.
    tool_calls : tuple of ToolCall
        Calls that the model made; their text is not in `text`.
    """

    text: str
    input_tokens: int
    output_tokens: int
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprob, ...] | None
    latency_s: float
    time_to_first_token_s: float
    tool_calls: tuple[ToolCall, ...] = ()


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
