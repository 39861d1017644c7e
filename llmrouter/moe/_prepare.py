"""From a request to a sequence that the engine can run."""

from __future__ import annotations

from random import Random

from llmrouter.exceptions import ContextLengthError, GenerationRequestError
from llmrouter.moe._handle import GenerationHandle
from llmrouter.moe._sequence import Sequence
from llmrouter.moe._types import GenerationRequest, SamplingDefaults
from llmrouter.moe._vocabulary import Vocabulary


def prepared(
    request: GenerationRequest,
    handle: GenerationHandle,
    *,
    vocabulary: Vocabulary,
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

    if request.messages is not None:
        prompt = vocabulary.encode(vocabulary.render(request.messages), special_tokens=False)
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
    )
