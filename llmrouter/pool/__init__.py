"""The pool of models: backends that reach them, and what to do when one fails.

Backends are chosen by name through `llmrouter.registry` (``openai``, ``litellm``, ``scripted``).
"""

from llmrouter.pool._balance import DEPLOYMENT_HEADER, BalancedBackend, Deployment, deployments_in_use
from llmrouter.pool._base import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    RESPONSES,
    Backend,
    BackendResponse,
    BackendStream,
    Timeouts,
)
from llmrouter.pool._cooldown import BreakerState, Cooldowns, CooldownShare, retry_after_s
from llmrouter.pool._cost_map import CostMap, installed_cost_map
from llmrouter.pool._failover import (
    FALLBACK_CLASSES,
    FailedAttempt,
    FailureClass,
    FailureKind,
    Walk,
    failover,
    failure_class,
    failure_kind,
    is_upstream_trouble,
    most_telling,
)
from llmrouter.pool._hedge import Hedger
from llmrouter.pool._http import CALL_HEADERS, HTTPSessions
from llmrouter.pool._known_model import KnownModel
from llmrouter.pool._latency import LatencyWindow
from llmrouter.pool._litellm import LiteLLMBackend
from llmrouter.pool._load import LoadReading, read_load
from llmrouter.pool._openai import OpenAIBackend
from llmrouter.pool._prices import PRICES_VARIABLE, PriceBook, pocket_models
from llmrouter.pool._race import Abandoned, Ended, Race
from llmrouter.pool._repricing import ModelDifference, Repriced, RepricingReport, recompute_costs, usage_of
from llmrouter.pool._resume import StreamText, resume_body
from llmrouter.pool._retry_budget import RetryBudget
from llmrouter.pool._scripted import ScriptedBackend
from llmrouter.pool._sse import DONE, EventSplitter, ServerSentEvent, encode_event
from llmrouter.pool._usage import StreamObserver, error_in, finish_reason_in, parse_usage, usage_from_body, usage_in

__all__ = [
    "CALL_HEADERS",
    "CHAT",
    "COMPLETIONS",
    "DEPLOYMENT_HEADER",
    "DONE",
    "EMBEDDINGS",
    "FALLBACK_CLASSES",
    "PRICES_VARIABLE",
    "RESPONSES",
    "Abandoned",
    "Backend",
    "BackendResponse",
    "BackendStream",
    "BalancedBackend",
    "BreakerState",
    "CooldownShare",
    "Cooldowns",
    "CostMap",
    "Deployment",
    "Ended",
    "EventSplitter",
    "FailedAttempt",
    "FailureClass",
    "FailureKind",
    "HTTPSessions",
    "Hedger",
    "KnownModel",
    "LatencyWindow",
    "LiteLLMBackend",
    "LoadReading",
    "ModelDifference",
    "OpenAIBackend",
    "PriceBook",
    "Race",
    "Repriced",
    "RepricingReport",
    "RetryBudget",
    "ScriptedBackend",
    "ServerSentEvent",
    "StreamObserver",
    "StreamText",
    "Timeouts",
    "Walk",
    "deployments_in_use",
    "encode_event",
    "error_in",
    "failover",
    "failure_class",
    "failure_kind",
    "finish_reason_in",
    "installed_cost_map",
    "is_upstream_trouble",
    "most_telling",
    "parse_usage",
    "pocket_models",
    "read_load",
    "recompute_costs",
    "resume_body",
    "retry_after_s",
    "usage_from_body",
    "usage_in",
    "usage_of",
]
