"""The losses of `llmrouter.routers._contrastive_loss` in torch, for training on a GPU and through an encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llmrouter.routers._contrastive_loss import CostSpectrum, contrasted
from llmrouter.types import FloatArray, IntArray

if TYPE_CHECKING:
    from torch import Tensor


def cost_spectrum_loss(similarity: Tensor, relevance: Tensor, spectrum: CostSpectrum) -> Tensor:
    """Return CSCR's loss of similarities (n, m) and degrees of being right (n, m), NaN where unobserved.

    The mean over the bands with correct models, then over the prompts that have any; 0 where none has.
    """
    import torch

    seen = torch.isfinite(relevance)
    right = torch.where(seen, relevance, torch.zeros_like(relevance))
    costs = torch.as_tensor(spectrum.costs, dtype=similarity.dtype, device=similarity.device)
    band = torch.as_tensor(spectrum.band, device=similarity.device)
    total = similarity.new_zeros(len(similarity))
    filled = similarity.new_zeros(len(similarity))
    for number, temperature in enumerate(spectrum.temperatures.tolist()):
        positive = right * (band == number)
        valid = positive.sum(dim=1) > 0
        whole = _log_sum((similarity + spectrum.shift * costs) / temperature, seen.to(similarity.dtype))
        part = _log_sum(similarity / temperature, positive)
        total = total + torch.where(valid, whole - part, torch.zeros_like(whole))
        filled = filled + valid
    counted = filled > 0
    return (total / filled.clamp(min=1.0)).sum() / counted.sum().clamp(min=1)


def sample_llm_loss(
    similarity: Tensor, score: FloatArray, *, best: int, worst: int, temperature: float, ties: FloatArray
) -> Tensor:
    """Return RouterDC's sample-LLM loss of similarities (n, m), scores (n, m) and random `ties` (n, m)."""
    import torch

    chosen, against = contrasted(score, best=best, worst=worst, ties=ties)
    valid = np.asarray(chosen.any(axis=1) & against.any(axis=1))
    positive = torch.as_tensor(chosen & valid[:, None], device=similarity.device)
    negative = torch.as_tensor(against, device=similarity.device)
    logits = similarity / temperature
    others = torch.where(negative, logits, torch.full_like(logits, -torch.inf)).unsqueeze(1)
    pairs = torch.cat([others.expand(-1, logits.shape[1], -1), logits.unsqueeze(2)], dim=2)
    terms = torch.logsumexp(pairs, dim=2) - logits
    return torch.where(positive, terms, torch.zeros_like(terms)).sum() / max(int(valid.sum()), 1)


def sample_sample_loss(queries: Tensor, cluster: IntArray, *, negatives: int, generator: np.random.Generator) -> Tensor:
    """Return RouterDC's sample-sample loss of unit queries (n, D), drawn as in the numpy version."""
    import torch

    n = len(queries)
    keys = generator.random((n, n))
    same = cluster[:, None] == cluster[None, :]
    near = np.argmin(np.where(same, keys, 2.0), axis=1)
    far = np.argsort(np.where(same, 2.0, keys), axis=1)[:, : min(negatives, max(n - 1, 0))]
    usable = np.c_[np.ones((n, 1), dtype=bool), ~np.take_along_axis(same, far, axis=1)]
    chosen = torch.as_tensor(np.c_[near[:, None], far], device=queries.device)
    logits = torch.einsum("nd,nhd->nh", queries, queries[chosen])
    present = torch.as_tensor(usable, device=queries.device)
    logits = torch.where(present, logits, torch.full_like(logits, -torch.inf))
    return (torch.logsumexp(logits, dim=1) - logits[:, 0]).mean()


def _log_sum(logits: Tensor, presence: Tensor) -> Tensor:
    """Return log(sum presence * exp(logits)), (n,); 0 where nothing is there, with a gradient of 0."""
    import torch

    present = presence > 0
    masked = torch.where(present, logits + torch.log(presence.clamp(min=1e-30)), torch.full_like(logits, -1e30))
    return torch.where(present.any(dim=1), torch.logsumexp(masked, dim=1), masked.new_zeros(len(masked)))
