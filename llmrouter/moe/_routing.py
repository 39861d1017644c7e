"""Checkpoints that name another router than their class's: reading it, and what does not go with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llmrouter.exceptions import CheckpointError
from llmrouter.moe._options import Pruning, SelfContrast

if TYPE_CHECKING:
    from llmrouter.moe.experts import Reduction
    from llmrouter.moe.routing import RoutingSettings


def declared_routing(source: str, config: Any) -> RoutingSettings | None:
    """Return the router that a checkpoint's configuration names, None where that of its class is meant.

    Raises
    ------
    CheckpointError
        If the field is wrong, or the model's class has no router to replace.
    """
    from llmrouter.moe.routing import FIELD, TARGETS, RoutingSettings

    value = getattr(config, FIELD, None)
    if value is None:
        return None
    try:
        settings = RoutingSettings.parse(value)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: config.json: {error}") from error
    if config.model_type not in TARGETS:
        raise CheckpointError(
            f"{source}: config.json: {FIELD} is set, but routers of model type {config.model_type!r} cannot be "
            f"replaced; those of {', '.join(TARGETS)} can. Leave the field out for the class's own"
        )
    return settings


def weights_loader(config: Any, routing: RoutingSettings | None) -> Callable[..., Any]:
    """Return the `from_pretrained` that makes a causal language model with these routers."""
    from transformers import AutoModelForCausalLM

    maker: Any = AutoModelForCausalLM
    if routing is not None:
        from llmrouter.moe.routing import model_class

        maker = model_class(maker._model_mapping[type(config)], routing)  # noqa: SLF001 -- no public way to the class
    loader: Callable[..., Any] = maker.from_pretrained
    return loader


def refuse_unfit(
    source: str,
    routing: RoutingSettings | None,
    *,
    experts: str,
    reduction: Reduction | None,
    prune: Pruning | None,
    contrast: SelfContrast | None,
) -> None:
    """Raise CheckpointError for options that mean nothing, or something else, with the checkpoint's router."""
    if routing is None:
        return
    from llmrouter.moe.experts import NAME

    what = f"{source}: this checkpoint has {routing.kind} routing"
    if prune is not None:
        raise CheckpointError(
            f"{what}, of which experts cannot be removed: its weights beside those of the experts were trained "
            "with all of them. Load it without pruning"
        )
    if routing.kind == "relu" and reduction is not None:
        raise CheckpointError(
            f"{what}: a token uses the experts of positive weight, and these weights have no common sum to keep. "
            "Load it without fewer experts a token (active, top_p)"
        )
    if contrast is not None and not routing.fixed:
        raise CheckpointError(
            f"{what}: a token may use one expert or none, and the self-contrast needs a second one. Load it without"
        )
    if not routing.fixed and experts != "auto" and not experts.startswith(NAME):
        raise CheckpointError(
            f"{what}, with ids that are no expert; experts is {experts!r}, which does not skip them. Leave experts out"
        )
