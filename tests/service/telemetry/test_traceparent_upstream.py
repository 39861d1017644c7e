"""Where it is configured, upstreams learn of the trace that their call belongs to, and else of none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from contracts.misbehaving_upstream import MisbehavingUpstream
from live_gateway import Live

Start = Callable[..., Live]

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT = {"traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-01"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("propagate", [False, True])
def test_the_upstream_is_told_of_the_trace_if_configured(
    propagate: bool, stream: bool, live: Start, upstream: MisbehavingUpstream
) -> None:
    pytest.importorskip("opentelemetry.sdk", reason="needs the extra otel")
    traces = {"otlp_endpoint": "http://127.0.0.1:9", "propagate": propagate}
    gateway = live("alpha", telemetry={"traces": traces})
    gateway.chat("one", headers=PARENT, stream=stream)
    gateway.chat("two", stream=stream)
    first, second = (exchange.headers.get("traceparent", "") for exchange in upstream.exchanges)
    assert (TRACE_ID in first) is propagate
    assert PARENT["traceparent"] != first
    assert bool(second) is propagate
    assert TRACE_ID not in second
