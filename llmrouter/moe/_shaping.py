"""What is done to the experts of a model after it is loaded: how they are computed, and which of them stay."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from llmrouter.exceptions import CheckpointError, GenerationRequestError
from llmrouter.moe._options import Pruning, Quantization, SelfContrast
from llmrouter.moe._vocabulary import Vocabulary

if TYPE_CHECKING:
    from llmrouter.moe.experts import Reduction

_LOGGER = logging.getLogger(__name__)


def choose_experts(
    source: str, model: Any, experts: str, *, deterministic: bool, reduction: Reduction | None = None
) -> None:
    """Set the implementation of the experts, and for bitwise invariance that of attention.

    Raises
    ------
    CheckpointError
        If there is no such implementation, or the options do not go together.
    """
    from llmrouter.moe.experts import DETERMINISTIC_NAME, NAME, register_experts, register_reduced_experts

    register_experts()
    takes_implementations = model._can_set_experts_implementation()  # noqa: SLF001 -- no public way to ask
    if deterministic:
        if experts not in ("auto", DETERMINISTIC_NAME):
            raise CheckpointError(
                f"experts is {experts!r}; with deterministic leave it out (or {DETERMINISTIC_NAME!r})"
            )
        experts = DETERMINISTIC_NAME
    if reduction is not None:
        if experts != "auto":
            raise CheckpointError(
                f"experts is {experts!r}; with fewer experts a token leave it (and deterministic) out"
            )
        require_our_experts(source, model, "fewer experts a token")
        experts = register_reduced_experts(reduction)
    if experts == "auto":
        if not takes_implementations:
            return
        experts = NAME
    with translated(source, "experts"):
        if takes_implementations:
            model.set_experts_implementation(experts)
        if deterministic:
            model.set_attn_implementation("sdpa")


def require_our_experts(source: str, model: Any, option: str) -> None:
    """Raise CheckpointError where `option` cannot act, as the model's experts are not computed by us."""
    if not model._can_set_experts_implementation():  # noqa: SLF001 -- no public way to ask
        raise CheckpointError(
            f"{source}: {option} needs a mixture-of-experts model of a class that takes experts implementations; "
            f"{type(model).__name__} does not. Load it without"
        )


def remove_experts(
    source: str,
    model: Any,
    pruning: Pruning,
    *,
    vocabulary: Vocabulary,
    end_tokens: frozenset[int],
    context_window: int,
) -> None:
    """Prune the model on the pruning's prompts, as a chat where the model takes chats.

    Raises
    ------
    CheckpointError
        If the model cannot be pruned, or not at this rate.
    """
    require_our_experts(source, model, "pruning")
    _require_our_implementation(source, model, "pruning")
    from llmrouter.moe.compression import prune

    prompts = []
    for text in pruning.prompts:
        try:
            tokens = _prompt_tokens(text, vocabulary)
        except GenerationRequestError as error:
            raise CheckpointError(f"{source}: a calibration prompt cannot be used: {error}") from error
        prompts.append(tokens[: context_window // 2])
    with translated(source, "model for pruning"):
        kept = prune(model, pruning, [prompt for prompt in prompts if prompt], end_tokens=end_tokens)
    for layer, experts in kept.items():
        _LOGGER.info("%s: %s keeps experts %s", source, layer, experts)


def quantize_experts(source: str, model: Any, quantization: Quantization) -> None:
    """Store the model's experts as integers.

    Raises
    ------
    CheckpointError
        If the model has none, or their widths do not divide into groups.
    """
    require_our_experts(source, model, "quantisation")
    _require_our_implementation(source, model, "quantisation")
    from llmrouter.moe.compression import quantize

    with translated(source, "experts as integers"):
        before, after = quantize(model, quantization)
    _LOGGER.info("%s: experts of %d bytes stored as %s in %d", source, before, quantization.name, after)


def check_contrast(source: str, model: Any, contrast: SelfContrast) -> None:
    """Raise CheckpointError if the model cannot be contrasted with itself."""
    require_our_experts(source, model, "self-contrast")
    _require_our_implementation(source, model, "self-contrast")
    chosen = getattr(model.config.get_text_config(), "num_experts_per_tok", None)
    if not isinstance(chosen, int) or chosen < 2 or contrast.rank > chosen:
        raise CheckpointError(
            f"{source}: self-contrast takes the expert of rank {contrast.rank} as its weak side, but a token of this "
            f"model uses {chosen}; it needs a model with at least two experts a token and a rank among them"
        )


def _prompt_tokens(text: str, vocabulary: Vocabulary) -> list[int]:
    if vocabulary.has_chat_template:
        return vocabulary.encode(vocabulary.render([{"role": "user", "content": text}]), special_tokens=False)
    return vocabulary.encode(text, special_tokens=True)


def _require_our_implementation(source: str, model: Any, option: str) -> None:
    from llmrouter.moe.experts import NAME

    chosen = str(getattr(model.config, "_experts_implementation", None))
    if not chosen.startswith(NAME):
        raise CheckpointError(
            f"{source}: {option} needs experts computed by {NAME!r}, not {chosen!r}; leave experts out"
        )


@contextlib.contextmanager
def translated(source: str, part: str) -> Iterator[None]:
    """Turn whatever Hugging Face raises for a bad checkpoint into CheckpointError.

    Damaged files surface as errors of json, safetensors, tokenizers and torch, which share no base class.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{source}: cannot load the {part}: {first_line}") from error
