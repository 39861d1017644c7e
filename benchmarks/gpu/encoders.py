"""Prompts a second through a sentence encoder of the size of all-MiniLM-L6-v2, with random weights."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertModel

from benchmarks.gpu.device import Device
from llmrouter.encoders._batches import encode_windows
from llmrouter.types import FloatArray

HELP = "a MiniLM-shaped encoder at batches of 1 to 1,024 prompts"
_LENGTHS = (16, 32, 64, 128, 256)
_BATCHES = (1, 4, 16, 64, 256)
_MEDIAN_TOKENS, _SPREAD = 60.0, 0.9
_VOCABULARY = 30_522
_COMPARED = 32
# Least cosine of the vectors of two ways of computing them that still counts as the same.
_SAME = 0.999

Batches = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Captured = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.cuda.CUDAGraph]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this part is asked."""
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64, 256, 1024])
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--dtype", default="bf16", choices=["bf16", "fp16", "fp32"])


def measure(device: Device, options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of every way of running the encoder at every batch."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[options.dtype]
    exact = made_model(device, options, torch.float32)
    model = made_model(device, options, dtype)
    flops = 2 * sum(p.numel() for name, p in model.named_parameters() if ".layer." in name)
    prompts = made_prompts(max(*options.batches, _COMPARED), seed=options.seed)
    reference = Encoder(device, exact, pooled(exact), options.hidden).encode(prompts[:_COMPARED])
    rate = device.products_per_s(dtype)
    ways: dict[str, Batches] = {"eager": pooled(model)}
    skipped = []
    if device.is_gpu:
        ways["graphs"] = Graphs(device, pooled(model))
    else:
        skipped.append("CUDA graphs: the device is a CPU")
    rows, agreement = [], {}
    for name, run in ways.items():
        encoder = Encoder(device, model, run, options.hidden)
        try:
            found = encoder.encode(prompts[:_COMPARED])
        except RuntimeError as error:
            skipped.append(f"{name}: {error}")
            continue
        agreement[name] = float(np.vecdot(found, reference).min())
        for batch in options.batches:
            if not device.time_left():
                skipped.append(f"{name}, batch {batch}: no time was left")
                continue
            rows.append({"way": name, "batch": batch, **_timed(device, encoder, prompts[:batch], flops, rate)})
            print(f"{name}, batch {batch}: {rows[-1]['prompts_per_s']:,.0f} prompts/s", flush=True)
    return {
        "settings": {name: getattr(options, name) for name in ("layers", "hidden", "dtype", "seed")},
        "products_per_s": rate,
        "tokens": {"mean": float(np.mean([len(p) for p in prompts])), "longest": max(len(p) for p in prompts)},
        "least_cosine_with_fp32": agreement,
        "encoders": rows,
        "skipped": skipped,
        "wrong": sum(cosine < _SAME for cosine in agreement.values()),
    }


def made_model(device: Device, options: argparse.Namespace, dtype: torch.dtype) -> Any:
    """Return a BERT of the given size with random weights, the same for the same seed."""
    heads = max(1, options.hidden // 32)
    config = BertConfig(
        vocab_size=_VOCABULARY,
        hidden_size=options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=heads,
        intermediate_size=4 * options.hidden,
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        model = BertModel(config, add_pooling_layer=False)
    return model.eval().to(device.device, dtype)


def made_prompts(count: int, *, seed: int) -> list[list[int]]:
    """Return token numbers of `count` prompts; lengths are lognormal, of a median of 60, within 3 and 256."""
    generator = np.random.default_rng(seed)
    lengths = np.exp(np.log(_MEDIAN_TOKENS) + _SPREAD * generator.standard_normal(count))
    lengths = np.clip(lengths.round().astype(int), 3, _LENGTHS[-1])
    return [generator.integers(1000, _VOCABULARY, length).tolist() for length in lengths]


class Encoder:
    """Encodes prompts by the batches of `llmrouter.encoders`: sorted by length, padded to one of a few shapes."""

    def __init__(self, device: Device, model: Any, run: Batches, dimension: int) -> None:
        self._device, self._run, self._dimension = device, run, dimension
        self.padding = model.config.pad_token_id or 0

    def encode(self, prompts: Sequence[list[int]]) -> FloatArray:
        """Return unit vectors (n, d), float32."""
        windows = [[prompt] for prompt in prompts]
        return encode_windows(windows, self._embed, dimension=self._dimension, batch_size=_BATCHES[-1])

    def _embed(self, windows: list[list[int]]) -> FloatArray:
        rows = next(size for size in _BATCHES if size >= len(windows))
        width = next(size for size in _LENGTHS if size >= max(map(len, windows)))
        tokens = np.full((rows, width), self.padding, dtype=np.int64)
        present = np.zeros((rows, width), dtype=np.bool_)
        present[:, 0] = True  # rows that fill up a batch attend to something
        for number, window in enumerate(windows):
            tokens[number, : len(window)] = window
            present[number, : len(window)] = True
        device = self._device.device
        with torch.inference_mode():
            vectors = self._run(torch.from_numpy(tokens).to(device), torch.from_numpy(present).to(device))
            found: FloatArray = vectors[: len(windows)].float().cpu().numpy()
        return found


def pooled(model: Any) -> Batches:
    """Return the function from tokens and what is present of them, (b, t), to the mean of their vectors, (b, d)."""

    def run(tokens: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        # a mask of four dimensions is taken as it is: nothing looks at its values, which a captured graph could not
        mask = present[:, None, None, :].expand(-1, 1, tokens.shape[1], -1)
        states = model(input_ids=tokens, attention_mask=mask).last_hidden_state
        weights = present.unsqueeze(2).to(states.dtype)
        mean: torch.Tensor = (states * weights).sum(dim=1) / weights.sum(dim=1)
        return mean

    return run


class Graphs:
    """Runs batches as CUDA graphs, one for each shape, captured when the shape first comes."""

    def __init__(self, device: Device, run: Batches) -> None:
        self._device, self._run = device, run
        self._captured: dict[
            tuple[int, ...], tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.cuda.CUDAGraph]
        ] = {}

    def __call__(self, tokens: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Return what the captured function gives; valid until the next call."""
        shape = tuple(tokens.shape)
        if shape not in self._captured:
            self._captured[shape] = self._capture(tokens.clone(), present.clone())
        own_tokens, own_present, vectors, graph = self._captured[shape]
        own_tokens.copy_(tokens)
        own_present.copy_(present)
        graph.replay()
        return vectors

    def _capture(self, tokens: torch.Tensor, present: torch.Tensor) -> Captured:
        # torch leaves its streams without types
        aside = torch.cuda.Stream(self._device.device)
        aside.wait_stream(torch.cuda.current_stream(self._device.device))
        with torch.cuda.stream(aside):
            for _ in range(3):
                self._run(tokens, present)
        torch.cuda.current_stream(self._device.device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            vectors = self._run(tokens, present)
        return tokens, present, vectors, graph


def _timed(device: Device, encoder: Encoder, prompts: list[list[int]], flops: int, rate: float) -> dict[str, Any]:
    timed: dict[str, Any] = device.seconds(lambda: encoder.encode(prompts), longest_s=2.0)
    tokens = sum(map(len, prompts))
    timed |= {
        "prompts_per_s": len(prompts) / timed["median_s"],
        "tokens_per_s": tokens / timed["median_s"],
        "product_floor_s": flops * tokens / rate,
    }
    timed["times_the_floor"] = timed["median_s"] / timed["product_floor_s"]
    return timed


def page(document: Mapping[str, Any]) -> str:
    """Return the results as Markdown."""
    settings, tokens = document["settings"], document["tokens"]
    method = (
        f"A BERT of {settings['layers']} layers and {settings['hidden']} dimensions with random weights in "
        f"{settings['dtype']}, the shape of all-MiniLM-L6-v2 where these are 6 and 384. Prompts are random tokens, "
        f"{tokens['mean']:.0f} on average and {tokens['longest']} at most; they are sorted by length, padded to one of "
        f"{', '.join(map(str, _LENGTHS))} tokens and batches to one of {', '.join(map(str, _BATCHES))} rows. Times run "
        "from token numbers to unit vectors in host memory, by the host's clock; splitting texts into tokens is not in "
        "them. The product floor is that of the layers' matrices for the tokens without padding, at the rate of a "
        f"large square product ({document['products_per_s'] / 1e12:,.1f} TFLOP/s)."
    )
    heads = "| way | batch | median, ms | p90, ms | prompts/s | tokens/s | product floor, ms | times the floor |"
    lines = ["# A sentence encoder", "", method, "", heads, "|---" * 8 + "|"]
    lines += [
        f"| {row['way']} | {row['batch']} | {1e3 * row['median_s']:.3f} | {1e3 * row['p90_s']:.3f} "
        f"| {row['prompts_per_s']:,.0f} | {row['tokens_per_s']:,.0f} | {1e3 * row['product_floor_s']:.4f} "
        f"| {row['times_the_floor']:.1f} |"
        for row in document["encoders"]
    ]
    cosines = ", ".join(f"{name} {value:.5f}" for name, value in document["least_cosine_with_fp32"].items())
    lines += ["", f"Least cosine with the vectors of float32, of {_COMPARED} prompts: {cosines or 'none measured'}."]
    if document["skipped"]:
        lines += ["", "Not measured:", "", *(f"- {line}" for line in document["skipped"])]
    return "\n".join(lines)
