"""What each expert does on the prompts that a model is for, the model's own answers to them included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from llmrouter.moe._batch import RunningBatch
from llmrouter.moe.experts import Routed, grouped_experts, module_weights, routing_hooks

ANSWER_TOKENS = 48
_ROWS = 32


@dataclass(frozen=True, slots=True)
class Calibration:
    """Measured on the calibration prompts.

    Attributes
    ----------
    activation : dict of str to torch.Tensor
        Name of each layer -> (E,) router-weighted activation: the mean over all tokens of router weight times length
        of the expert's output, 0 where the expert was not chosen.
    tokens : int
        Tokens seen.
    sequences : list of list of int
        Prompts with the model's greedy answers.
    """

    activation: dict[str, torch.Tensor]
    tokens: int
    sequences: list[list[int]]


class _ActivationRecorder:
    """A routing hook that adds up each expert's weighted output lengths and changes nothing."""

    def __init__(self) -> None:
        self.sums: dict[int, torch.Tensor] = {}
        self.tokens: dict[int, int] = {}

    def __call__(self, module: Any, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> Routed:
        experts = module_weights(module)
        total = self.sums.setdefault(id(module), torch.zeros(experts.count, dtype=torch.float64, device=hidden.device))
        self.tokens[id(module)] = self.tokens.get(id(module), 0) + len(hidden)
        one = torch.ones(len(hidden), 1, dtype=weights.dtype, device=hidden.device)
        for slot in range(index.shape[1]):
            output = grouped_experts(hidden, index[:, slot : slot + 1], one, experts)
            lengths = output.double().norm(dim=-1) * weights[:, slot].double().abs()
            known = (index[:, slot] >= 0) & (index[:, slot] < experts.count)
            total.index_add_(0, index[known, slot], lengths[known])
        return index, weights


def calibrate(
    model: Any, prompts: Sequence[Sequence[int]], *, end_tokens: frozenset[int], answer_tokens: int = ANSWER_TOKENS
) -> Calibration:
    """Run the model on `prompts` and its greedy answers, and return what its experts did.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        With an ``llmrouter`` experts implementation.
    prompts : sequence of sequence of int
        Token ids, none empty.
    end_tokens : frozenset of int
        Ids that end an answer.
    answer_tokens : int
        Tokens of an answer at most.
    """
    from llmrouter.moe.compression._layers import moe_layers

    recorder = _ActivationRecorder()
    sequences = []
    with routing_hooks(recorder):
        for start in range(0, len(prompts), _ROWS):
            sequences += _answered(model, prompts[start : start + _ROWS], end_tokens, answer_tokens)
    layers = moe_layers(model)
    activation = {layer.name: recorder.sums[id(layer.experts)] for layer in layers}
    tokens = recorder.tokens[id(layers[0].experts)]
    # Cloned, as tensors of inference mode take no part in training gates.
    return Calibration({name: sums.clone().cpu() / tokens for name, sums in activation.items()}, tokens, sequences)


def _answered(
    model: Any, prompts: Sequence[Sequence[int]], end_tokens: frozenset[int], answer_tokens: int
) -> list[list[int]]:
    batch = RunningBatch(model)
    sequences = [list(prompt) for prompt in prompts]
    running = list(sequences)
    # One prompt at a time, as padding would be counted like tokens; answers all together.
    tokens = [int(batch.prefill([prompt])[0].argmax()) for prompt in prompts]
    for generated in range(1, answer_tokens + 1):
        for row in reversed(range(len(running))):
            running[row].append(tokens[row])
            if tokens[row] in end_tokens or generated == answer_tokens:
                batch.remove(row)  # the last row takes its place, here as there
                running[row], tokens[row] = running[-1], tokens[-1]
                running.pop()
                tokens.pop()
        if not running:
            break
        tokens = batch.decode(tokens).argmax(dim=-1).tolist()
    return sequences
