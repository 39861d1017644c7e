"""Routers from the literature in place of a model's own, and checkpoints that say which one they were trained with.

A checkpoint's ``config.json`` has a field ``llmrouter_routing`` for that, and `load_engine` reads it.
"""

from llmrouter.moe.routing._model import TARGETS, install_routers, model_class, routers_of
from llmrouter.moe.routing._routers import LossFreeRouter, NullRouter, ReluRouter, Router, Routing
from llmrouter.moe.routing._settings import FIELD, RoutingKind, RoutingSettings

__all__ = [
    "FIELD",
    "TARGETS",
    "LossFreeRouter",
    "NullRouter",
    "ReluRouter",
    "Router",
    "Routing",
    "RoutingKind",
    "RoutingSettings",
    "install_routers",
    "model_class",
    "routers_of",
]
