"""Settings of this package."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, SecretStr

from service.section import Section


class MetricsSettings(Section):
    """Prometheus metrics.

    Attributes
    ----------
    enabled : bool
        Whether requests are counted and ``GET /metrics`` answers.
    """

    enabled: bool = True


class TracesSettings(Section):
    """OpenTelemetry traces; they need the extra ``otel``.

    Attributes
    ----------
    otlp_endpoint : str or None
        Where the collector takes OTLP over HTTP, e.g. ``http://collector:4318``; a URL without a path gets
        ``/v1/traces``. None is no traces.
    headers : mapping of str to secret
        Sent to the collector.
    sample_ratio : float
        Share of the requests that is traced, in [0, 1]; a request with a ``traceparent`` follows its caller's choice.
    prompts : bool
        Whether spans hold the messages of requests.
    propagate : bool
        Whether upstreams are sent a ``traceparent``.
    service_name : str
        ``service.name`` of the spans.
    max_queue : int
        Spans kept in memory until they are sent; more are dropped.
    """

    otlp_endpoint: Annotated[str, Field(pattern=r"^https?://[^\s/]")] | None = None
    headers: dict[str, SecretStr] = Field(default={})
    sample_ratio: Annotated[float, Field(ge=0, le=1)] = 1.0
    prompts: bool = False
    propagate: bool = False
    service_name: Annotated[str, Field(min_length=1)] = "llmrouter"
    max_queue: PositiveInt = 2048


class LogsSettings(Section):
    """What the gateway writes to standard error.

    Attributes
    ----------
    format : {"text", "json"}
        Lines for people, or one JSON object a line.
    level : {"debug", "info", "warning", "error"}
        Least severity of what the gateway itself logs. Other packages log from ``info`` on, LiteLLM and HTTP clients
        from ``warning`` on: their finer levels quote requests.
    access : bool
        One line a request.
    prompts : bool
        Whether access lines hold the text that the router read, and whether the messages of unforeseen exceptions
        (which may quote a request) are shown.
    """

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"
    access: bool = False
    prompts: bool = False


class TelemetrySettings(Section):
    """Metrics, traces and logs."""

    metrics: MetricsSettings = MetricsSettings()
    traces: TracesSettings = TracesSettings()
    logs: LogsSettings = LogsSettings()
