"""Experts stored as 8- or 4-bit integers with scales, expanded when they are used; nothing else is quantised."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from llmrouter.exceptions import CheckpointError
from llmrouter.moe._options import Quantization
from llmrouter.moe.compression._layers import moe_layers
from llmrouter.moe.experts import ExpertWeights, module_weights
from llmrouter.moe.experts._weights import QUANTIZED

_CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)
"""Parts of the largest absolute value that are tried as the end of the 4-bit range."""


class QuantizedMatrices(nn.Module):
    """Matrices of shape (E, rows, columns) as symmetric integers with one scale for each group of a row's columns.

    Parameters
    ----------
    matrices : torch.Tensor
        Shape (E, rows, columns), floating.
    quantization : Quantization
        Bits and group.

    Raises
    ------
    CheckpointError
        If the group does not divide the columns.
    """

    def __init__(self, matrices: torch.Tensor, quantization: Quantization) -> None:
        super().__init__()
        columns = matrices.shape[-1]
        group = quantization.group or columns
        if columns % group or (quantization.bits == 4 and columns % 2):
            raise CheckpointError(
                f"{quantization.name}: matrices of width {columns} cannot be cut into even groups of {group}; "
                "take a group that divides it, or int8"
            )
        self._bits = quantization.bits
        self._group = group
        self._dtype = matrices.dtype
        self._shape = tuple(matrices.shape)
        # One matrix after the other, so that the copies are small beside the weights.
        parts = [_quantized(matrix.detach().float(), self._bits, group) for matrix in matrices]
        self.codes: torch.Tensor
        self.scales: torch.Tensor
        self.register_buffer("codes", torch.stack([codes for codes, _ in parts]))
        self.register_buffer("scales", torch.stack([scales for _, scales in parts]))

    @property
    def count(self) -> int:
        """Number of matrices E."""
        return int(self._shape[0])

    @property
    def nbytes(self) -> int:
        """Bytes of integers and scales."""
        return self.codes.nbytes + self.scales.nbytes

    def expanded(self, chosen: torch.Tensor) -> torch.Tensor:
        """Return the matrices numbered `chosen`, shape (len(chosen), rows, columns), in the model's type."""
        codes = self.codes[chosen]
        if self._bits == 4:
            codes = torch.stack((codes & 15, codes >> 4), dim=-1).view(torch.int8) - 8
        scales = self.scales[chosen]
        # One pass: the product of integers and floats converts as it goes.
        grouped = codes.view(*scales.shape, self._group) * scales.unsqueeze(-1)
        matrices: torch.Tensor = grouped.to(self._dtype).view(len(chosen), *self._shape[1:])
        return matrices


def _quantized(matrix: torch.Tensor, bits: int, group: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return codes (packed in pairs for 4 bits) and float16 or float32 scales of a (rows, columns) matrix."""
    grouped = matrix.view(matrix.shape[0], -1, group)
    largest = grouped.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12)
    top = (1 << (bits - 1)) - 1
    best_scale = largest / top
    if bits == 4:
        best_error = torch.full_like(largest, float("inf"))
        for clip in _CLIPS:
            scale = largest * clip / top
            error = (_rounded(grouped, scale, top) * scale - grouped).square().sum(dim=-1, keepdim=True)
            best_scale = torch.where(error < best_error, scale, best_scale)
            best_error = torch.minimum(error, best_error)
    codes = _rounded(grouped, best_scale, top).view(matrix.shape)
    scales = best_scale.squeeze(-1)
    if bits == 8:
        return codes.to(torch.int8), scales
    pairs = (codes + 8).to(torch.uint8).view(matrix.shape[0], -1, 2)
    return pairs[..., 0] | (pairs[..., 1] << 4), scales


def _rounded(values: torch.Tensor, scale: torch.Tensor, top: int) -> torch.Tensor:
    return (values / scale).round().clamp(-top - 1, top)


def _check_widths(hidden: int, inner: int, quantization: Quantization) -> None:
    group = quantization.group
    if group is None or not (hidden % group or inner % group):
        return
    fitting = [size for size in range(2, group, 2) if not (hidden % size or inner % size)]
    raise CheckpointError(
        f"{quantization.name}: experts of hidden size {hidden} and inner size {inner} cannot be cut into groups of "
        f"{group}; take {f'{quantization.kind}:{fitting[-1]}' if fitting else 'a group that divides both'}, or int8"
    )


class QuantizedExperts(nn.Module):
    """Both matrices of a layer's experts; what `module_weights` reads in their place.

    Parameters
    ----------
    weights : ExpertWeights
        The layer's, as they lie in its module.
    quantization : Quantization
        Bits and group.
    """

    def __init__(self, weights: ExpertWeights, quantization: Quantization) -> None:
        super().__init__()
        _check_widths(weights.up.shape[-1], weights.down.shape[-1], quantization)
        self.up = QuantizedMatrices(weights.up, quantization)
        self.down = QuantizedMatrices(weights.down, quantization)

    @property
    def count(self) -> int:
        """Number of experts."""
        return self.up.count

    @property
    def nbytes(self) -> int:
        """Bytes of all matrices."""
        return self.up.nbytes + self.down.nbytes

    def expanded(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return (chosen, up, down, index): the experts that occur, their matrices, and ids among these.

        Ids that are no expert become the number of chosen ones, which is no expert either.
        """
        known = (index >= 0) & (index < self.count)
        chosen = torch.bincount(index[known], minlength=self.count).nonzero().flatten()
        places = torch.searchsorted(chosen, index)
        return chosen, self.up.expanded(chosen), self.down.expanded(chosen), torch.where(known, places, len(chosen))


def quantize(model: Any, quantization: Quantization) -> tuple[int, int]:
    """Replace the weights of all experts by integers, in place, and return their bytes before and after.

    Only the ``llmrouter`` implementations can compute such experts. Biases and routers stay as they are.

    Raises
    ------
    CheckpointError
        If the model has no experts, or its widths do not divide into groups (nothing is changed then).
    """
    before = after = 0
    replaced = []
    for layer in moe_layers(model):
        weights = module_weights(layer.experts)
        quantized = QuantizedExperts(weights, quantization)
        before += weights.up.nbytes + weights.down.nbytes
        after += quantized.nbytes
        replaced.append((layer.experts, quantized))
    for module, quantized in replaced:
        setattr(module, QUANTIZED, quantized)
        setattr(module, "gate_up_proj" if module.has_gate else "up_proj", None)
        module.down_proj = None
    return before, after
