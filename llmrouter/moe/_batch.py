"""The running batch: one row of keys and values per sequence, joined and left at any step.

Rows are slots of preallocated tensors. A sequence's token i sits at column i of its slot, so there is no padding
between sequences of different length: a mask hides the columns that a row has not reached. Joining writes into the
next free slot; leaving moves the last row into the hole. Nothing is ever dropped or capped, and what a row attends to
does not depend on its neighbours.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache

from llmrouter.moe.experts import BatchInvariant

COLUMN_BLOCK = 128  # columns are added in blocks: growing copies the tensors
PREFILL_TOKENS = 4096  # padded tokens of one prefill forward; bounds its memory, longer prompts go in chunks
MIN_CHUNK = 64


@dataclass(frozen=True, slots=True)
class _Window:
    """Where one forward pass writes and reads: slots [start, start + count), columns [0, width)."""

    start: int
    count: int
    width: int
    slots: torch.Tensor  # (n,) slot of each real token
    columns: torch.Tensor  # (n,) its column
    sources: tuple[torch.Tensor, torch.Tensor]  # (row, place) of each real token in the forward's input


class SlotCache(Cache):  # type: ignore[misc] # the base class has no types
    """Keys and values of the running rows, in the shape that Hugging Face attention layers ask for."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self._stores: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._slots = 0
        self._columns = 0
        self.window: _Window | None = None

    def reserve(self, slots: int, columns: int) -> None:
        """Make room for `slots` rows of `columns` tokens, keeping what is stored."""
        if slots <= self._slots and columns <= self._columns:
            return
        if slots > self._slots:
            self._slots = 1 << (slots - 1).bit_length()
        if columns > self._columns:
            self._columns = -(-columns // COLUMN_BLOCK) * COLUMN_BLOCK
        self._stores = {
            layer: (self._grown(keys), self._grown(values)) for layer, (keys, values) in self._stores.items()
        }

    def _grown(self, store: torch.Tensor) -> torch.Tensor:
        slots, heads, columns, size = store.shape
        grown = store.new_zeros(self._slots, heads, self._columns, size)
        grown[:slots, :, :columns] = store
        return grown

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store new keys and values of a layer and return those of the window's rows and columns."""
        window = self.window
        if window is None:
            raise RuntimeError("the cache is written only inside a forward pass of its batch")
        if layer_idx not in self._stores:
            self._stores[layer_idx] = (self._empty(key_states), self._empty(value_states))
        keys, values = self._stores[layer_idx]
        return self._write(keys, key_states, window), self._write(values, value_states, window)

    def _empty(self, states: torch.Tensor) -> torch.Tensor:
        return states.new_zeros(self._slots, states.shape[1], self._columns, states.shape[3])

    @staticmethod
    def _write(store: torch.Tensor, states: torch.Tensor, window: _Window) -> torch.Tensor:
        store[window.slots, :, window.columns] = states.transpose(1, 2)[window.sources]
        return store[window.start : window.start + window.count, :, : window.width]

    def move(self, source: int, target: int) -> None:
        """Copy a row's stored tokens over another row."""
        for keys, values in self._stores.values():
            keys[target] = keys[source]
            values[target] = values[source]

    def clear(self) -> None:
        """Free the stored tensors."""
        self._stores, self._slots, self._columns, self.window = {}, 0, 0, None

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002 -- Hugging Face's signature
        """Return 0: positions are always given explicitly, there is no common length."""
        return 0


class RunningBatch:
    """The sequences that a causal language model is working on.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A causal language model with full or sliding-window attention.
    deterministic : bool
        Compute every row's logits with the same bits whatever rows run beside it.
    """

    def __init__(self, model: Any, *, deterministic: bool = False) -> None:
        self._model = model
        self._context = BatchInvariant if deterministic else contextlib.nullcontext
        self._device = model.device
        self._masks = _MaskBuilder(model)
        self._cache = SlotCache()
        self._lengths: list[int] = []

    def __len__(self) -> int:
        return len(self._lengths)

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Append rows for `prompts`, longest first, and return the logits after each, shape (len(prompts), V).

        Raises
        ------
        ValueError
            If the prompts are not sorted by falling length: rows that begin later than a chunk must come last.
        """
        lengths = [len(prompt) for prompt in prompts]
        if lengths != sorted(lengths, reverse=True) or not lengths or lengths[-1] < 1:
            raise ValueError("prompts must be non-empty and sorted by falling length")
        start, longest = len(self._lengths), lengths[0]
        self._cache.reserve(start + len(prompts), max(longest, *self._lengths, 0))
        # Left-padded, so that all rows end in the last column and one column of logits is enough.
        tokens = torch.zeros(len(prompts), longest, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            tokens[row, longest - len(prompt) :] = torch.tensor(prompt)
        positions = torch.arange(longest) - (longest - torch.tensor(lengths))[:, None]
        chunk = max(PREFILL_TOKENS // len(prompts), MIN_CHUNK)
        logits = torch.empty(0)
        for begin in range(0, longest, chunk):
            columns = slice(begin, begin + chunk)
            rows = sum(longest - length < columns.stop for length in lengths)
            logits = self._forward(tokens[:rows, columns], positions[:rows, columns], start=start)
        self._lengths += lengths
        return logits

    @torch.inference_mode()
    def decode(self, tokens: Sequence[int]) -> torch.Tensor:
        """Append one token to every row and return the next logits, shape (rows, V)."""
        self._cache.reserve(len(self._lengths), max(self._lengths) + 1)
        positions = torch.tensor(self._lengths)[:, None]
        logits = self._forward(torch.tensor(tokens)[:, None], positions, start=0)
        self._lengths = [length + 1 for length in self._lengths]
        return logits

    @torch.inference_mode()
    def remove(self, row: int) -> None:
        """Take a row out; the last row takes its place (callers mirror that)."""
        last = len(self._lengths) - 1
        if row != last:
            self._cache.move(last, row)
            self._lengths[row] = self._lengths[last]
        self._lengths.pop()
        if not self._lengths:
            self._cache.clear()

    def clear(self) -> None:
        """Take all rows out."""
        self._lengths = []
        self._cache.clear()

    def _forward(self, tokens: torch.Tensor, positions: torch.Tensor, *, start: int) -> torch.Tensor:
        """Run (rows, q) tokens in slots from `start`; a negative position is padding. Return (rows, V) last logits."""
        sources = (positions >= 0).nonzero(as_tuple=True)
        width = int(positions.max()) + 1
        position_ids = positions.clamp(min=0).to(self._device)
        self._cache.window = _Window(
            start=start,
            count=len(tokens),
            width=width,
            slots=(sources[0] + start).to(self._device),
            columns=positions[sources].to(self._device),
            sources=(sources[0].to(self._device), sources[1].to(self._device)),
        )
        with self._context():
            output = self._model(
                input_ids=tokens.to(self._device),
                attention_mask=self._masks(position_ids, width),
                position_ids=position_ids,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            )
        self._cache.window = None
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits


class _MaskBuilder:
    """Attention masks of shape (rows, 1, q, width) in the form that the model's attention takes.

    Padding queries have position 0 and so see column 0: a row without any visible column would give NaN.
    """

    def __init__(self, model: Any) -> None:
        config = model.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or ())
        self._boolean = getattr(model.config, "_attn_implementation", None) == "sdpa"
        self._dtype = model.dtype
        self._sliding: int | None = getattr(config, "sliding_window", None)
        self._per_kind = "sliding_attention" in kinds
        # Without layer types, a sliding_window in the configuration counts only for classes that build such a mask.
        modeling = sys.modules[type(model).__module__]
        self._always_sliding = not kinds and hasattr(modeling, "create_sliding_window_causal_mask")

    def __call__(self, positions: torch.Tensor, width: int) -> torch.Tensor | dict[str, torch.Tensor]:
        columns = torch.arange(width, device=positions.device)[None, None, None, :]
        reached = positions[:, None, :, None]
        full = columns <= reached
        if not (self._per_kind or self._always_sliding) or self._sliding is None:
            return self._encoded(full)
        recent = full & (columns > reached - self._sliding)
        if self._always_sliding:
            return self._encoded(recent)
        return {"full_attention": self._encoded(full), "sliding_attention": self._encoded(recent)}

    def _encoded(self, visible: torch.Tensor) -> torch.Tensor:
        if self._boolean:
            return visible
        lowest = torch.finfo(self._dtype).min
        return torch.zeros_like(visible, dtype=self._dtype).masked_fill(~visible, lowest)
