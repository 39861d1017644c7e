"""The text that Prometheus reads: the numbers of all workers together, and what their processes take."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

from prometheus_client import CollectorRegistry, exposition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from service.telemetry.catalogue import FAMILIES, PREFIX, Family, Merge
from service.telemetry.tallies import Labels, Snapshot, Tallies

_PROCESS_MERGES: dict[str, Merge] = {"process_start_time_seconds": "min", "process_max_fds": "min"}

Numbers = tuple[float, ...]


class Exposition(NamedTuple):
    """What ``GET /metrics`` answers."""

    body: bytes
    content_type: str


class Exporter:
    """Put everything into text.

    Parameters
    ----------
    tallies : Tallies
        The numbers of this process.
    refresh : callable
        Called before they are read.
    build : callable
        Returns the labels of ``build_info``.
    """

    def __init__(self, tallies: Tallies, *, refresh: Callable[[], None], build: Callable[[], dict[str, str]]) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Everything(tallies, refresh, build))

    def text(self, accept: str = "") -> Exposition:
        """Return the metrics in the format that a client's ``Accept`` header asks for."""
        encode, content_type = exposition.choose_encoder(accept)
        return Exposition(encode(self._registry), content_type)


class _Everything(Collector):
    def __init__(self, tallies: Tallies, refresh: Callable[[], None], build: Callable[[], dict[str, str]]) -> None:
        self._tallies = tallies
        self._refresh = refresh
        self._build = build

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        self._refresh()
        merged = self._tallies.snapshot()
        processes = {os.getpid()}
        for number, alive, numbers in self._tallies.others():
            _merge(merged, numbers, gauges=alive)
            if alive:
                processes.add(number)
        build = self._build()
        information = GaugeMetricFamily(f"{PREFIX}build_info", "What runs here.", labels=list(build))
        information.add_metric(list(build.values()), 1)
        yield information
        by_family: dict[str, list[tuple[Labels, Numbers]]] = {}
        for (name, labels), values in merged.items():
            by_family.setdefault(name, []).append((labels, values))
        for name, family in FAMILIES.items():
            if name in by_family or not family.labels:
                yield _metric(family, by_family.get(name, ()))
        yield from _processes(processes)


def _merge(into: Snapshot, numbers: Snapshot, *, gauges: bool) -> None:
    for key, values in numbers.items():
        family = FAMILIES[key[0]]
        if family.kind == "gauge" and not gauges:
            continue
        present = into.get(key)
        into[key] = values if present is None else _combined(family.merge, present, values)


def _combined(merge: Merge, first: Numbers, second: Numbers) -> Numbers:
    if merge == "sum":
        pairs = zip(first, second, strict=True)
        # NaN is a gauge that its worker has no more.
        return tuple(b if math.isnan(a) else a if math.isnan(b) else a + b for a, b in pairs)
    values = [value for value in (*first, *second) if not math.isnan(value)]
    return ((max if merge == "max" else min)(values, default=math.nan),)


def _metric(family: Family, series: Iterable[tuple[Labels, Numbers]]) -> Metric:
    name = PREFIX + family.name
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(name, family.help, labels=family.labels)
        bounds = [*(repr(bound) for bound in family.buckets), "+Inf"]
        # What has no labels is there from the start, so that its first step is seen.
        for labels, numbers in list(series) or ([] if family.labels else [((), (0.0,) * family.width)]):
            total = 0.0
            buckets = []
            for bound, count in zip(bounds, numbers[:-1], strict=True):
                total += count
                buckets.append((bound, total))
            histogram.add_metric(labels, buckets, numbers[-1])
        return histogram
    metric = (CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily)(
        name, family.help, labels=family.labels
    )
    present = {labels: numbers[0] for labels, numbers in series if not math.isnan(numbers[0])}
    if family.kind == "counter" and not family.labels:
        present.setdefault((), 0.0)
    for labels, number in present.items():
        metric.add_metric(labels, number)
    return metric


def _processes(numbers: Iterable[int]) -> Iterator[Metric]:
    """Yield the usual metrics of processes, summed over the workers."""
    found: dict[str, Metric] = {}
    for number in numbers:
        for metric in ProcessCollector(pid=partial(int, number), registry=None).collect():
            known = found.setdefault(metric.name, metric)
            if known is not metric:
                _add(known, metric)
    yield from found.values()


def _add(known: Metric, metric: Metric) -> None:
    for i, (mine, other) in enumerate(zip(known.samples, metric.samples, strict=True)):
        merge = _PROCESS_MERGES.get(metric.name, "sum")
        (value,) = _combined(merge, (mine.value,), (other.value,))
        known.samples[i] = mine._replace(value=value)
