"""GET /metrics for Prometheus and GET /v1/load for a router that wants the present cost of a token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.responses import Response

from llmrouter.moe import Engine, Histogram, LoadReport, TokenCost

_PREFIX = "llmrouter_moe"
_MILLION = 1e6


def add_load_routes(app: FastAPI, engines: Sequence[Engine]) -> None:
    """Add both routes."""
    registry = CollectorRegistry()
    registry.register(_EngineCollector(engines))

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/load")
    def load() -> dict[str, Any]:
        return {"object": "list", "data": [load_entry(engine) for engine in engines]}


def load_entry(engine: Engine) -> dict[str, Any]:
    """Return a model's present load and cost; values that nothing was measured for yet are null."""
    report = engine.load_report()
    return {
        "id": engine.name,
        "object": "load",
        "running": report.running,
        "waiting": report.waiting,
        "max_batch": engine.max_batch,
        "company": report.company,
        "step": None if report.step is None else {"fixed_s": report.step.fixed_s, "row_s": report.step.row_s},
        "seconds_per_input_token": report.seconds_per_input_token,
        "seconds_per_output_token": report.seconds_per_output_token,
        "marginal": {"input": _cost(report.input), "output": _cost(report.output), "measured": report.measured},
        "average": {"output": _cost(report.average_output)},
        "machine": asdict(engine.price),
        "experts": {
            layer: {
                "tokens": load.tokens,
                "experts_a_token": load.experts_a_token,
                "max_violation": load.max_violation,
            }
            for layer, load in engine.expert_load().items()
        },
    }


def _cost(cost: TokenCost | None) -> dict[str, float] | None:
    if cost is None:
        return None
    return {
        "machine_s": cost.machine_s,
        "usd_per_million": cost.usd * _MILLION,
        "joules": cost.joules,
    }


class _EngineCollector(Collector):
    """Reads the engines when Prometheus asks, so that generating costs nothing for it."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = engines

    def collect(self) -> Iterable[Metric]:
        """Yield all families."""
        reports = {engine.name: engine.load_report() for engine in self._engines}
        yield self._gauge("running", "Requests generating", {n: r.running for n, r in reports.items()})
        yield self._gauge("waiting", "Requests in the queue", {n: r.waiting for n, r in reports.items()})
        yield self._gauge(
            "batch_limit", "Requests that generate at once at most", {e.name: e.max_batch for e in self._engines}
        )
        company = GaugeMetricFamily(
            f"{_PREFIX}_company", "Requests that share a decoding step, recent mean, at least 1", labels=["model"]
        )
        for name, report in reports.items():
            company.add_metric([name], report.company)
        yield company
        yield from self._counters()
        yield from self._histograms()
        yield from _costs(reports)
        experts = GaugeMetricFamily(
            f"{_PREFIX}_expert_max_violation",
            "By how much the fullest expert of a layer exceeds the mean, as a part of it",
            labels=["model", "layer"],
        )
        used = GaugeMetricFamily(
            f"{_PREFIX}_experts_a_token",
            "True experts that the router of a layer chose for a token, on average",
            labels=["model", "layer"],
        )
        for engine in self._engines:
            for layer, load in engine.expert_load().items():
                experts.add_metric([engine.name, layer], load.max_violation)
                used.add_metric([engine.name, layer], load.experts_a_token)
        yield from (experts, used)

    def _gauge(self, name: str, text: str, values: dict[str, int]) -> Metric:
        family = GaugeMetricFamily(f"{_PREFIX}_{name}", text, labels=["model"])
        for model, value in values.items():
            family.add_metric([model], value)
        return family

    def _counters(self) -> Iterable[Metric]:
        tokens = CounterMetricFamily(f"{_PREFIX}_tokens", "Tokens computed", labels=["model", "kind"])
        busy = CounterMetricFamily(f"{_PREFIX}_busy_seconds", "Time computed", labels=["model"])
        requests = CounterMetricFamily(f"{_PREFIX}_requests", "Requests that ended", labels=["model", "how"])
        for engine in self._engines:
            tokens.add_metric([engine.name, "input"], engine.meter.input_tokens)
            tokens.add_metric([engine.name, "output"], engine.meter.output_tokens)
            busy.add_metric([engine.name], engine.meter.busy_s)
            for how, count in engine.meter.finished.items():
                requests.add_metric([engine.name, how], count)
        yield from (tokens, busy, requests)

    def _histograms(self) -> Iterable[Metric]:
        families = [
            HistogramMetricFamily(f"{_PREFIX}_{name}", text, labels=["model"])
            for name, text in (
                ("time_to_first_token_seconds", "From acceptance to the first token, waiting included"),
                ("inter_token_seconds", "Between two tokens of a request"),
                ("batch_size", "Requests in a decoding step"),
            )
        ]
        for engine in self._engines:
            for family, histogram in zip(families, engine.meter.histograms(), strict=True):
                family.add_metric([engine.name], _buckets(histogram), histogram.total)
        yield from families


def _costs(reports: dict[str, LoadReport]) -> Iterable[Metric]:
    seconds = GaugeMetricFamily(
        f"{_PREFIX}_seconds_per_token", "Time a token of one more request would take", labels=["model", "kind"]
    )
    usd = GaugeMetricFamily(
        f"{_PREFIX}_marginal_usd_per_million_tokens", "At the present load", labels=["model", "kind"]
    )
    joules = GaugeMetricFamily(
        f"{_PREFIX}_marginal_joules_per_token", "At the present load, estimated", labels=["model", "kind"]
    )
    for model, report in reports.items():
        times = {"input": report.seconds_per_input_token, "output": report.seconds_per_output_token}
        for kind, cost in (("input", report.input), ("output", report.output)):
            taken = times[kind]
            if cost is not None and taken is not None:
                seconds.add_metric([model, kind], taken)
                usd.add_metric([model, kind], cost.usd * _MILLION)
                joules.add_metric([model, kind], cost.joules)
    yield from (seconds, usd, joules)


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    names = [*map(str, histogram.bounds), "+Inf"]
    reached, buckets = 0, []
    for name, count in zip(names, histogram.counts, strict=True):
        reached += count
        buckets.append((name, float(reached)))
    return buckets
