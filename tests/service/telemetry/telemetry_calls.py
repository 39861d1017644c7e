"""Finished requests, as the gateway hands them over."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from llmrouter.types import Decision, Outcome, RankedModel, RoutingRequest
from service.keys.principal import ANONYMOUS
from service.telemetry.settings import TelemetrySettings
from service.telemetry.telemetry import Telemetry

POOL = ("small", "middle", "large")
SECRET_PROMPT = "the launch code is 8812-ZEBRA"


def ranking(*models: str) -> tuple[RankedModel, ...]:
    """Return a ranking with qualities and costs that rise."""
    return tuple(RankedModel(name, 0.5 + 0.1 * i, 0.05, 0.001 * (i + 1)) for i, name in enumerate(models))


def finished(**changes: Any) -> tuple[Any, Outcome]:
    """Return (call, outcome) of an ordinary request; keywords change either of them."""
    messages = [{"role": "system", "content": SECRET_PROMPT}, {"role": "user", "content": SECRET_PROMPT}]
    call = SimpleNamespace(
        request_id="req_1",
        endpoint="chat",
        chat=SimpleNamespace(
            model="auto",
            stream=False,
            body={"model": "auto", "messages": messages, "temperature": 0.5, "metadata": {"note": SECRET_PROMPT}},
            routing=RoutingRequest(text=SECRET_PROMPT),
        ),
        decision=Decision(ranking=ranking(*POOL), policy="utility", router="stack", artifact_id="a1"),
        started=time.perf_counter(),
        received=1_700_000_000.0,
        failures=[],
        served_by="small",
        principal=ANONYMOUS,
        upstream_s=0.2,
        stages={"auth": 0.0001, "parse": 0.0002, "route": 0.001, "record": 0.00005},
        cache="",
        hedges=[],
        abandoned=[],
        extra_cost={},
        trace=None,
    )
    fields: dict[str, Any] = {
        "request_id": "req_1",
        "time": call.received,
        "model": "small",
        "served_by": "small",
        "status": "ok",
        "prompt": SECRET_PROMPT,
        "input_tokens": 100,
        "cached_tokens": 40,
        "output_tokens": 20,
        "cost_usd": 0.0004,
        "latency_s": 0.25,
    }
    for name, value in changes.items():
        if name in fields or name in Outcome.__dataclass_fields__:
            fields[name] = value
        if name in vars(call):
            setattr(call, name, value)
    return call, Outcome(**fields)


def telemetry(tree: dict[str, Any] | None = None, **options: Any) -> Telemetry:
    """Return a telemetry over `POOL`."""
    settings = TelemetrySettings.model_validate(tree or {})
    return Telemetry(settings, POOL, version="1.2.3", artifact_id="a1", **options)


def samples(given: Telemetry) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return what is exported: (name without prefix, labels) -> value."""
    text = given.exposition().body.decode()
    return {
        (sample.name.removeprefix("llmrouter_"), frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(given: Telemetry, name: str, **labels: str) -> float | None:
    """Return one sample, None where there is none. A trailing underscore is taken off label names."""
    return samples(given).get((name, frozenset((key.rstrip("_"), text) for key, text in labels.items())))
