"""The pool of models: backends that reach them, and what to do when one fails.

Backends are chosen by name through `llmrouter.registry` (``openai``, ``litellm``, ``scripted``).
"""

from llmrouter.pool._base import Backend, BackendResponse, BackendStream, Timeouts
from llmrouter.pool._cooldown import Cooldowns, retry_after_s
from llmrouter.pool._failover import FailedAttempt, FailureKind, failover, failure_kind, most_telling
from llmrouter.pool._http import HTTPSessions
from llmrouter.pool._litellm import LiteLLMBackend
from llmrouter.pool._openai import OpenAIBackend
from llmrouter.pool._scripted import ScriptedBackend
from llmrouter.pool._sse import DONE, EventSplitter, ServerSentEvent, encode_event
from llmrouter.pool._usage import StreamObserver, error_in, parse_usage, usage_from_body

__all__ = [
    "DONE",
    "Backend",
    "BackendResponse",
    "BackendStream",
    "Cooldowns",
    "EventSplitter",
    "FailedAttempt",
    "FailureKind",
    "HTTPSessions",
    "LiteLLMBackend",
    "OpenAIBackend",
    "ScriptedBackend",
    "ServerSentEvent",
    "StreamObserver",
    "Timeouts",
    "encode_event",
    "error_in",
    "failover",
    "failure_kind",
    "most_telling",
    "parse_usage",
    "retry_after_s",
    "usage_from_body",
]
