"""What is trained: a projection head over frozen embeddings, or a sentence encoder end to end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmrouter.encoders import ProjectionHead
from llmrouter.encoders._sources import ModelSource
from llmrouter.exceptions import MissingExtraError
from llmrouter.types import IntArray

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


def head_module(head: ProjectionHead) -> Module:
    """Return a module of the head's layers, (n, d) to unit rows (n, D')."""
    import torch

    class Head(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers = [torch.nn.Parameter(torch.tensor(np.asarray(layer, dtype=np.float32))) for layer in head.layers]
            self.layers = torch.nn.ParameterList(layers)

        def forward(self, X: Tensor) -> Tensor:
            for number, layer in enumerate(self.layers):
                X = X @ layer
                X = torch.relu(X) if number < len(self.layers) - 1 else X
            return torch.nn.functional.normalize(X, dim=1)

    return Head()


def trained_head(module: Any) -> ProjectionHead:
    """Return the head that a module of `head_module` has become."""
    return ProjectionHead(tuple(layer.detach().cpu().numpy().astype(np.float64) for layer in module.layers))


def encoder_module(source: ModelSource, models: int, *, spread: float, seed: int) -> Module:
    """Return a sentence encoder with mean pooling and one embedding a model, ``module(ids, mask) -> (n, D)``.

    Raises
    ------
    MissingExtraError
        If torch or transformers is not installed.
    """
    try:
        import torch
        from transformers import AutoModel
    except ImportError as error:
        raise MissingExtraError(error.name or "torch", extra="encoders", purpose="training an encoder") from error

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.transformer = AutoModel.from_pretrained(source.folder, use_safetensors=True)
            shape = (models, int(self.transformer.config.hidden_size))
            first = np.random.default_rng(seed).normal(scale=spread, size=shape)
            self.models = torch.nn.Parameter(torch.tensor(first, dtype=torch.float32))

        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            hidden = self.transformer(input_ids=ids, attention_mask=mask).last_hidden_state
            present = mask.unsqueeze(-1).to(hidden.dtype)
            mean = (hidden * present).sum(dim=1) / present.sum(dim=1).clamp(min=1.0)
            return torch.nn.functional.normalize(mean, dim=1)

    return Encoder()


class Tokens:
    """Texts as padded batches of token ids, the first `longest` tokens of each.

    The gateway's encoders average windows of a long text; training sees the first window alone.
    """

    def __init__(self, source: ModelSource, texts: Sequence[str], *, longest: int) -> None:
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(source.folder, use_fast=True)
        self._tokenizer.backend_tokenizer.no_padding()
        self._ids = self._tokenizer(list(texts), truncation=True, max_length=longest, padding=False)["input_ids"]

    def lengths(self, rows: IntArray) -> IntArray:
        """Return the tokens of some texts, (rows,)."""
        return np.array([len(self._ids[row]) for row in rows.tolist()], dtype=np.int64)

    def batch(self, rows: IntArray, device: str) -> tuple[Tensor, Tensor]:
        """Return ids and mask of some texts, each (rows, longest of them)."""
        padded = self._tokenizer.pad({"input_ids": [self._ids[row] for row in rows.tolist()]}, return_tensors="pt")
        return padded["input_ids"].to(device), padded["attention_mask"].to(device)


def in_parts(module: Any, tokens: Tokens, rows: IntArray, device: str, *, part: int) -> Tensor:
    """Return the vectors of some texts, (rows, D), encoded `part` texts of like length at a time; 0 is all at once."""
    import torch

    if not part or part >= len(rows):
        return module(*tokens.batch(rows, device))  # type: ignore[no-any-return]
    order = np.argsort(tokens.lengths(rows), kind="stable")
    parts = [module(*tokens.batch(rows[order[at : at + part]], device)) for at in range(0, len(rows), part)]
    back = torch.as_tensor(np.argsort(order), device=device)
    return torch.cat(parts)[back]


def save_encoder(module: Any, source: ModelSource, folder: Path) -> None:
    """Write the fine-tuned transformer into `folder` as Hugging Face would, with the source's tokenizer and pooling."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.folder.rglob("*")):
        known = path.suffix in (".json", ".txt", ".model") and path.name != "model.safetensors.index.json"
        if path.is_file() and known:
            copy = folder / path.relative_to(source.folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    module.transformer.cpu().save_pretrained(folder)
    (folder / "llmrouter_training.json").write_text(
        json.dumps({"source": source.name, "source_sha256": source.weights_sha256}) + "\n", encoding="utf-8"
    )
