"""From a request to a sequence that the engine can run."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from llmrouter.exceptions import ContextLengthError, GenerationRequestError
from llmrouter.moe._grammar import Constraint, GrammarMaker
from llmrouter.moe._handle import GenerationHandle
from llmrouter.moe._sequence import Sequence
from llmrouter.moe._tool_stream import ForcedCall, OfferedCalls
from llmrouter.moe._tools import CallFormat
from llmrouter.moe._types import GenerationRequest, SamplingDefaults
from llmrouter.moe._vocabulary import Vocabulary

if TYPE_CHECKING:
    from llmrouter.moe._adjust import Adjustment


def prepared(
    request: GenerationRequest,
    handle: GenerationHandle,
    *,
    vocabulary: Vocabulary,
    grammars: GrammarMaker,
    context_window: int,
    defaults: SamplingDefaults,
) -> Sequence:
    """Render and encode a request and fill in what it leaves out.

    Raises
    ------
    GenerationRequestError
        If the request is wrong, e.g. ContextLengthError.
    """
    from llmrouter.moe._sampling import Sampling

    form = vocabulary.call_format if request.calls_tools else None
    if request.messages is not None:
        rendered = vocabulary.render(request.messages, request.tools if request.calls_tools else ())
        if form is not None and request.must_call:
            rendered += form.primer
        prompt = vocabulary.encode(rendered, special_tokens=False)
    else:
        prompt = vocabulary.encode(request.prompt or "", special_tokens=True)
    room = context_window - len(prompt)
    if room < 1:
        error = ContextLengthError(prompt_tokens=len(prompt), context_window=context_window)
        if request.messages is None:
            error.param = "prompt"
        raise error
    if not prompt:
        raise GenerationRequestError("the prompt has no tokens; give at least one character", param="prompt")
    sampling = Sampling(
        temperature=defaults.temperature if request.temperature is None else request.temperature,
        top_p=defaults.top_p if request.top_p is None else request.top_p,
        top_k=defaults.top_k if request.top_k is None else request.top_k,
        random=Random(request.seed),
        logprobs=request.logprobs,
        top_logprobs=request.top_logprobs,
    )
    return Sequence(
        request,
        prompt,
        sampling=sampling,
        # max_tokens is a limit, not a wish: where the window ends first, the completion ends with "length".
        max_new_tokens=min(request.max_tokens or room, room),
        vocabulary=vocabulary,
        handle=handle,
        adjustment=_adjustment(request, grammars),
        calls=None if form is None else _calls(request, form),
        kept_tokens=vocabulary.special_tokens(form.opening, form.closing) if form is not None else frozenset(),
    )


def _adjustment(request: GenerationRequest, grammars: GrammarMaker) -> Adjustment | None:
    """Return what changes the logits of a request, None if nothing does."""
    from llmrouter.moe._adjust import Adjustment

    constraint: Constraint | None = None
    if request.must_call:
        tools = [tool for tool in request.tools if request.forced_tool in (None, tool.name)]
        constraint = grammars.tool_call(tools)
    elif request.response_format is not None:
        constraint = grammars.json(request.response_format)
    if strange := [token for token in request.logit_bias if not 0 <= token < grammars.size]:
        raise GenerationRequestError(
            f"logit_bias has the token {strange[0]}; this model's tokens are 0 to {grammars.size - 1}",
            param="logit_bias",
        )
    if not (constraint or request.logit_bias or request.frequency_penalty or request.presence_penalty):
        return None
    return Adjustment(
        bias=request.logit_bias,
        frequency=request.frequency_penalty,
        presence=request.presence_penalty,
        constraint=constraint,
    )


def _calls(request: GenerationRequest, form: CallFormat) -> ForcedCall | OfferedCalls:
    if request.must_call:
        return ForcedCall(form)
    return OfferedCalls(form, [tool.name for tool in request.tools], parallel=request.parallel_tool_calls)
