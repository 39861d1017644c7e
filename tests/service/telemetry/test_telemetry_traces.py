"""Spans of finished requests."""

from __future__ import annotations

import json
import logging
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from telemetry_calls import POOL, SECRET_PROMPT, finished, telemetry

from llmrouter.exceptions import BackendStatusError, BackendTimeoutError, MissingExtraError
from llmrouter.pool import FailedAttempt
from service.keys.principal import Principal
from service.telemetry.settings import TelemetrySettings
from service.telemetry.telemetry import Telemetry
from service.telemetry.trace_context import begin_trace, parse_traceparent

pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
PLACES = {"small": "https://api.openai.com/v1", "middle": "http://10.0.0.7:8000/v1", "large": None}


def _told(traces: dict[str, Any] | None = None) -> tuple[Telemetry, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    return telemetry({"traces": traces or {}}, exporter=exporter, base_urls=PLACES), exporter


def _spans(
    traces: dict[str, Any] | None = None, *, traceparent: str | None = None, **changes: Any
) -> list[ReadableSpan]:
    told, exporter = _told(traces)
    call, outcome = finished(**changes)
    call.trace = told.begin(traceparent)
    told.finished(call, outcome)
    told.close()
    return sorted(
        exporter.get_finished_spans(), key=lambda span: (span.parent is not None and not span.parent.is_remote,)
    )


def _by_name(spans: list[ReadableSpan]) -> dict[str, ReadableSpan]:
    return {span.name: span for span in spans}


def test_a_request_is_one_server_span_with_routing_and_attempt_below() -> None:
    spans = _spans()
    root, *below = spans
    assert (root.name, root.kind) == ("chat auto", SpanKind.SERVER)
    assert {span.name: span.kind for span in below} == {"route": SpanKind.INTERNAL, "chat small": SpanKind.CLIENT}
    assert {span.parent.span_id for span in below if span.parent} == {root.context.span_id}
    assert {span.context.trace_id for span in spans} == {root.context.trace_id}
    assert root.attributes is not None
    assert root.attributes["gen_ai.operation.name"] == "chat"
    assert root.attributes["gen_ai.request.model"] == "auto"
    assert root.attributes["gen_ai.response.model"] == "small"
    assert root.attributes["gen_ai.usage.input_tokens"] == 100
    assert root.attributes["gen_ai.usage.output_tokens"] == 20
    assert root.attributes["gen_ai.request.temperature"] == 0.5
    assert root.attributes["llmrouter.request_id"] == "req_1"
    assert root.status.status_code is StatusCode.UNSET


def test_times_are_the_recorded_ones() -> None:
    spans = _by_name(_spans())
    root, route = spans["chat auto"], spans["route"]
    assert root.start_time == 1_700_000_000_000_000_000
    assert root.end_time == pytest.approx(root.start_time + 250_000_000, abs=1000)
    assert route.start_time == pytest.approx(root.start_time + 300_000, abs=1000)
    assert route.end_time == pytest.approx(route.start_time + 1_000_000, abs=1000)


def test_the_routing_span_holds_candidates_and_scores() -> None:
    route = _by_name(_spans())["route"].attributes
    assert route is not None
    assert route["llmrouter.candidates"] == POOL
    assert route["llmrouter.candidates.expected_quality"] == pytest.approx((0.5, 0.6, 0.7))
    assert route["llmrouter.candidates.standard_error"] == (0.05, 0.05, 0.05)
    assert route["llmrouter.candidates.expected_cost_usd"] == pytest.approx((0.001, 0.002, 0.003))
    assert route["llmrouter.chosen"] == "small"
    assert route["llmrouter.propensity"] == 1.0
    assert (route["llmrouter.policy"], route["llmrouter.artifact"]) == ("utility", "a1")


def test_failed_attempts_have_spans_and_say_why() -> None:
    failures = [
        FailedAttempt("large", BackendStatusError(SECRET_PROMPT, status=429, body=SECRET_PROMPT.encode())),
        FailedAttempt("middle", BackendTimeoutError(SECRET_PROMPT)),
    ]
    spans = _by_name(_spans(failures=failures, error=SECRET_PROMPT))
    large, middle, small = (spans[f"chat {name}"] for name in ("large", "middle", "small"))
    assert large.attributes is not None
    assert middle.attributes is not None
    assert small.attributes is not None
    assert large.attributes["error.type"] == "rate_limit"
    assert large.attributes["http.response.status_code"] == 429
    assert middle.attributes["error.type"] == "timeout"
    assert (middle.attributes["server.address"], middle.attributes["server.port"]) == ("10.0.0.7", 8000)
    assert (small.attributes["server.address"], small.attributes["server.port"]) == ("api.openai.com", 443)
    assert small.attributes["gen_ai.provider.name"] == "openai"
    assert "error.type" not in small.attributes
    assert large.end_time <= middle.start_time <= middle.end_time <= small.start_time


def test_recorded_attempts_give_their_own_times() -> None:
    told, exporter = _told()
    call, outcome = finished()
    call.attempts = [
        SimpleNamespace(model="large", started=call.started + 0.01, ended=call.started + 0.2, error=None, hedge=False),
        SimpleNamespace(model="small", started=call.started + 0.1, ended=call.started + 0.25, error=None, hedge=True),
    ]
    told.finished(call, outcome)
    told.close()
    spans = _by_name(list(exporter.get_finished_spans()))
    assert spans["chat small"].start_time < spans["chat large"].end_time
    assert (spans["chat small"].attributes or {})["llmrouter.hedge"] is True


def test_an_abandoned_hedge_did_not_fail() -> None:
    spans = _by_name(_spans(hedges=["middle"], abandoned=[("middle", 0.05)]))
    attributes = spans["chat middle"].attributes or {}
    assert attributes["llmrouter.abandoned"] is True
    assert attributes["llmrouter.hedge"] is True
    assert spans["chat middle"].status.status_code is StatusCode.UNSET


def test_a_request_that_failed_is_an_error_and_one_whose_client_left_is_none() -> None:
    failed = _spans(status="error", served_by=None, failures=[FailedAttempt("small", BackendTimeoutError("x"))])[0]
    assert failed.status.status_code is StatusCode.ERROR
    assert (failed.attributes or {})["error.type"] == "timeout"
    assert _spans(status="cancelled")[0].status.status_code is StatusCode.UNSET


def test_an_answer_from_the_cache_has_no_attempt() -> None:
    assert [span.name for span in _spans(cache="hit")] == ["chat auto", "route"]


def test_a_callers_trace_goes_on() -> None:
    root, *below = _spans(traceparent=PARENT)
    assert root.parent is not None
    assert root.parent.span_id == 0xB7AD6B7169203331
    assert {span.context.trace_id for span in (root, *below)} == {0x0AF7651916CD43DD8448EB211C80319C}


def test_a_caller_who_does_not_trace_is_followed() -> None:
    assert _spans(traceparent=PARENT[:-2] + "00") == []


def test_upstreams_are_told_of_the_trace_only_if_configured() -> None:
    silent, _ = _told()
    assert silent.upstream_headers(silent.begin(PARENT)) == {}
    told, exporter = _told({"propagate": True})
    call, outcome = finished()
    call.trace = told.begin(PARENT)
    header = told.upstream_headers(call.trace)["traceparent"]
    told.finished(call, outcome)
    told.close()
    (root,) = (span for span in exporter.get_finished_spans() if span.kind is SpanKind.SERVER)
    assert header == f"00-{root.context.trace_id:032x}-{root.context.span_id:016x}-01"


@pytest.mark.parametrize("ratio", [0.0, 0.25, 1.0])
def test_the_sample_ratio_is_kept(ratio: float) -> None:
    sampled = sum(begin_trace(None, sample_ratio=ratio).sampled for _ in range(4000))
    assert sampled == pytest.approx(4000 * ratio, abs=200)


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "x",
        PARENT.upper(),
        "ff" + PARENT[2:],
        PARENT + "-more",
        PARENT.replace("b7ad6b7169203331", "0" * 16),
        PARENT.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32),
        PARENT + "0" * 600,
    ],
)
def test_a_malformed_traceparent_is_ignored(wrong: str) -> None:
    assert parse_traceparent(wrong) is None
    context = begin_trace(wrong, sample_ratio=1.0)
    assert context.parent_id is None
    assert context.sampled


