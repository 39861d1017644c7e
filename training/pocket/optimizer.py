"""Muon for the weight matrices, AdamW for everything else.

Muon replaces the momentum of a matrix by its nearest orthogonal matrix, so that rare directions move as far as common
ones. Source: K. Jordan and others, "Muon: an optimizer for hidden layers in neural networks" (2024); here written for
stacks of matrices too, since an experts' weight is one tensor (experts, rows, columns). PyTorch's own
`torch.optim.Muon` takes two dimensions only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the Newton-Schulz quintic in the source: steep at zero, singular values end between about 0.7 and 1.2."""


def orthogonalise(stack: torch.Tensor, *, iterations: int = 5) -> torch.Tensor:
    """Return a stack (..., rows, columns) with all singular values near one."""
    tall = stack.shape[-2] > stack.shape[-1]
    current: torch.Tensor = stack.mT if tall else stack
    current = current / (current.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    first, second, third = COEFFICIENTS
    for _ in range(iterations):
        gram = current @ current.mT
        current = first * current + (second * gram + third * gram @ gram) @ current
    return current.mT if tall else current


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised; Nesterov's form; weight decay apart from the gradient.

    Parameters
    ----------
    parameters
        Tensors of two dimensions or more; the last two are the matrix.
    lr
        Root mean square of the change of an entry per step is about 0.2 times this, as with Adam.
    """

    def __init__(
        self, parameters: list[torch.Tensor], lr: float, *, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override] # takes no closure
        """Change every parameter once (``closure`` is not supported)."""
        if closure is not None:
            raise NotImplementedError("Muon takes no closure")
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                velocity = state.setdefault("velocity", torch.zeros_like(parameter))
                velocity.lerp_(parameter.grad, 1 - group["momentum"])
                direction = orthogonalise(parameter.grad.lerp(velocity, group["momentum"]))
                scale = 0.2 * max(parameter.shape[-2:]) ** 0.5
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(direction, alpha=-group["lr"] * scale)


def build_optimizers(model: PreTrainedModel, *, learning_rate: float, weight_decay: float) -> list[Any]:
    """Return the optimizers of a model: Muon for hidden matrices, AdamW for embeddings, routers' gates and norms."""
    matrices, embeddings, others = [], [], []
    for name, parameter in model.named_parameters():
        if "embed" in name:
            embeddings.append(parameter)
        elif parameter.ndim < 2 or name.endswith(("mlp.gate.weight", "router.weight")):
            others.append(parameter)
        else:
            matrices.append(parameter)
    adam = torch.optim.AdamW(
        [{"params": embeddings}, {"params": others}], lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True
    )
    return [Muon(matrices, learning_rate, weight_decay=weight_decay), adam]
