"""Exceptions in logs: where they were raised and of what class, and their messages where these can quote no request."""

from __future__ import annotations

import traceback
from typing import Any

from llmrouter.exceptions import LLMRouterError

_TRUSTED = (LLMRouterError, OSError, ImportError, MemoryError)
_LONGEST_CHAIN = 5


def describe(error: BaseException, *, messages: bool) -> list[dict[str, Any]]:
    """Return an exception and what led to it, the last raised first: ``type``, ``message``, ``stack``.

    Parameters
    ----------
    error : BaseException
        What was raised.
    messages : bool
        Show every message; otherwise those alone that our own code and the operating system wrote. Others, such as a
        ``KeyError`` or a decoder's, may quote the request.
    """
    described: list[dict[str, Any]] = []
    current: BaseException | None = error
    while current is not None and len(described) < _LONGEST_CHAIN:
        entry: dict[str, Any] = {"type": type(current).__name__}
        if messages or isinstance(current, _TRUSTED):
            entry["message"] = str(current)
        entry["stack"] = [
            f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(current.__traceback__)
        ]
        described.append(entry)
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return described
