"""Every metric that the gateway exports, with its labels and what it means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PREFIX = "llmrouter_"

Kind = Literal["counter", "gauge", "histogram"]
Merge = Literal["sum", "max", "min"]


@dataclass(frozen=True, slots=True)
class Family:
    """A metric.

    Attributes
    ----------
    name : str
        Without the prefix; counters end in ``_total``.
    help : str
        One sentence.
    labels : tuple of str
        Label names. Their values come from bounded sets only.
    kind : {"counter", "gauge", "histogram"}
        As in Prometheus.
    buckets : tuple of float
        Upper bounds of a histogram, ascending, without infinity.
    merge : {"sum", "max", "min"}
        How the workers' values of a gauge become one.
    """

    name: str
    help: str
    labels: tuple[str, ...] = ()
    kind: Kind = "counter"
    buckets: tuple[float, ...] = ()
    merge: Merge = "sum"

    @property
    def width(self) -> int:
        """Numbers that one series takes: 1, or a histogram's buckets (with infinity) and its sum."""
        return len(self.buckets) + 2 if self.kind == "histogram" else 1


_LONG = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0)
_FINE = (
    0.0001,
    0.0002,
    0.0003,
    0.0005,
    0.00075,
    0.001,
    0.0015,
    0.002,
    0.003,
    0.005,
    0.0075,
    0.01,
    0.02,
    0.05,
    0.1,
    0.2,
    0.5,
    1.0,
)
_STAGES = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1.0, 10.0, 60.0)
_SHARES = tuple(round(0.05 * step, 2) for step in range(1, 20))

REQUESTS = Family("requests_total", "Requests that ended.", ("endpoint", "model", "status", "stream"))
REQUEST_DURATION = Family(
    "request_duration_seconds", "From the request's arrival to the answer's end.", ("endpoint",), "histogram", _LONG
)
FIRST_TOKEN = Family(
    "time_to_first_token_seconds", "From the request's arrival to the first token.", ("model",), "histogram", _LONG
)
OVERHEAD = Family(
    "overhead_seconds", "Time in the gateway itself, waiting for upstreams left out.", (), "histogram", _FINE
)
STAGE = Family("stage_seconds", "Time of one stage of a request.", ("stage",), "histogram", _STAGES)
ATTEMPTS = Family("upstream_attempts_total", "Calls of upstreams, by how they ended.", ("model", "result"))
FALLBACKS = Family("fallbacks_total", "Moves from a model that failed to the next.", ("from", "to", "reason"))
HEDGES = Family("hedges_total", "Second attempts started because the first was slow.")
HEDGES_WON = Family("hedges_won_total", "Second attempts that answered first.")
HEDGES_REFUSED = Family("hedges_refused_total", "Second attempts that the hedging budget refused.")
RETRIES = Family("retries_total", "Attempts beyond the first that the retry budget allowed.")
RETRIES_REFUSED = Family("retries_refused_total", "Attempts beyond the first that the retry budget refused.")
TOKENS = Family(
    "tokens_total",
    "Tokens as providers counted them; all kinds but input and output are parts of those two. or of cached ones.",
    ("model", "kind"),
)
COST = Family("cost_usd_total", "US dollars spent, by what for.", ("model", "kind"))
DEAREST_COST = Family(
    "dearest_expected_cost_usd_total",
    "What routed requests were expected to cost with the dearest eligible model; an estimate.",
)
ROUTED_COST = Family(
    "routed_cost_usd_total", "What the requests counted in dearest_expected_cost_usd_total cost in fact."
)
DECISIONS = Family("decisions_total", "Decisions, by the model chosen.", ("policy", "model"))
ROUTE_PICKS = Family(
    "route_picks_total",
    "Routed requests by the route they were found on, and by result: picked, other, or why nobody could pick.",
    ("route", "result"),
)
EXPECTED_QUALITY = Family(
    "expected_quality", "Expected quality of the chosen model at decision time.", (), "histogram", _SHARES
)
CACHE_REQUESTS = Family("cache_requests_total", "Requests, by what the response cache had.", ("result",))
REFUSALS = Family("limit_refusals_total", "Requests refused by a limit or a budget.", ("kind", "limit"))
HTTP_ERRORS = Family("http_errors_total", "Requests refused or failed before any upstream.", ("endpoint", "code"))
RELOADS = Family("config_reloads_total", "Attempts to take in a changed configuration.", ("result",))

