"""What a fitted encoder is drawn to: prompts on which the same models do well lie close.

Two losses. *Profiles*: within a batch, the cosines between prompts are to follow the agreement of their profiles, a
profile being the outcomes of all models on a prompt less each model's mean. *Outcomes*: a linear read-out of the vector
is to say each model's outcome. Both leave out what was never observed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llmrouter.types import FloatArray, IntArray

if TYPE_CHECKING:
    from torch import Tensor


def residuals(quality: FloatArray, rows: IntArray | None = None) -> FloatArray:
    """Return outcomes (n, m) less each model's mean over `rows` (all, where None); NaN stays NaN.

    A model that was never observed on `rows` has a mean of 0.
    """
    known = quality if rows is None else quality[rows]
    seen = np.isfinite(known)
    means = np.where(seen, known, 0.0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
    return np.asarray(quality - means)


def agreement(profiles: Tensor) -> Tensor:
    """Return how far profiles (n, m) agree, (n, n) in [-1, 1]: their cosine over what both have; NaN where nothing."""
    import torch

    seen = torch.isfinite(profiles)
    filled = torch.where(seen, profiles, torch.zeros_like(profiles))
    present = seen.to(profiles.dtype)
    squares = (filled * filled) @ present.T  # of the row's profile over what the column has too
    scale = torch.sqrt(squares * squares.T)
    shared = (present @ present.T > 0) & (scale > 0)
    return torch.where(shared, (filled @ filled.T) / scale.clamp(min=1e-12), torch.full_like(scale, torch.nan))


def profile_loss(vectors: Tensor, profiles: Tensor, *, temperature: float, sharpness: float) -> Tensor:
    """Return the cross entropy of what profiles say about neighbours and what vectors say.

    Parameters
    ----------
    vectors : tensor of shape (n, d)
        Unit rows.
    profiles : tensor of shape (n, m)
        Residual outcomes, NaN where unobserved.
    temperature : float
        Of the cosines between vectors.
    sharpness : float
        Factor before agreements: at 0 all others are neighbours alike, high values leave only the nearest profiles.

    Notes
    -----
    The mean over the prompts that share observed models with two others or more; less the entropy of the target, so
    that 0 is perfect; 0 where there are none such.
    """
    import torch

    wanted = agreement(profiles)
    usable = torch.isfinite(wanted) & ~torch.eye(len(wanted), dtype=torch.bool, device=wanted.device)
    rows = usable.sum(dim=1) >= 2
    if not bool(rows.any()):
        return vectors.sum() * 0.0
    lowest = torch.full_like(wanted, -1e9)
    target = torch.softmax(torch.where(usable, wanted * sharpness, lowest)[rows], dim=1)
    given = torch.log_softmax(torch.where(usable, vectors @ vectors.T / temperature, lowest)[rows], dim=1)
    kept = usable[rows]
    logs = torch.log(target.clamp(min=1e-30))
    terms = torch.where(kept, target * (logs - given), torch.zeros_like(given))
    return terms.sum(dim=1).mean()


def outcome_loss(vectors: Tensor, readout: Tensor, bias: Tensor, quality: Tensor) -> Tensor:
    """Return the mean cross entropy of outcomes (n, m) in [0, 1] and a linear read-out of the vectors.

    `readout` is (m, d), `bias` (m,), both in logits; unobserved outcomes (NaN) are left out, 0 where all are.
    """
    import torch

    seen = torch.isfinite(quality)
    wanted = torch.where(seen, quality, torch.zeros_like(quality))
    losses = torch.nn.functional.binary_cross_entropy_with_logits(vectors @ readout.T + bias, wanted, reduction="none")
    return torch.where(seen, losses, torch.zeros_like(losses)).sum() / seen.sum().clamp(min=1)
