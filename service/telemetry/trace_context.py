"""W3C trace context: whose trace a request belongs to, and whether it is traced."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1
_HALF = (1 << 64) - 1
_LONGEST = 512


@dataclass(frozen=True, slots=True)
class TraceContext:
    """The identity of one request's trace.

    Attributes
    ----------
    trace_id, span_id : int
        128 and 64 bits; `span_id` is that of the gateway's own span.
    parent_id : int or None
        The caller's span.
    sampled : bool
        Whether the request is traced.
    """

    trace_id: int
    span_id: int
    parent_id: int | None
    sampled: bool

    @property
    def header(self) -> str:
        """``traceparent`` for upstreams: the gateway's span is the parent of theirs."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{int(self.sampled):02x}"


def begin_trace(traceparent: str | None, *, sample_ratio: float) -> TraceContext:
    """Return the identity of a request that comes in.

    Parameters
    ----------
    traceparent : str or None
        The header that the client sent; one that is malformed is ignored, as the standard asks.
    sample_ratio : float
        Share of the requests without one that is traced. The choice follows from the trace id, as OpenTelemetry's own.
    """
    span_id = secrets.randbits(64) or 1
    parent = None if traceparent is None else parse_traceparent(traceparent)
    if parent is not None:
        trace_id, parent_id, sampled = parent
        return TraceContext(trace_id, span_id, parent_id, sampled)
    trace_id = secrets.randbits(128) or 1
    return TraceContext(trace_id, span_id, None, (trace_id & _HALF) < sample_ratio * (_HALF + 1))


def parse_traceparent(value: str) -> tuple[int, int, bool] | None:
    """Return (trace id, parent's span id, whether it is sampled), or None where `value` is not valid."""
    match = _TRACEPARENT.fullmatch(value.strip()) if len(value) <= _LONGEST else None
    if match is None:
        return None
    version, trace, span, flags, more = match.groups()
    trace_id, span_id = int(trace, 16), int(span, 16)
    # Later versions may say more than this one knows; this one may not.
    if version == "ff" or (version == "00" and more) or not trace_id or not span_id:
        return None
    return trace_id, span_id, bool(int(flags, 16) & _SAMPLED)
