"""Seeing and changing which experts run, for the forward passes of one block of code."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import torch

Routed = tuple[torch.Tensor, torch.Tensor]
RoutingHook = Callable[[Any, torch.Tensor, torch.Tensor, torch.Tensor], Routed]
"""(experts module, hidden (T, H), index (T, k), weights (T, k)) -> the index and weights that are computed."""

_HOOKS: ContextVar[tuple[RoutingHook, ...]] = ContextVar("routing_hooks", default=())


@contextlib.contextmanager
def routing_hooks(*hooks: RoutingHook, alone: bool = False) -> Iterator[None]:
    """Call `hooks` in every layer of experts that runs inside, first one first, after those of an outer block.

    With `alone` those of an outer block are left out.

    Of effect only in this thread, and only on experts of the ``llmrouter`` implementations.
    """
    token = _HOOKS.set(hooks if alone else (*_HOOKS.get(), *hooks))
    try:
        yield
    finally:
        _HOOKS.reset(token)


def routed(module: Any, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> Routed:
    """Return index and weights after the hooks of the present block."""
    for hook in _HOOKS.get():
        index, weights = hook(module, hidden, index, weights)
    return index, weights
