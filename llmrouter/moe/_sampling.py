"""From logits to the next token of every row, and the log-probabilities that were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one row is sampled. `random` is the row's own, so a seed gives the same tokens in any company."""

    temperature: float
    top_p: float
    top_k: int
    random: Random
    logprobs: bool = False
    top_logprobs: int = 0

    @property
    def truncated(self) -> bool:
        """Whether improbable tokens are ruled out."""
        return self.top_p < 1 or self.top_k > 0


@dataclass(frozen=True, slots=True)
class Choice:
    """The token chosen for a row, with its log-probability and the most probable ids where asked for.

    `finite` is False where the logits held NaN or infinity: the token means nothing then.
    """

    token: int
    finite: bool
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


def choose_tokens(logits: torch.Tensor, rows: Sequence[Sampling], scores: torch.Tensor | None = None) -> list[Choice]:
    """Choose the next token of every row.

    Parameters
    ----------
    logits : Tensor, shape (len(rows), V), float32
        The model's; log-probabilities are reported from them.
    rows : sequence of Sampling
        How each row is sampled.
    scores : Tensor, shape (len(rows), V), float32, optional
        What is chosen from, where it differs from the logits: -inf is never chosen.
    """
    scores = logits if scores is None else scores
    tokens: list[int] = scores.max(dim=-1).indices.tolist()
    finite: list[bool] = torch.isfinite(logits.amax(dim=-1)).tolist()
    # Two groups, as a row must draw the same token whether or not others in the batch are truncated.
    for truncated in (False, True):
        group = [
            index
            for index, row in enumerate(rows)
            if row.temperature > 0 and finite[index] and row.truncated is truncated
        ]
        if group:
            drawn = _draw(scores[group], [rows[index] for index in group], truncated=truncated)
            for index, token in zip(group, drawn, strict=True):
                tokens[index] = token
    scored = [index for index, row in enumerate(rows) if row.logprobs and finite[index]]
    reported = dict(zip(scored, _score(logits, tokens, scored, rows), strict=True)) if scored else {}
    return [Choice(token, finite[index], *reported.get(index, (None, ()))) for index, token in enumerate(tokens)]


def _draw(logits: torch.Tensor, rows: Sequence[Sampling], *, truncated: bool) -> list[int]:
    """Sample a token per row by inverting the cumulative distribution at the row's own random number."""
    temperatures = torch.tensor([row.temperature for row in rows], dtype=torch.float64, device=logits.device)
    # Below the highest logit first: a tiny temperature then gives 0 and -inf, never inf - inf.
    relative = (logits - logits.max(dim=-1, keepdim=True).values).double()
    probabilities = torch.softmax(relative / temperatures[:, None], dim=-1)
    uniforms = torch.tensor([row.random.random() for row in rows], dtype=torch.float64, device=logits.device)
    if not truncated:
        return _invert(probabilities, uniforms).tolist()
    probabilities, order = probabilities.sort(dim=-1, descending=True, stable=True)
    before = probabilities.cumsum(dim=-1) - probabilities
    top_p = torch.tensor([row.top_p for row in rows], dtype=torch.float64, device=logits.device)
    top_k = torch.tensor([row.top_k or logits.shape[-1] for row in rows], device=logits.device)
    ranks = torch.arange(logits.shape[-1], device=logits.device)
    # The most probable token always stays: nothing comes before it, and top_p and top_k are positive.
    kept = (before < top_p[:, None]) & (ranks < top_k[:, None])
    ranked = _invert(probabilities * kept, uniforms)
    return order.gather(-1, ranked[:, None])[:, 0].tolist()


def _invert(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Return for each row the first index whose cumulative weight exceeds its share of the total."""
    cumulative = weights.cumsum(dim=-1)
    targets = uniforms[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, targets, right=True)[:, 0].clamp(max=weights.shape[-1] - 1)


def _score(
    logits: torch.Tensor, tokens: Sequence[int], scored: Sequence[int], rows: Sequence[Sampling]
) -> list[tuple[float, tuple[tuple[int, float], ...]]]:
    """Return (log-probability of the chosen token, most probable ids with theirs) for the rows in `scored`."""
    logprobs = torch.log_softmax(logits[list(scored)], dim=-1)
    chosen = logprobs.gather(-1, torch.tensor([[tokens[index]] for index in scored], device=logits.device))
    most = min(max(rows[index].top_logprobs for index in scored), logits.shape[-1])
    values, ids = logprobs.topk(most, dim=-1)
    return [
        (float(own[0]), tuple(zip(top_ids[: rows[index].top_logprobs], top_values, strict=False)))
        for index, own, top_ids, top_values in zip(scored, chosen.tolist(), ids.tolist(), values.tolist(), strict=True)
    ]
