"""Rows on a device of torch: in 16 bits to be scanned, and whole to be ranked by."""

from __future__ import annotations

from typing import Any

from llmrouter.index._devices import load_torch
from llmrouter.types import FloatArray

# Rows are stored in groups of so many, the last filled up with zeros (see `_torch_scan`).
GROUP = 32
_CHUNK_ROWS = 65_536
# float16 ends at 65504; rows beyond are scanned in float32.
_FP16_MAX = 60_000.0


class DeviceRows:
    """The (n, d) rows of a segment on a device.

    Parameters
    ----------
    rows : array of shape (n, d), float32
        What to copy.
    device : str
        torch's name of the device.
    dtype : str
        ``bf16``, ``fp16`` or ``fp32``.

    Attributes
    ----------
    scanned : tensor of shape (n rounded up to whole groups, d)
        The rows as they are scanned.
    longest : float
        Length of the longest row.
    error : float
        Length of the largest difference between a row and what is scanned of it.

    Notes
    -----
    In ``bf16`` no row is stored twice: its float32 values are split into their upper half, rounded to the nearest,
    which is a bfloat16 and is scanned, and the signed rest of 16 bits, with which `take` restores every bit.
    """

    def __init__(self, rows: FloatArray, device: str, dtype: str) -> None:
        torch = load_torch()
        if dtype == "fp16" and len(rows) and abs(rows).max() > _FP16_MAX:
            dtype = "fp32"
        self.count, dimension = rows.shape
        self.device = torch.device(device)
        self.longest, self.error = 0.0, 0.0
        shape = (-(-self.count // GROUP) * GROUP, dimension)
        kinds = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
        self.scanned: Any = torch.zeros(shape, dtype=kinds[dtype], device=self.device)
        self._rest: Any = None
        self._whole: Any = self.scanned if dtype == "fp32" else None
        if dtype == "bf16":
            self._rest = torch.zeros(shape, dtype=torch.int16, device=self.device)
        elif dtype == "fp16":
            self._whole = torch.zeros(shape, dtype=torch.float32, device=self.device)
        for start in range(0, self.count, _CHUNK_ROWS):
            # a copy, since the rows may be mapped read-only
            self._put(start, torch.tensor(rows[start : start + _CHUNK_ROWS]).to(self.device))

    @property
    def precise(self) -> bool:
        """Whether products with the scanned rows are those of float32; on a GPU, TensorFloat-32 may be switched on."""
        return self._whole is self.scanned and self.device.type == "cpu"

    @property
    def bytes_scanned(self) -> int:
        """Bytes that one scan reads."""
        return int(self.scanned.numel() * self.scanned.element_size())

    def take(self, positions: Any) -> Any:
        """Return the rows at `positions` (any shape), shape (..., d), float32, as they were given."""
        torch = load_torch()
        if self._whole is not None:
            return self._whole[positions]
        upper = self.scanned[positions].view(torch.int16).to(torch.int32)
        return ((upper << 16) + self._rest[positions].to(torch.int32)).view(torch.float32)

    def _put(self, start: int, rows: Any) -> None:
        torch = load_torch()
        end = start + len(rows)
        if self._rest is not None:
            bits = rows.view(torch.int32)
            upper = (bits + 0x8000) >> 16  # the nearest; the rest is -0x8000 to 0x7fff
            self.scanned[start:end] = upper.to(torch.int16).view(torch.bfloat16)
            self._rest[start:end] = (bits - (upper << 16)).to(torch.int16)
        else:
            self.scanned[start:end] = rows.to(self.scanned.dtype)
            self._whole[start:end] = rows
        exact = rows.double()
        self.longest = max(self.longest, float(exact.norm(dim=1).max()))
        self.error = max(self.error, float((exact - self.scanned[start:end].double()).norm(dim=1).max()))
