"""Training batches: endless, seeded, sorted by length so that little is padding."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import TYPE_CHECKING

from training.pocket.specifications import Specification
from training.pocket.tasks import generate
from training.pocket.tokenizer import ASSISTANT, END, PAD, USER, byte_ids
from training.pocket.types import Example

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

BATCHES_SORTED_TOGETHER = 16
NOISE = 0.4
IGNORED = -100


def level_weights(progress: float, final: tuple[float, float, float]) -> tuple[float, float, float]:
    """Return the mix of levels at a point of training: easy ones first, the final mix from 40% on."""
    ramp = min(1.0, 0.2 + progress / 0.5)
    return final[0], final[1] * ramp, final[2] * ramp**2


def tokenize(examples: list[Example], tokenizer: PreTrainedTokenizerFast) -> list[tuple[list[int], list[int]]]:
    """Return (prompt ids, answer ids) of each example, in the shape of the chat template."""
    user, assistant, end = tokenizer.convert_tokens_to_ids([USER, ASSISTANT, END])
    prompts = tokenizer([example.prompt for example in examples], add_special_tokens=False)["input_ids"]
    return [
        ([user, *prompt, assistant], [*byte_ids(example.answer, tokenizer), end])
        for prompt, example in zip(prompts, examples, strict=True)
    ]


def collate(pairs: list[tuple[list[int], list[int]]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (inputs, labels); only answers have labels. Padding is on the right: causal attention never sees it."""
    import torch

    length = max(len(prompt) + len(answer) for prompt, answer in pairs)
    inputs = torch.full((len(pairs), length - 1), pad)
    labels = torch.full((len(pairs), length - 1), IGNORED)
    for row, (prompt, answer) in enumerate(pairs):
        ids = torch.tensor(prompt + answer)
        inputs[row, : len(ids) - 1] = ids[:-1]
        labels[row, len(prompt) - 1 : len(ids) - 1] = ids[len(prompt) :]
    return inputs, labels


def batches(
    specification: Specification, tokenizer: PreTrainedTokenizerFast, *, steps: int, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield ``steps`` batches; the same ones for the same arguments."""
    random = Random(f"{specification.name} {seed}")
    pad = tokenizer.convert_tokens_to_ids(PAD)
    size, done = specification.batch_size, 0
    while done < steps:
        levels = level_weights(done / steps, specification.final_levels)
        stream = generate(random, "train", weights=specification.weights, level_weights=levels, noise=NOISE)
        examples = [next(stream) for _ in range(size * BATCHES_SORTED_TOGETHER)]
        pairs = sorted(tokenize(examples, tokenizer), key=lambda pair: len(pair[0]) + len(pair[1]))
        groups = [pairs[start : start + size] for start in range(0, len(pairs), size)]
        random.shuffle(groups)
        for group in groups[: steps - done]:
            yield collate(group, pad)
            done += 1