def test_a_later_version_may_say_more() -> None:
    assert parse_traceparent("01" + PARENT[2:] + "-more") is not None


@given(st.text())
def test_any_header_is_read_without_an_error(text: str) -> None:
    begin_trace(text, sample_ratio=0.5)


def _everything(spans: list[ReadableSpan]) -> str:
    return "".join(span.to_json() for span in spans)


def test_prompts_are_in_spans_only_if_asked_for() -> None:
    failures = [FailedAttempt("large", BackendStatusError(SECRET_PROMPT, status=500, body=SECRET_PROMPT.encode()))]
    assert "ZEBRA" not in _everything(_spans(failures=failures, error=SECRET_PROMPT))
    told = (_spans({"prompts": True})[0].attributes or {})["gen_ai.input.messages"]
    assert json.loads(str(told))[1] == {"role": "user", "parts": [{"type": "text", "content": SECRET_PROMPT}]}
    private = Principal("k", "private", prompts="embedding")
    assert "ZEBRA" not in _everything(_spans({"prompts": True}, principal=private)), "unless the key says otherwise"


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(MissingExtraError, match=r"llmrouter-service\[otel\]"):
        telemetry({"traces": {"otlp_endpoint": "http://127.0.0.1:1"}})


def test_without_an_endpoint_opentelemetry_is_not_imported() -> None:
    import subprocess

    code = (
        "import sys; from service.telemetry import Telemetry; from service.telemetry.settings import TelemetrySettings;"
        "Telemetry(TelemetrySettings(), ['a'], version='1', artifact_id='').begin(None);"
        "assert not [name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class _Collector(HTTPServer):
    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], int]] = []
        super().__init__(("127.0.0.1", 0), _Take)


class _Take(BaseHTTPRequestHandler):
    server: _Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}, len(body)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_spans_go_to_the_collector_with_its_headers() -> None:
    collector = _Collector()
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{collector.server_port}"
    tree = {"otlp_endpoint": url, "headers": {"x-token": "s3cret"}}
    told = telemetry({"traces": tree})
    told.finished(*finished())
    told.close()
    collector.shutdown()
    collector.server_close()
    (path, headers, size), *_ = collector.requests
    assert (path, headers["x-token"]) == ("/v1/traces", "s3cret")
    assert size > 100
    assert "s3cret" not in repr(TelemetrySettings.model_validate({"traces": tree}))


def test_a_collector_that_is_not_there_holds_nothing_up(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    told = telemetry({"traces": {"otlp_endpoint": f"http://127.0.0.1:{port}"}})
    with caplog.at_level(logging.WARNING):
        for _ in range(3000):  # more than the queue holds
            told.finished(*finished())
        before = time.monotonic()
        told.close()
    assert time.monotonic() - before < 20
    assert len(caplog.records) <= 3
