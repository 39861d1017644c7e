"""Local mixture-of-experts models: an inference engine over Hugging Face checkpoints (torch is imported when used).

Requests join and leave the running batch at every step (continuous batching); experts never drop tokens, so a
request's text does not depend on what else is in the batch.

>>> from llmrouter.moe import GenerationRequest, load_engine
>>> engine = load_engine("path/to/checkpoint")                                                  # doctest: +SKIP
>>> [result] = engine.run([GenerationRequest(messages=[{"role": "user", "content": "Hi"}])])    # doctest: +SKIP
"""

from llmrouter.moe._embedding import EmbeddingJob, EmbeddingRequest, EmbeddingResult
from llmrouter.moe._engine import Engine, EngineStats
from llmrouter.moe._handle import GenerationHandle
from llmrouter.moe._layer_load import LayerLoad, imbalance
from llmrouter.moe._load import load_engine
from llmrouter.moe._meter import Histogram, LoadMeter, LoadReport, MachinePrice, TokenCost
from llmrouter.moe._options import Pruning, Quantization, SelfContrast
from llmrouter.moe._step_cost import StepTime
from llmrouter.moe._tools import Tool, ToolCall, ToolCallDelta
from llmrouter.moe._types import (
    Delta,
    FinishReason,
    GenerationRequest,
    GenerationResult,
    ResponseFormat,
    SamplingDefaults,
    TokenAlternative,
    TokenLogprob,
)
from llmrouter.moe._worker import EngineWorker

__all__ = [
    "Delta",
    "EmbeddingJob",
    "EmbeddingRequest",
    "EmbeddingResult",
    "Engine",
    "EngineStats",
    "EngineWorker",
    "FinishReason",
    "GenerationHandle",
    "GenerationRequest",
    "GenerationResult",
    "Histogram",
    "LayerLoad",
    "LoadMeter",
    "LoadReport",
    "MachinePrice",
    "Pruning",
    "Quantization",
    "ResponseFormat",
    "SamplingDefaults",
    "SelfContrast",
    "StepTime",
    "TokenAlternative",
    "TokenCost",
    "TokenLogprob",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "imbalance",
    "load_engine",
]
