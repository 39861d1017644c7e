"""The experts of local mixture-of-experts models, computed dropless: grouped products on a CPU, fused on a GPU.

>>> from llmrouter.moe.experts import register_experts
>>> register_experts()                                          # doctest: +SKIP
>>> model.set_experts_implementation("llmrouter")               # doctest: +SKIP
"""

from llmrouter.moe.experts._fused import FusedExperts, triton_version
from llmrouter.moe.experts._grouped import grouped_experts
from llmrouter.moe.experts._hooks import Routed, RoutingHook, routing_hooks
from llmrouter.moe.experts._invariant import BatchInvariant
from llmrouter.moe.experts._reduction import Reduction
from llmrouter.moe.experts._register import DETERMINISTIC_NAME, NAME, register_experts, register_reduced_experts
from llmrouter.moe.experts._tiles import Shape, Tile, Tiles, TileTable
from llmrouter.moe.experts._weights import ExpertWeights, module_weights, swiglu_weights

__all__ = [
    "DETERMINISTIC_NAME",
    "NAME",
    "BatchInvariant",
    "ExpertWeights",
    "FusedExperts",
    "Reduction",
    "Routed",
    "RoutingHook",
    "Shape",
    "Tile",
    "TileTable",
    "Tiles",
    "grouped_experts",
    "module_weights",
    "register_experts",
    "register_reduced_experts",
    "routing_hooks",
    "swiglu_weights",
    "triton_version",
]
