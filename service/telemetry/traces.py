"""OpenTelemetry spans, made from the recorded times of a request that has ended.

Nothing is measured or kept open while a request runs. Finished spans wait in a bounded queue and are sent by a thread;
a collector that cannot be reached costs the spans and nothing else.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from llmrouter.exceptions import MissingExtraError
from service.telemetry.settings import TracesSettings
from service.telemetry.spans import Attributes, SpanData, nanoseconds, server_attributes, spans_of
from service.telemetry.trace_context import TraceContext, begin_trace

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import SpanContext

    from llmrouter.types import Outcome
    from service.call import Call

_EXPORT_TIMEOUT_S = 5.0
_CLOSE_TIMEOUT_S = 3.0
_SAY_AGAIN_S = 60.0
_PATH = "/v1/traces"
_NOISY = ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "opentelemetry.sdk._shared_internal")


class Traces:
    """Make spans and send them.

    Parameters
    ----------
    settings : TracesSettings
        With an endpoint, unless an exporter is given.
    version : str
        ``service.version`` of the spans.
    base_urls : mapping of str to (str or None)
        Pool name -> where its upstream is.
    exporter : SpanExporter, optional
        Takes the spans; by default OTLP over HTTP.

    Raises
    ------
    MissingExtraError
        If OpenTelemetry is not installed.
    """

    def __init__(
        self,
        settings: TracesSettings,
        *,
        version: str,
        base_urls: Mapping[str, str | None],
        exporter: SpanExporter | None = None,
    ) -> None:
        try:
            from opentelemetry import trace
            from opentelemetry.context import Context
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider, sampling
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise MissingExtraError("opentelemetry-sdk", extra="otel", purpose="telemetry.traces") from error
        self.settings = settings
        self.servers = server_attributes(base_urls)
        self._api = trace
        # A span that the surrounding program has open is no parent of ours.
        self._nothing = Context()
        self._exporter = _otlp_exporter(settings) if exporter is None else exporter
        self._ids = _Ids()
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": settings.service_name, "service.version": version}),
            # What is sampled is decided when the request comes in.
            sampler=sampling.ALWAYS_ON,
            id_generator=self._ids,  # type: ignore[arg-type] # made before its base class is imported
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                self._exporter,
                max_queue_size=settings.max_queue,
                max_export_batch_size=min(512, settings.max_queue),
                schedule_delay_millis=1000,
            )
        )
        self._tracer = self._provider.get_tracer("llmrouter", version)
        self._kinds = {
            "server": trace.SpanKind.SERVER,
            "client": trace.SpanKind.CLIENT,
            "internal": trace.SpanKind.INTERNAL,
        }

    def place(self, base_urls: Mapping[str, str | None]) -> None:
        """Take note of where the upstreams are from now on."""
        self.servers = server_attributes(base_urls)

    def begin(self, traceparent: str | None) -> TraceContext:
        """Return the identity of a request that comes in."""
        return begin_trace(traceparent, sample_ratio=self.settings.sample_ratio)

    def finished(self, call: Call, outcome: Outcome, context: TraceContext) -> None:
        """Make the spans of a request."""
        root, below = spans_of(call, outcome, servers=self.servers, prompts=self.settings.prompts)
        parent = None if context.parent_id is None else self._context(context.trace_id, context.parent_id, remote=True)
        self._ids.following = (context.trace_id, context.span_id)
        self._make(root, parent)
        parent = self._context(context.trace_id, context.span_id, remote=False)
        for span in below:
            self._make(span, parent)

    def close(self) -> None:
        """Send what waits, for at most some seconds."""
        thread = threading.Thread(target=self._provider.shutdown, name="traces-close", daemon=True)
        thread.start()
        thread.join(_CLOSE_TIMEOUT_S)
        if thread.is_alive():
            self._exporter.shutdown()  # ends its waiting between attempts

    def _context(self, trace_id: int, span_id: int, *, remote: bool) -> SpanContext:
        return self._api.SpanContext(trace_id, span_id, remote, self._api.TraceFlags(self._api.TraceFlags.SAMPLED))

    def _make(self, data: SpanData, parent: SpanContext | None) -> None:
        api = self._api
        around = self._nothing
        if parent is not None:
            around = api.set_span_in_context(api.NonRecordingSpan(parent), around)
        attributes: Attributes = data.attributes
        if data.error:
            attributes = {**attributes, "error.type": data.error}
        span = self._tracer.start_span(
            data.name,
            context=around,
            kind=self._kinds[data.kind],
            attributes=attributes,
            start_time=nanoseconds(data.start),
        )
        if data.error:
            span.set_status(api.Status(api.StatusCode.ERROR, data.error))
        span.end(nanoseconds(max(data.end, data.start)))


class _Ids:
    """Ids of spans: random ones, after those that were given out before the span could be made."""

    def __init__(self) -> None:
        self.following: tuple[int, int] | None = None

    def generate_trace_id(self) -> int:
        """Return the id of a trace that begins."""
        # Asked before the span id, and only for spans without a parent.
        return self.following[0] if self.following is not None else secrets.randbits(128) or 1

    def generate_span_id(self) -> int:
        """Return the id of a span."""
        if self.following is not None:
            span_id = self.following[1]
            self.following = None
            return span_id
        return secrets.randbits(64) or 1

    def is_trace_id_random(self) -> bool:
        """Say that ids are drawn at random."""
        return True


class _Seldom(logging.Filter):
    """Let one record a minute through: a collector that is down says so on every attempt."""

    def __init__(self) -> None:
        super().__init__()
        self._next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is logged."""
        del record
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + _SAY_AGAIN_S
        return True


_SELDOM = _Seldom()


def _otlp_exporter(settings: TracesSettings) -> SpanExporter:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise MissingExtraError(
            "opentelemetry-exporter-otlp-proto-http", extra="otel", purpose="telemetry.traces"
        ) from error
    for name in _NOISY:
        logging.getLogger(name).addFilter(_SELDOM)
    endpoint = settings.otlp_endpoint or ""
    if urlsplit(endpoint).path in {"", "/"}:
        endpoint = endpoint.rstrip("/") + _PATH
    return OTLPSpanExporter(
        endpoint=endpoint,
        headers={name: value.get_secret_value() for name, value in settings.headers.items()},
        timeout=_EXPORT_TIMEOUT_S,
    )
