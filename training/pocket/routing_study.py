"""Routers compared in short trainings: ``python -m training.pocket routing --json FILE``.

One small model, easy tasks, the same batches and steps for every router. Far too short for a verdict on the methods: it
shows that they train here, what they compute, and how even their loads are.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from training.pocket.batches import batches
from training.pocket.routing import Kind, max_violation
from training.pocket.specifications import EASY_TASKS, Specification, diet
from training.pocket.tokenizer import END, PAD, build_tokenizer

HELD_OUT_BATCHES = 20

STUDY = Specification(
    name="routing-study",
    description="Eight small experts, two a token, for comparing routers.",
    model_type="qwen3_moe",
    shape={
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32,
        "moe_intermediate_size": 32, "intermediate_size": 32, "num_experts": 8, "num_experts_per_tok": 2,
        "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [],
    },
    weights=diet(EASY_TASKS),
    steps=800,
    batch_size=64,
)  # fmt: skip


def study(
    kind: Kind, *, steps: int | None = None, seed: int = STUDY.seed, each: int = 8, out: Path | None = None
) -> dict[str, Any]:
    """Train one model and measure it.

    Parameters
    ----------
    kind
        The router.
    steps, seed
        Instead of the study's.
    each
        Held-out prompts for each task and level.
    out
        Where to write the model, as the checkpoint folder ``routing-KIND``, which the engine serves.

    Returns
    -------
    Quality on held-out prompts, mean loss of the last hundred steps, true experts a token and MaxVio on held-out
    batches, and seconds of the CPU.
    """
    from training.pocket.train import save, train

    begun = time.process_time()
    model, losses = train(replace(STUDY, seed=seed), steps=steps, progress=False, routing=kind)
    seconds = time.process_time() - begun
    active, violation = _loads(model, seed=seed + 1000)
    row = {
        "router": kind,
        "steps": len(losses),
        "seed": seed,
        "quality": _quality(model, each=each),
        "loss": sum(losses[-100:]) / len(losses[-100:]),
        "experts_a_token": active,
        "max_violation": violation,
        "cpu_s": round(seconds, 1),
    }
    if out is not None:
        name = f"routing-{kind}"
        save(model, replace(STUDY, name=name, seed=seed), out / name, facts=row)
    return row


def _loads(model: Any, *, seed: int) -> tuple[float, float]:
    """Return true experts a token, and MaxVio over all held-out batches, both averaged over layers."""
    import torch

    tokenizer = build_tokenizer()
    pad = tokenizer.convert_tokens_to_ids(PAD)
    routers = [module.gate for module in model.modules() if hasattr(module, "gate") and hasattr(module, "experts")]
    sums, tokens = [torch.zeros(router.experts) for router in routers], 0
    with torch.inference_mode():
        for inputs, _ in batches(STUDY, tokenizer, steps=HELD_OUT_BATCHES, seed=seed):
            model.model(input_ids=inputs, use_cache=False)
            kept = (inputs != pad).reshape(-1)
            tokens += int(kept.sum())
            for total, router in zip(sums, routers, strict=True):
                total += router.loads(kept)
    return float(sum(total.sum() for total in sums)) / tokens / len(sums), max_violation(sums)


def _quality(model: Any, *, each: int) -> float:
    """Return the part of right answers of the engine on held-out prompts of the study's tasks."""
    from llmrouter.moe import Engine, GenerationRequest, SamplingDefaults
    from llmrouter.moe._vocabulary import Vocabulary
    from training.pocket.evaluate import ANSWER_TOKENS
    from training.pocket.scoring import score
    from training.pocket.tasks import balanced

    tokenizer = build_tokenizer()
    engine = Engine(
        model,
        Vocabulary(tokenizer),
        name=STUDY.name,
        context_window=model.config.max_position_embeddings,
        end_tokens=frozenset([tokenizer.convert_tokens_to_ids(END)]),
        defaults=SamplingDefaults(temperature=0.0),
        max_batch=64,
        max_queue=64,
    )
    examples = [example for example in balanced(5, "test", each=each) if example.task in STUDY.weights]
    results = engine.run(
        [
            GenerationRequest(messages=[{"role": "user", "content": example.prompt}], max_tokens=ANSWER_TOKENS)
            for example in examples
        ]
    )
    right = [
        score(result.text, example.answer, task=example.task) for result, example in zip(results, examples, strict=True)
    ]
    return sum(right) / len(right)
