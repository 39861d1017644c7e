"""Tiny random checkpoints that name a router of ours, written as a trainer would write them."""

from __future__ import annotations

from pathlib import Path

from tiny_checkpoints import make_checkpoint

FIELDS = {
    "null": {"kind": "null", "null_experts": 3, "slots": 4},
    "relu": {"kind": "relu"},
    "loss-free": {"kind": "loss-free"},
}


def routed_checkpoint(folder: Path, architecture: str, kind: str) -> Path:
    """Write a checkpoint whose weights, biases included, are random and wide, and return its folder."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from llmrouter.moe.routing import FIELD, RoutingSettings, model_class, routers_of

    make_checkpoint(folder, architecture)
    config = AutoConfig.from_pretrained(folder)
    setattr(config, FIELD, FIELDS[kind])
    own = AutoModelForCausalLM._model_mapping[type(config)]
    with torch.random.fork_rng():
        torch.manual_seed(sorted(FIELDS).index(kind))
        model = model_class(own, RoutingSettings.parse(FIELDS[kind]))(config)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.2)
        for router in routers_of(model):
            if kind == "loss-free":
                router.bias.normal_(std=0.1)
    model.save_pretrained(folder)
    return folder
