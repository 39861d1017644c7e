"""Putting routers into a model: one that is there, or the class of one that is to be loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmrouter.exceptions import CheckpointError
from llmrouter.moe.routing._routers import LossFreeRouter, NullRouter, ReluRouter, Router
from llmrouter.moe.routing._settings import FIELD, RoutingSettings

TARGETS = ("mixtral", "olmoe", "qwen3_moe")
"""Model types whose blocks have a `gate` that gives logits, weights and ids, and nothing else that chooses."""


def install_routers(model: Any, make: Callable[[Any], Router]) -> list[Router]:
    """Replace the routers of a model in place.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Of one of the `TARGETS`.
    make : callable
        Gets a block's own router, with `weight`, `num_experts` and `top_k`, and returns the new one.

    Returns
    -------
    list of Router
        The new ones in the order of the layers.

    Raises
    ------
    CheckpointError
        If the model has no such routers.
    """
    blocks = [module for module in model.modules() if hasattr(module, "gate") and hasattr(module, "experts")]
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    if not blocks or model_type not in TARGETS:
        raise CheckpointError(
            f"{FIELD}: a {type(model).__name__} is not a mixture of experts whose routers can be replaced; "
            f"models of type {', '.join(TARGETS)} are"
        )
    for block in blocks:
        block.gate = make(block.gate)
    return [block.gate for block in blocks]


def routers_of(model: Any) -> list[Router]:
    """Return the routers of ours that a model has, in the order of its layers."""
    return [module for module in model.modules() if isinstance(module, Router)]


def model_class(own: type[Any], settings: RoutingSettings) -> type[Any]:
    """Return a model class like Hugging Face's `own` whose instances are made with the routers of `settings`.

    It loads checkpoints as `own` does: weights that lack or do not fit are reported in the same way.
    """

    def initialise(self: Any, config: Any, *arguments: Any, **options: Any) -> None:
        own.__init__(self, config, *arguments, **options)
        install_routers(self, lambda gate: _router(gate, settings))

    # Hugging Face finds the key mapping of a checkpoint, and the class's name in its configuration, by these two.
    return type(own.__name__, (own,), {"__init__": initialise, "__module__": own.__module__})


def _router(own: Any, settings: RoutingSettings) -> Router:
    experts, hidden, chosen = int(own.num_experts), int(own.weight.shape[1]), int(own.top_k)
    settings.check_sizes(experts=experts)
    if settings.kind == "null":
        return NullRouter(experts=experts, chosen=settings.slots or 1, hidden=hidden, rows=settings.rows)
    if settings.kind == "relu":
        return ReluRouter(experts=experts, chosen=chosen, hidden=hidden)
    return LossFreeRouter(experts=experts, chosen=chosen, hidden=hidden)