IN_FLIGHT = Family("in_flight", "Requests under way.", kind="gauge")
ADMISSION_IN_FLIGHT = Family("admission_in_flight", "Requests that admission control let in.", kind="gauge")
ADMISSION_QUEUED = Family("admission_queued", "Requests waiting to be let in.", kind="gauge")
ADMISSION_REFUSED = Family("admission_refused_total", "Requests turned away because the gateway is full.")
ADMISSION_TIMED_OUT = Family("admission_timed_out_total", "Requests that waited too long to be let in.")
REDIS_UP = Family("redis_up", "1 while Redis answers in time.", kind="gauge", merge="min")
REDIS_FAILURES = Family("redis_failures_total", "Calls of Redis that failed or took too long.")
LIMITS_DEGRADED = Family(
    "limits_degraded", "1 while limits are enforced by local shares, without Redis.", kind="gauge", merge="max"
)
LIMITS_FALLBACKS = Family("limits_fallbacks_total", "Requests whose limits were enforced without Redis.")
COOLING = Family("cooling", "1 while a model cools down after failures.", ("model",), "gauge", merge="max")
BREAKER_STATE = Family(
    "breaker_state", "Circuit breaker: 0 closed, 1 half open, 2 open.", ("model",), "gauge", merge="max"
)
LOG_QUEUED = Family("outcome_log_queued", "Outcomes waiting to be stored.", kind="gauge")
LOG_FAILING = Family("outcome_log_failing", "1 while the outcome store cannot write.", kind="gauge", merge="max")
LOG_WRITTEN = Family("outcome_log_written_total", "Outcomes stored.")
LOG_SPOOLED = Family("outcome_log_spooled_total", "Outcomes put into the spool file.")
LOG_REJECTED = Family("outcome_log_rejected_total", "Outcomes that the store refused as wrong.")
LOG_LOST = Family("outcome_log_lost_total", "Outcomes lost because store, spool and memory failed.")
CACHE_ENTRIES = Family("cache_entries", "Answers in the response cache.", kind="gauge")
CACHE_BYTES = Family("cache_bytes", "Size of the answers in the response cache.", kind="gauge")
CACHE_EVICTIONS = Family("cache_evictions_total", "Answers dropped from the response cache to make room.")
EXPLORED = Family("explored_total", "Requests whose model chance chose, to learn from it.", ("model",))
LANES = Family("lane_requests_total", "Routed requests, by who decided: live or canary.", ("lane",))
EXPLORE_EXTRA = Family("explore_extra_usd_total", "Expected cost of explored models beyond the policy's own choice.")
SHADOW_DECISIONS = Family("shadow_decisions_total", "Requests that the shadow decided too.")
SHADOW_DISAGREEMENTS = Family("shadow_disagreements_total", "Requests for which it would have chosen another model.")
SHADOW_FAILURES = Family("shadow_failures_total", "Requests that the shadow could not decide.")
SHADOW_SKIPPED = Family("shadow_skipped_total", "Requests that the shadow left out because it was behind.")
SHADOW_QUALITY = Family(
    "shadow_quality_difference", "Quality that the shadow expects to gain a request, mean.", kind="gauge", merge="max"
)
SHADOW_COST = Family(
    "shadow_cost_difference_usd",
    "Dollars that the shadow expects to add a request, mean.",
    kind="gauge",
    merge="max",
)
CANARY_RUNNING = Family("canary_running", "1 while a canary decides for its share.", kind="gauge", merge="max")
CANARY_ROLLED_BACK = Family("canary_rolled_back", "1 where the canary was taken back.", kind="gauge", merge="max")
CANARY_FAILURES = Family("canary_failures_total", "Batches that the canary could not decide; the live router did.")
ONLINE_EVENTS = Family("online_events_total", "Judgements of the log that online adaptation has read.")
ONLINE_LEARNED = Family("online_learned_total", "Judgements of these that it learned from.")
ONLINE_BEHIND = Family(
    "online_behind_seconds", "Seconds since online adaptation was up to date.", kind="gauge", merge="max"
)
ONLINE_SWAPS = Family("online_swaps_total", "Times that an adapted router took the place of the one before.")
DRIFT_ALARMS = Family("drift_alarms_total", "Times that a model was found to be worse, or better, than expected.")
DRIFTING = Family(
    "drifting_models", "Models that are worse, or better, than the router expects.", kind="gauge", merge="max"
)
CALIBRATION_ERROR = Family(
    "calibration_error",
    "Expected calibration error of the router over a model's newest judged answers.",
    ("model",),
    "gauge",
    merge="max",
)
LOAD_AGE = Family("load_age_seconds", "Seconds since an engine's load was last read.", ("model",), "gauge", merge="max")
LOAD_FAILURES = Family("load_failures_total", "Readings of an engine's load that failed.", ("model",))
LOAD_IN_USE = Family(
    "load_price_in_use",
    "1 while decisions follow the price that the engine reports, 0 while they follow the configured one.",
    ("model",),
    "gauge",
    merge="min",
)
SIGNALS = Family(
    "signals_total", "Judgements of answers by the gateway itself, by what became of them.", ("kind", "result")
)
UNCOUNTED = Family("telemetry_errors_total", "Requests that metrics or traces failed to take note of.")

FAMILIES: dict[str, Family] = {value.name: value for value in list(globals().values()) if isinstance(value, Family)}
"""All of them, by name."""
