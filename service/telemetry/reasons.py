"""Failures in one word, from a bounded set."""

from __future__ import annotations

from llmrouter.exceptions import BackendError
from llmrouter.pool import FailureClass, failure_class
from service.resilience.state import LocalLimitError

LOCAL_LIMIT = "local_limit"
OTHER = "other"

REASONS = frozenset({*(found.value for found in FailureClass), LOCAL_LIMIT, OTHER})
"""What `reason_of` may return."""


def reason_of(error: object) -> str:
    """Return why a call of an upstream failed: a `FailureClass`, or that a limit of ours forbade it."""
    if isinstance(error, LocalLimitError):
        return LOCAL_LIMIT
    return failure_class(error).value if isinstance(error, BackendError) else OTHER
