"""Which models of the pool can take a request at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llmrouter.exceptions import UnknownModelError
from llmrouter.types import Candidate, ModelCard, RoutingRequest


def candidates_for(
    request: RoutingRequest, cards: Sequence[ModelCard], *, token_ratio: Mapping[str, float] | None = None
) -> tuple[Candidate, ...]:
    """Return every card as a candidate, in order, with the reason where it is not eligible.

    Parameters
    ----------
    request : RoutingRequest
        What is asked.
    cards : sequence of ModelCard
        The pool.
    token_ratio : mapping of str to float, optional
        Model's own prompt tokens per estimated token (tokenizers differ); 1 where absent.

    Raises
    ------
    UnknownModelError
        If the request allows only models that the pool lacks.
    """
    allowed = request.allowed_models
    if allowed is not None:
        known = {card.name for card in cards}
        unknown = [name for name in allowed if name not in known]
        if unknown:
            raise UnknownModelError(unknown[0], known=sorted(known))
    ratios = token_ratio or {}
    return tuple([_candidate(card, _reason(request, card, ratios.get(card.name, 1.0))) for card in cards])


def _candidate(card: ModelCard, reason: str) -> Candidate:
    return Candidate(card, eligible=False, reason=reason) if reason else Candidate(card)


def _reason(request: RoutingRequest, card: ModelCard, ratio: float) -> str:
    if request.allowed_models is not None and card.name not in request.allowed_models:
        return "not among the allowed models"
    if request.needs and not request.needs <= card.capabilities:
        return f"lacks {', '.join(sorted(need.value for need in request.needs - card.capabilities))}"
    if card.context_window is not None:
        tokens = round(request.prompt_tokens * ratio) + (request.max_output_tokens or 0)
        if tokens > card.context_window:
            return f"about {tokens} tokens exceed its context window of {card.context_window}"
    return ""
