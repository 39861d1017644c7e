"""Distil a static token table from a sentence encoder.

``python -m training.distill --source minilm --dimension 256 --out llmrouter/assets/static``

Every token of the vocabulary is encoded once by the sentence encoder, the vectors are reduced by PCA and weighted
by an estimate of their frequency (Zipf's law, then smooth inverse frequency), all by model2vec. The weights are
multiplied into the table, so that serving only gathers and adds. Offline, about half a minute on one core, and the same
bytes each time on one machine.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from llmrouter._files import json_bytes, write_atomically
from llmrouter.encoders._sources import ModelSource, resolve_source
from llmrouter.exceptions import ConfigError, EncoderError, MissingExtraError
from llmrouter.types import FloatArray

SETTINGS: Mapping[str, Any] = {
    "pooling": "mean",
    "sif_coefficient": 1e-4,
    "token_remove_pattern": r"\[unused\d+\]",
}


def distill(source: ModelSource, dimension: int = 256) -> Any:
    """Return model2vec's `StaticModel` of `source`, in single precision.

    Raises
    ------
    MissingExtraError
        If torch, transformers or model2vec is not installed.
    ConfigError
        If `dimension` is not between 1 and the encoder's own.
    """
    try:
        import torch
        from model2vec.distill import distill_from_model
        from threadpoolctl import threadpool_limits
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise MissingExtraError(error.name or "model2vec", extra="encoders", purpose="distilling a table") from error

    model = AutoModel.from_pretrained(source.folder, use_safetensors=True)
    if not 1 <= dimension <= model.config.hidden_size:
        raise ConfigError(f"dimension must be 1 to {model.config.hidden_size} for {source.name}, not {dimension}")
    tokenizer = AutoTokenizer.from_pretrained(source.folder, use_fast=True)
    # MiniLM's tokenizer file pads every text to 128 tokens; model2vec would copy that and average the padding too.
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    # The order of floating-point sums depends on the number of threads; one gives the same bytes on any core count.
    torch.set_num_threads(1)
    with threadpool_limits(limits=1):
        return distill_from_model(model, tokenizer, pca_dims=dimension, device="cpu", quantize_to="float32", **SETTINGS)


def write_table(model: Any, source: ModelSource, folder: Path) -> dict[str, Any]:
    """Write table, tokenizer and config of a distilled model into `folder`; return the config."""
    weighted = np.asarray(model.embedding, dtype=np.float64) * np.asarray(model.weights)[:, None]
    return write_static(
        weighted,
        model.tokenizer,
        folder,
        name=f"{source.name.rpartition('/')[2]}-{weighted.shape[1]}",
        about={
            "source": source.name,
            "source_sha256": source.weights_sha256,
            "model2vec_version": version("model2vec"),
            "settings": {"pca_dims": weighted.shape[1], **SETTINGS},
        },
    )


def write_static(
    weighted: FloatArray, tokenizer: Any, folder: Path, *, name: str, about: Mapping[str, Any]
) -> dict[str, Any]:
    """Write what `llmrouter.encoders.StaticEncoder` reads into `folder`; return the config.

    The config is written last: a folder that was broken off is refused by its hashes.

    Parameters
    ----------
    weighted : array of shape (v, d)
        One vector a token, its weight multiplied in.
    tokenizer : tokenizers.Tokenizer
        Of v tokens; its padding and truncation are switched off.
    folder : Path
        Made where it is missing.
    name : str
        Part of the encoder's fingerprint.
    about : mapping
        Where the table comes from; JSON values.

    Raises
    ------
    EncoderError
        If the tokenizer is not the table's.
    """
    if tokenizer.get_vocab_size() != len(weighted):
        raise EncoderError(
            f"the tokenizer has {tokenizer.get_vocab_size()} tokens, the table {len(weighted)} rows; a table goes with "
            "the tokenizer of the encoder it was distilled from"
        )
    tokenizer.no_padding()
    tokenizer.no_truncation()
    contents = {
        # PCA gives columns in one piece, and safetensors writes memory as it lies: without the copy into rows the table
        # would be scrambled.
        "table.safetensors": save({"table": np.ascontiguousarray(weighted, dtype=np.float16)}),
        "tokenizer.json": tokenizer.to_str(pretty=False).encode(),
    }
    origin = dict(about)
    config: dict[str, Any] = {
        "kind": "static",
        "layout": 1,
        "name": name,
        "dimension": weighted.shape[1],
        "vocabulary": len(weighted),
        **{key: origin.pop(key) for key in ("source", "source_sha256") if key in origin},
        "files": {file: hashlib.sha256(content).hexdigest() for file, content in contents.items()},
        **origin,
    }
    for file, content in contents.items():
        write_atomically(folder / file, content)
    write_atomically(folder / "config.json", json_bytes(config))
    return config


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="minilm", help="minilm | a local folder | a hub id (default: minilm)")
    parser.add_argument("--dimension", type=int, default=256, help="length of the vectors (default: 256)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    source = resolve_source(chosen.source)
    config = write_table(distill(source, chosen.dimension), source, chosen.out)
    logging.getLogger(__name__).info("%s: %d tokens x %d", chosen.out, config["vocabulary"], config["dimension"])


if __name__ == "__main__":
    main()
