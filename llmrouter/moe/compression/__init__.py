"""Smaller experts of a loaded model: pruning by what they do, and integers for weights."""

from llmrouter.moe.compression._calibration import Calibration, calibrate
from llmrouter.moe.compression._layers import MoeLayer, moe_layers
from llmrouter.moe.compression._pruning import choose_kept, keep_experts, prune
from llmrouter.moe.compression._quantization import QuantizedExperts, QuantizedMatrices, quantize

__all__ = [
    "Calibration",
    "MoeLayer",
    "QuantizedExperts",
    "QuantizedMatrices",
    "calibrate",
    "choose_kept",
    "keep_experts",
    "moe_layers",
    "prune",
    "quantize",
]
