"""Training of one pocket model, from random weights to a checkpoint folder that `AutoModelForCausalLM` loads."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.pocket.batches import IGNORED, batches
from training.pocket.specifications import Specification, count_parameters, price
from training.pocket.tokenizer import END, PAD, build_tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from training.pocket.routing import Kind

WARM_UP_STEPS = 100
BALANCE_WEIGHT = 0.01
WEIGHT_DECAY = 0.05
EXPERTS_IMPLEMENTATION = "grouped_mm"


def learning_rate(step: int, *, steps: int, peak: float) -> float:
    """Linear warm-up, then half a cosine down to a hundredth of the peak."""
    warm_up = min(WARM_UP_STEPS, max(1, steps // 10))
    if step < warm_up:
        return peak * (step + 1) / warm_up
    progress = (step - warm_up) / max(1, steps - warm_up)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def experts_of(model: PreTrainedModel) -> tuple[int, int]:
    """Return (experts, experts per token) whatever the class calls them."""
    config = model.config
    return getattr(config, "num_local_experts", None) or config.num_experts, config.num_experts_per_tok


def balance_loss(router_logits: tuple[torch.Tensor, ...], kept: torch.Tensor, *, chosen: int) -> torch.Tensor:
    """Return the load-balancing loss of the Switch Transformer (Fedus et al., 2021), averaged over layers.

    Padding is left out (``kept`` is a flat mask): it would otherwise pass for one very popular token.
    """
    import torch

    losses = []
    for logits in router_logits:
        shares = torch.softmax(logits.float()[kept], dim=-1)
        experts = shares.shape[-1]
        picked = torch.zeros_like(shares).scatter_(1, shares.topk(chosen, dim=-1).indices, 1.0)
        losses.append(experts * (picked.mean(0) * shares.mean(0)).sum() / chosen)
    return torch.stack(losses).mean()


def build_model(specification: Specification) -> PreTrainedModel:
    """Return the untrained model (its weights depend on the specification's seed)."""
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = build_tokenizer()
    end, pad = tokenizer.convert_tokens_to_ids([END, PAD])
    torch.manual_seed(specification.seed)
    config = specification.configuration(len(tokenizer), eos_token_id=end, pad_token_id=pad)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, experts_implementation=EXPERTS_IMPLEMENTATION)
    return model


def train(
    specification: Specification, *, steps: int | None = None, progress: bool = True, routing: Kind | None = None
) -> tuple[Any, list[float]]:
    """Train a model.

    Parameters
    ----------
    steps
        Length of training, if other than the specification's.
    progress
        Show a progress bar.
    routing
        Another router than the model's own (see `training.pocket.routing`).

    Returns
    -------
    The model and the answer loss of every step.
    """
    import torch
    from tqdm import tqdm

    from training.pocket.optimizer import build_optimizers
    from training.pocket.routing import install

    steps = steps or specification.steps
    tokenizer = build_tokenizer()
    model = build_model(specification)
    routers = [] if routing is None else install(model, routing)
    model.train()
    _, chosen = experts_of(model)
    optimizers = build_optimizers(model, learning_rate=specification.learning_rate, weight_decay=WEIGHT_DECAY)
    pad = tokenizer.convert_tokens_to_ids(PAD)
    stream = batches(specification, tokenizer, steps=steps, seed=specification.seed)
    bar = tqdm(stream, total=steps, desc=specification.name, disable=not progress, mininterval=5.0)
    losses: list[float] = []
    for step, (inputs, labels) in enumerate(bar):
        rate = learning_rate(step, steps=steps, peak=specification.learning_rate)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = rate
        outputs = model.model(input_ids=inputs, use_cache=False, output_router_logits=not routers)
        # The vocabulary is wide for a model so small: logits are computed for the answer tokens only.
        asked = labels != IGNORED
        logits = model.lm_head(outputs.last_hidden_state[asked])
        loss = torch.nn.functional.cross_entropy(logits, labels[asked])
        kept = (inputs != pad).reshape(-1)
        if routers:
            extra = torch.stack([router.auxiliary(kept) for router in routers]).mean()
        else:
            extra = BALANCE_WEIGHT * balance_loss(outputs.router_logits, kept, chosen=chosen)
        (loss + extra).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        for router in routers:
            router.after_step(kept)
        losses.append(float(loss.detach()))
        if step % 20 == 0:
            bar.set_postfix(loss=f"{sum(losses[-50:]) / len(losses[-50:]):.3f}")
    model.eval()
    return model, losses


def save(model: PreTrainedModel, specification: Specification, folder: Path, *, facts: dict[str, Any]) -> None:
    """Write a checkpoint folder: weights in fp16, configuration, tokenizer, and `pocket.json` with how it was made.

    The model is left with its weights as they were rounded: what it says afterwards is what the checkpoint says.
    """
    from transformers import GenerationConfig

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    end, pad = tokenizer.convert_tokens_to_ids([END, PAD])
    GenerationConfig(do_sample=False, max_new_tokens=64, eos_token_id=end, pad_token_id=pad).save_pretrained(folder)
    # Weights only: to convert the model would round the angles of its positions as well, which no checkpoint holds.
    state = model.state_dict()
    halves = {tensor.data_ptr(): tensor.half() for tensor in state.values()}  # tied weights stay one tensor
    rounded = {name: halves[tensor.data_ptr()] for name, tensor in state.items()}
    model.load_state_dict(rounded)
    # save_pretrained writes the hub's key layout, which is what every other tool expects to load.
    model.save_pretrained(folder, state_dict=rounded)
    (folder / "model.safetensors").chmod(0o644)
    # Stored in half precision for size; loaded in single, which CPUs are faster at.
    config = json.loads((folder / "config.json").read_text())
    config["dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    experts, chosen = experts_of(model)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    total, active = count_parameters(sizes, experts=experts, chosen=chosen)
    record = {
        "name": specification.name,
        "description": specification.description,
        "architecture": type(model).__name__,
        "params": total,
        "active_params": active,
        "price": price(active),
        "context_window": model.config.max_position_embeddings,
        "training": facts,
    }
    (folder / "pocket.json").write_text(json.dumps(record, indent=2) + "\n")


def train_and_save(specification: Specification, *, out: Path, steps: int | None = None, threads: int = 1) -> Path:
    """Train one model and write it to ``out/<name>``; return that folder."""
    import torch

    torch.set_num_threads(threads)
    started = time.monotonic()
    model, losses = train(specification, steps=steps)
    seconds = round(time.monotonic() - started, 1)
    facts = {
        "steps": len(losses),
        "seed": specification.seed,
        "batch_size": specification.batch_size,
        "threads": threads,
        "seconds": seconds,
        "final_loss": round(sum(losses[-100:]) / len(losses[-100:]), 4),
    }
    folder = out / specification.name
    save(model, specification, folder, facts=facts)
    return folder
