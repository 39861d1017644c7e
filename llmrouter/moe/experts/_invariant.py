"""Computing every row with the same bits, whatever other rows are in the batch.

A matrix library picks its blocking, and so the order of its sums, by the number of rows; the last few elements of an
elementwise operation are computed by other instructions than the rest. Both make a request's logits depend on its
batch-mates in the last bit, and with them now and then a token. Here every product has one fixed number of rows
(filled up with zeros), and elementwise functions get pieces without a remainder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Function = Callable[[torch.Tensor], torch.Tensor]

TILE_ROWS = 16
_PIECE = 16_384  # elements: a whole number of vector registers, and too few for torch to divide among threads
_COLUMN_BLOCK = 128


def in_row_tiles(function: Function, rows: torch.Tensor, *, tile: int = TILE_ROWS) -> torch.Tensor:
    """Apply a function of rows to `tile` rows at a time, the last ones filled up with zeros.

    Parameters
    ----------
    function : callable
        (tile, m) -> (tile, n), each row on its own.
    rows : torch.Tensor
        Shape (count, m), count at least 1.

    Returns
    -------
    torch.Tensor
        Shape (count, n).
    """
    count = rows.shape[0]
    padded = functional.pad(rows, (0, 0, 0, -count % tile))
    outputs = [function(part) for part in torch.split(padded, tile)]
    return (torch.cat(outputs) if len(outputs) > 1 else outputs[0])[:count]


def activation_rows(width: int) -> int:
    """Return how many rows of `width` elements an activation takes at a time, so that no row is cut by threads."""
    return max(1, min(TILE_ROWS, 2 * _PIECE // max(width, 1) - 1))


def in_pieces(function: Function, values: torch.Tensor) -> torch.Tensor:
    """Apply an elementwise function so that an element's bits do not depend on where in the tensor it is."""
    flat = values.reshape(-1)
    padded = functional.pad(flat, (0, -flat.numel() % 64))
    return torch.cat([function(part) for part in torch.split(padded, _PIECE)])[: flat.numel()].view(values.shape)


class BatchInvariant(TorchFunctionMode):
    """Context in which the forward pass of a model gives every sequence the same bits alone and in any batch.

    Covers what Hugging Face's decoder layers compute: linear layers, scaled dot-product attention, activations and
    rotary angles; norms and softmax work row by row already. Experts must be of the implementation
    ``llmrouter_deterministic`` and attention must be ``sdpa``. Several times as slow as without.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Compute `func` in fixed shapes where there is a way to."""
        return _REPLACED.get(func, func)(*args, **(kwargs or {}))


def _linear(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:  # noqa: A002
    rows = input.reshape(-1, input.shape[-1])
    output = in_row_tiles(lambda tile: functional.linear(tile, weight, bias), rows)
    return output.view(*input.shape[:-1], weight.shape[0])


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,  # noqa: ARG001 -- told by the shapes
) -> torch.Tensor:
    """Scaled dot-product attention whose sums go over blocks of columns, first block first; shapes as torch's.

    A block that a query does not see adds exact zeros, so that the width of the batch's cache does not matter.
    """
    if dropout_p:
        raise ValueError(f"dropout_p is {dropout_p}; batch invariance is for inference, set it to 0")
    batch, heads, length, size = query.shape
    width = key.shape[2]
    visible = _bias(attn_mask, length, width, is_causal=is_causal).to(query.device)
    visible = visible.expand(batch, -1, length, width)  # one row of a mask may stand for all queries
    rows, columns = -length % TILE_ROWS, -width % _COLUMN_BLOCK
    visible = functional.pad(visible, (0, columns), value=torch.finfo(torch.float32).min)
    visible = functional.pad(visible, (0, 0, 0, rows))
    tiles = functional.pad(query.float(), (0, 0, 0, rows)).view(batch, heads, -1, TILE_ROWS, size)
    visible = visible.view(batch, visible.shape[1], -1, TILE_ROWS, visible.shape[-1])
    repeats = heads // key.shape[1]
    keys, values = (
        torch.split(
            functional.pad(part.float().repeat_interleave(repeats, dim=1), (0, 0, 0, columns)), _COLUMN_BLOCK, 2
        )
        for part in (key, value)
    )
    factor = size**-0.5 if scale is None else scale
    scores = torch.cat([tiles @ block.unsqueeze(2).transpose(-1, -2) for block in keys], dim=-1)
    scores = scores * factor + visible
    shares = torch.split(in_pieces(torch.exp, scores - scores.amax(dim=-1, keepdim=True)), _COLUMN_BLOCK, -1)
    total, output = scores.new_zeros(()), scores.new_zeros(())
    for part, block in zip(shares, values, strict=True):
        part = part.contiguous()
        total = total + part.sum(dim=-1, keepdim=True)
        output = output + part @ block.unsqueeze(2)
    attended: torch.Tensor = (output / total).flatten(2, 3)[:, :, :length]
    return attended.to(query.dtype)


def _bias(mask: torch.Tensor | None, length: int, width: int, *, is_causal: bool) -> torch.Tensor:
    """Return what is added to the scores, shape (B or 1, heads or 1, length, width), float32."""
    if mask is None:
        mask = torch.ones(1, 1, length, width, dtype=torch.bool)
        mask = mask.tril() if is_causal else mask
    if mask.dtype != torch.bool:
        return mask.float()
    return torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, torch.finfo(torch.float32).min)


def _pieces(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Return the elementwise `function` of a tensor and settings, computed in pieces."""

    def apply(input: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:  # noqa: A002
        kwargs.pop("inplace", None)
        return in_pieces(lambda part: function(part, *args, **kwargs), input)

    return apply


_ELEMENTWISE = (
    *(functional.silu, functional.gelu, functional.softplus, functional.sigmoid, functional.tanh),
    *(torch.cos, torch.sin, torch.exp, torch.sigmoid, torch.tanh, torch.rsqrt),
    *(torch.Tensor.cos, torch.Tensor.sin, torch.Tensor.exp, torch.Tensor.sigmoid, torch.Tensor.tanh),
    torch.Tensor.rsqrt,
)
_REPLACED: Mapping[Callable[..., Any], Callable[..., Any]] = {
    functional.linear: _linear,
    functional.scaled_dot_product_attention: _attention,
    **{function: _pieces(function) for function in _ELEMENTWISE},
}
