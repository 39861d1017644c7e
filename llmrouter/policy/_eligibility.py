"""Which models of the pool can take a request at all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from llmrouter.exceptions import UnknownModelError
from llmrouter.types import Candidate, ModelCard, RoutingRequest


class PoolCandidates:
    """A pool's candidates, request by request; for most requests nothing rules a model out, and they are the same.

    Parameters
    ----------
    cards : sequence of ModelCard
        The pool.
    token_ratio : mapping of str to float, optional
        Model's own prompt tokens per estimated token (tokenizers differ); 1 where absent.
    """

    def __init__(self, cards: Sequence[ModelCard], *, token_ratio: Mapping[str, float] | None = None) -> None:
        self._cards = tuple(cards)
        ratios = token_ratio or {}
        self._ratios = tuple(ratios.get(card.name, 1.0) for card in cards)
        self._all = tuple(Candidate(card) for card in cards)
        # So many tokens fit every context window, whichever part of them is the prompt's.
        limited = [
            (card.context_window - 1) / max(ratio, 1.0)
            for card, ratio in zip(self._cards, self._ratios, strict=True)
            if card.context_window is not None
        ]
        self._fit_all = min(limited, default=math.inf)

    def of(self, request: RoutingRequest) -> tuple[Candidate, ...]:
        """Return every card as a candidate, in order, with the reason where it is not eligible.

        Raises
        ------
        UnknownModelError
            If the request allows only models that the pool lacks.
        """
        allowed = request.allowed_models
        if allowed is None and not request.needs:
            if request.prompt_tokens + (request.max_output_tokens or 0) <= self._fit_all:
                return self._all
        elif allowed is not None:
            known = {card.name for card in self._cards}
            unknown = [name for name in allowed if name not in known]
            if unknown:
                raise UnknownModelError(unknown[0], known=sorted(known))
        return tuple(
            [
                _candidate(card, _reason(request, card, ratio))
                for card, ratio in zip(self._cards, self._ratios, strict=True)
            ]
        )


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
