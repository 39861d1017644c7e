"""Metrics, traces and access lines of one gateway process: what the rest of the gateway calls."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.errors import of_library
from service.telemetry.exposition import Exporter, Exposition
from service.telemetry.logs import log_finished, log_refused
from service.telemetry.metrics import Metrics
from service.telemetry.settings import TelemetrySettings
from service.telemetry.tallies import Tallies
from service.telemetry.trace_context import TraceContext
from service.telemetry.watched import Watched

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

    from llmrouter.exceptions import LLMRouterError
    from llmrouter.types import Outcome
    from service.call import Call
    from service.telemetry.traces import Traces

logger = logging.getLogger(__name__)

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable with the folder in which the workers of one gateway share their metrics; set by the launcher."""

_PUBLISH_S = 2.0
_INTERNAL = 500


class Telemetry:
    """Take note of requests.

    No method raises because of what it is told: a request is worth more than its traces. All but `exposition` and
    `watch` are called from the event loop's thread.

    Parameters
    ----------
    settings : TelemetrySettings
        What is wanted.
    pool : iterable of str
        Names of the models; others are never a label.
    version, artifact_id : str
        What runs.
    base_urls : mapping of str to (str or None), optional
        Pool name -> where its upstream is, for traces.
    folder : Path, optional
        See `FOLDER_VARIABLE`, which is the default.
    exporter : SpanExporter, optional
        Takes the spans instead of the configured collector.

    Raises
    ------
    MissingExtraError
        If traces are configured and OpenTelemetry is not installed.
    """

    def __init__(
        self,
        settings: TelemetrySettings,
        pool: Iterable[str],
        *,
        version: str,
        artifact_id: str,
        base_urls: Mapping[str, str | None] | None = None,
        folder: Path | None = None,
        exporter: SpanExporter | None = None,
    ) -> None:
        self.settings = settings
        self._version = version
        self._artifact_id = artifact_id
        shared = os.environ.get(FOLDER_VARIABLE)
        self._tallies = Tallies(folder or (Path(shared) if shared else None))
        self._metrics = Metrics(self._tallies, pool)
        self._watched = Watched(self._tallies)
        self._exporter = Exporter(self._tallies, refresh=self._refresh, build=self._build)
        self._counts = settings.metrics.enabled
        self._access = settings.logs.access
        self._traces: Traces | None = None
        if settings.traces.otlp_endpoint is not None or exporter is not None:
            from service.telemetry.traces import Traces

            self._traces = Traces(settings.traces, version=version, base_urls=base_urls or {}, exporter=exporter)
        self._stopping = threading.Event()
        self._refreshing = threading.Lock()
        self._thread: threading.Thread | None = None
        self._complained = False

    def start(self) -> None:
        """Let the other workers, where there are some, see this one's state."""
        self._refresh()
        if self._tallies.folder is not None and self._thread is None:
            self._thread = threading.Thread(target=self._publish, name="telemetry", daemon=True)
            self._thread.start()

    async def aclose(self) -> None:
        """Close, without holding up the event loop; see `close`."""
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Send the spans that wait (for at most some seconds), and leave the counters to the other workers."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        self._refresh()
        self._tallies.close()
        if self._traces is not None:
            self._traces.close()

    def begin(self, traceparent: str | None) -> TraceContext | None:
        """Return the identity of a request's trace, to be kept as `Call.trace`; None where traces are off."""
        return None if self._traces is None else self._traces.begin(traceparent)

    def upstream_headers(self, trace: TraceContext | None) -> dict[str, str]:
        """Return what upstreams are to be sent beside their request: ``traceparent`` where that is configured."""
        if trace is None or not self.settings.traces.propagate:
            return {}
        return {"traceparent": trace.header}

    def finished(self, call: Call, outcome: Outcome) -> None:
        """Take note of a request that was decided and has ended, whatever its end; called once for each.

        Calls of upstreams, fallbacks and hedges are counted from the call: `attempt` is for others only.
        """
        try:
            if self._counts:
                self._metrics.finished(call, outcome)
            if self._access or self._traces is not None:
                _after_this_step(self._tell, call, outcome)
        except Exception:
            self._failed()

    def refused(self, endpoint: str, error: LLMRouterError) -> None:
        """Take note of a request that was answered with an error before any model was asked.

        A refusal by a limit (an error with ``kind`` and ``dimension``) is counted as such too.

        Parameters
        ----------
        endpoint : str
            Its name.
        error : LLMRouterError
            What it was answered with.
        """
        answer = of_library(error)
        status, code = (_INTERNAL, None) if answer is None else (answer.status, answer.body["error"]["code"])
        if self._counts:
            self._metrics.refused(endpoint, status)
            kind, limit = getattr(error, "kind", None), getattr(error, "dimension", None)
            if isinstance(kind, str) and isinstance(limit, str):
                self._metrics.limited(kind, limit)
        if self._access:
            log_refused(endpoint, status, code)

    def limited(self, kind: str, limit: str) -> None:
        """Count a refusal by a limit that ended no request, such as a model's own: the next model is tried.

        Parameters
        ----------
        kind : str
            Whose limit: ``gateway``, ``team``, ``key`` or ``model``.
        limit : str
            Which: ``requests``, ``tokens``, ``concurrency``, ``budget`` or ``reserved``.
        """
        self._metrics.limited(kind, limit)

    def signal(self, kind: str, result: str) -> None:
        """Count a judgement of an answer by the gateway itself.

        Parameters
        ----------
        kind : str
            ``verifier``, ``judge``, ``implicit`` or ``feedback``.
        result : str
            ``stored``, ``skipped`` (no text to judge), ``failed``, ``dropped`` (the queue is full), ``budget`` (it is
            used up), ``unclear`` (the judge's reply is no verdict) or ``refused``.
        """
        self._metrics.signal(kind, result)

    def picked(self, route: str, result: str) -> None:
        """Take note of the route that a request was found to be on.

        Parameters
        ----------
        route : str
            A configured one, or ``other``.
        result : str
            ``picked``, ``other``, or why there was no pick, in one word.
        """
        self._metrics.picked(route, result)

    def spent(self, model: str, kind: str, cost_usd: float) -> None:
        """Count US dollars that were spent on a model after the request had ended, e.g. for ``judge``."""
        self._metrics.spent(model, kind, cost_usd)

    def attempt(self, model: str, result: str) -> None:
        """Count a call of an upstream that belongs to no finished request, such as a probe."""
        self._metrics.attempt(model, result)

    def reloaded(
        self,
        *,
        ok: bool,
        pool: Iterable[str] | None = None,
        artifact_id: str | None = None,
        base_urls: Mapping[str, str | None] | None = None,
    ) -> None:
        """Take note of an attempt to take in a changed configuration, and of what runs since."""
        self._metrics.reloaded(ok=ok)
        if pool is not None:
            self._metrics.pool = frozenset(pool)
        if artifact_id is not None:
            self._artifact_id = artifact_id
        if base_urls is not None and self._traces is not None:
            self._traces.place(base_urls)

    def watch(self, name: str, read: Callable[[], Any]) -> None:
        """Read a state whenever metrics are asked for; replaces what was watched under that name.

        Parameters
        ----------
        name : str
            ``log`` (`WriterState`), ``admission`` (`AdmissionState`), ``redis`` (`RedisState`), ``limits``
            (`Limiter.state`), ``resilience`` (`Resilience.state`), ``cache`` (entries, bytes, evictions), ``cooldowns``
            (model -> seconds left), ``breakers`` (model -> closed, half_open or open), ``load_ages``,
            ``load_failures``, ``load_in_use`` (`Loads`: model -> a number) or ``in_flight`` (a number).
        read : callable
            Returns the state: a mapping or a dataclass. Called from other threads too, and must not wait.

        Raises
        ------
        ValueError
            If `name` is none of them.
        """
        self._watched.watch(name, read)

    def exposition(self, accept: str = "") -> Exposition:
        """Return the metrics of all workers as Prometheus reads them; takes milliseconds, so call it in a thread.

        Parameters
        ----------
        accept : str
            The client's ``Accept`` header: Prometheus' text format, or OpenMetrics where it is asked for.
        """
        return self._exporter.text(accept)

    def _tell(self, call: Call, outcome: Outcome) -> None:
        try:
            if self._access:
                log_finished(call, outcome, prompts=self.settings.logs.prompts)
            if self._traces is not None:
                context: TraceContext | None = getattr(call, "trace", None)
                if context is None:
                    context = self._traces.begin(None)
                if context.sampled:
                    self._traces.finished(call, outcome, context)
        except Exception:
            self._failed()

    def _failed(self) -> None:
        self._metrics.uncounted()
        if not self._complained:
            self._complained = True
            logger.exception("a request could not be taken note of; further ones are counted, not logged")

    def _refresh(self) -> None:
        with self._refreshing:
            self._watched.refresh()
            self._tallies.sign_of_life()

    def _publish(self) -> None:
        while not self._stopping.wait(_PUBLISH_S):
            self._refresh()

    def _build(self) -> dict[str, str]:
        return {"version": self._version, "artifact": self._artifact_id}


def _after_this_step(job: Callable[[Call, Outcome], None], call: Call, outcome: Outcome) -> None:
    """Run `job` when the request's task next waits, which is after its last bytes were handed over."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        job(call, outcome)
    else:
        loop.call_soon(job, call, outcome)
