"""What a request changes about the logits before a token is chosen: bias, penalties, and a grammar."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch

from llmrouter.exceptions import LocalModelError
from llmrouter.moe._grammar import Constraint


class Adjustment:
    """Changes one sequence's logits, by what it has generated so far.

    Parameters
    ----------
    bias : mapping of int to float
        Added to the logits of these tokens.
    frequency, presence : float
        Taken from the logit of a generated token: for each time it was, and once.
    constraint : Constraint, optional
        Tokens that it does not allow are ruled out.
    """

    def __init__(
        self,
        *,
        bias: Mapping[int, float],
        frequency: float = 0.0,
        presence: float = 0.0,
        constraint: Constraint | None = None,
    ) -> None:
        self._bias = dict(bias)
        self._frequency = frequency
        self._presence = presence
        self._constraint = constraint
        self._generated: Counter[int] = Counter()

    @property
    def finished(self) -> bool:
        """Whether the grammar allows nothing more."""
        return self._constraint is not None and self._constraint.finished

    def apply(self, logits: torch.Tensor) -> None:
        """Change a row of logits, shape (V,), in place.

        Raises
        ------
        GenerationFailedError
            If no token fits the grammar.
        """
        if self._bias:
            _add(logits, self._bias)
        if self._generated and (self._frequency or self._presence):
            _add(
                logits,
                {token: -self._frequency * n - self._presence for token, n in self._generated.items()},
            )
        if self._constraint is not None:
            allowed = torch.frombuffer(bytearray(self._constraint.allowed()), dtype=torch.uint8)[: len(logits)]
            logits[: len(allowed)].masked_fill_((allowed == 0).to(logits.device), -torch.inf)
            logits[len(allowed) :] = -torch.inf

    def accept(self, token: int) -> None:
        """Take note of the token that was chosen."""
        if self._frequency or self._presence:
            self._generated[token] += 1
        if self._constraint is not None:
            self._constraint.accept(token)


def adjusted(
    logits: torch.Tensor, rows: Sequence[Adjustment | None]
) -> tuple[torch.Tensor, dict[int, LocalModelError]]:
    """Return the scores to choose from, shape (len(rows), V), and the rows that cannot go on.

    Rows without an adjustment keep their bits.
    """
    if not any(rows):
        return logits, {}
    scores, refused = logits.clone(), {}
    for index, adjustment in enumerate(rows):
        if adjustment is not None:
            try:
                adjustment.apply(scores[index])
            except LocalModelError as error:
                refused[index] = error
    return scores, refused


def _add(logits: torch.Tensor, values: Mapping[int, float]) -> None:
    index = torch.tensor(list(values), device=logits.device)
    logits[index] += torch.tensor(list(values.values()), dtype=logits.dtype, device=logits.device)
