"""Export a sentence encoder to ONNX, with mean pooling and unit length in the graph; int8 if wanted.

``python -m training.export_onnx --source minilm --out DIR [--int8]``

Writes ``model.onnx``, ``tokenizer.json`` and ``config.json`` for `llmrouter.encoders.OnnxEncoder`, then compares it
with the original on texts of many kinds and lengths. An fp32 export that differs is an error; what int8 costs is
measured and recorded.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmrouter._files import json_bytes, read_json_object, sha256_of, write_atomically
from llmrouter.encoders import Encoder, OnnxEncoder, SentenceTransformersEncoder
from llmrouter.encoders._sources import ModelSource, resolve_source
from llmrouter.exceptions import EncoderError, MissingExtraError

logger = logging.getLogger(__name__)

MIN_COSINE_FP32 = 0.9999

_FILES = ("model.onnx", "tokenizer.json")

_SENTENCES = (
    "What is the capital of France?",
    "Write a Python function that returns the n-th Fibonacci number.",
    "Janet has 3 apples and buys 12 more; how many are left after she gives away 7?",
    "Übersetze ins Englische: Der Hund schläft unter dem Tisch.",
    "SELECT name, COUNT(*) FROM orders GROUP BY name HAVING COUNT(*) > 5;",
    "Explain the difference between TCP and UDP to a ten-year-old.",
    "为什么天空是蓝色的",
    "The trophy does not fit into the suitcase because it is too big. What is too big?",
)


def check_texts() -> list[str]:
    """Return texts from one word to several windows."""
    paragraphs = [" ".join(_SENTENCES[:count]) for count in range(2, len(_SENTENCES) + 1)]
    return ["hello", *_SENTENCES, *paragraphs, " ".join(_SENTENCES * 6)]


def export(source: ModelSource, folder: Path, *, int8: bool = False) -> dict[str, Any]:
    """Export `source` into `folder`, check it against the original, and return the config.

    Raises
    ------
    MissingExtraError
        If torch, transformers, onnx or onnxruntime is not installed.
    EncoderError
        If the model does not pool by the mean, or the fp32 export does not give the original's vectors.
    """
    _check_pooling(source)
    original = SentenceTransformersEncoder(source.folder, device="cpu")
    longest = original.max_tokens
    with tempfile.TemporaryDirectory() as temporary:
        draft = Path(temporary)
        tokenizer, dimension = _export_graph(source, draft / "model.onnx", longest)
        if int8:
            _quantize(draft / "model.onnx")
        (draft / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
        config: dict[str, Any] = {
            "kind": "onnx",
            "layout": 1,
            "name": source.name.rpartition("/")[2],
            "dimension": dimension,
            "max_tokens": longest,
            "precision": "int8" if int8 else "fp32",
            "source": source.name,
            "source_sha256": source.weights_sha256,
            "files": {name: sha256_of(draft / name) for name in _FILES},
        }
        (draft / "config.json").write_bytes(json_bytes(config))
        cosines = compare(original, OnnxEncoder(draft))
        if not int8 and min(cosines) < MIN_COSINE_FP32:
            raise EncoderError(
                f"the export of {source.name} differs from the original: smallest cosine {min(cosines):.6f}"
            )
        for name in _FILES:
            write_atomically(folder / name, (draft / name).read_bytes())
    config["cosine_with_source"] = {"mean": float(np.mean(cosines)), "min": float(np.min(cosines))}
    write_atomically(folder / "config.json", json_bytes(config))
    return config


def compare(original: Encoder, exported: Encoder) -> list[float]:
    """Return the cosines between the vectors of two encoders for `check_texts`."""
    texts = check_texts()
    return [float(value) for value in (original.encode(texts) * exported.encode(texts)).sum(axis=1)]


def _check_pooling(source: ModelSource) -> None:
    path = source.folder / "1_Pooling" / "config.json"
    if not path.exists():
        return  # a plain transformer: sentence-transformers pools it by the mean as well
    pooling = read_json_object(path)
    chosen = [name for name, value in pooling.items() if name.startswith("pooling_mode") and value]
    if chosen not in (["pooling_mode_mean_tokens"], ["pooling_mode"]) or pooling.get("pooling_mode", "mean") != "mean":
        raise EncoderError(f"{path}: only mean pooling is exported, this model has {chosen}")


def _export_graph(source: ModelSource, path: Path, longest: int) -> tuple[str, int]:
    try:
        import torch
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise MissingExtraError(error.name or "torch", extra="encoders", purpose="exporting to ONNX") from error

    class Pooled(torch.nn.Module):
        """Transformer, masked mean, unit length."""

        def __init__(self, transformer: torch.nn.Module) -> None:
            super().__init__()
            self.transformer = transformer

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            hidden = self.transformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
            mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)
            return torch.nn.functional.normalize(mean, dim=1)

    transformer = AutoModel.from_pretrained(source.folder, use_safetensors=True, attn_implementation="eager")
    # Two tensors, not one twice: torch.export would take the inputs for aliases and wire one to both places.
    examples = tuple(torch.ones((2, 8), dtype=torch.int64) for _ in range(2))
    shapes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=longest)}
    torch.onnx.export(
        Pooled(transformer).eval(),
        examples,
        path,
        input_names=["input_ids", "attention_mask"],
        output_names=["sentence_embedding"],
        dynamic_shapes=(shapes, shapes),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    tokenizer = AutoTokenizer.from_pretrained(source.folder, use_fast=True).backend_tokenizer
    return tokenizer.to_str(pretty=False), int(transformer.config.hidden_size)


def _quantize(path: Path) -> None:
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise MissingExtraError("onnxruntime", extra="encoders", purpose="quantising to int8") from error
    quantized = path.with_name("int8.onnx")
    quantize_dynamic(path, quantized, weight_type=QuantType.QInt8, per_channel=True)
    quantized.replace(path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="minilm", help="minilm | a local folder | a hub id (default: minilm)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--int8", action="store_true", help="quantise weights (and, while running, activations)")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = export(resolve_source(chosen.source), chosen.out, int8=chosen.int8)
    logger.info(
        "%s: %s, cosine with the original: mean %.6f, smallest %.6f",
        chosen.out,
        config["precision"],
        config["cosine_with_source"]["mean"],
        config["cosine_with_source"]["min"],
    )


if __name__ == "__main__":
    main()
