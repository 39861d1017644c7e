"""What finished requests add to the metrics."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from telemetry_calls import SECRET_PROMPT, finished, samples, telemetry, value

from llmrouter.exceptions import BackendConnectError, BackendStatusError, BackendTimeoutError, UnknownModelError
from llmrouter.pool import FailedAttempt
from llmrouter.types import Decision, Outcome, RankedModel
from service.errors import APIError
from service.resilience.state import LocalLimitError
from service.telemetry.catalogue import FAMILIES
from service.telemetry.telemetry import Telemetry


def test_an_ordinary_request_is_counted_everywhere() -> None:
    told = telemetry()
    told.finished(*finished())
    assert value(told, "requests_total", endpoint="chat", model="small", status="ok", stream="false") == 1
    assert value(told, "request_duration_seconds_sum", endpoint="chat") == pytest.approx(0.25)
    assert value(told, "upstream_attempts_total", model="small", result="ok") == 1
    assert value(told, "tokens_total", model="small", kind="input") == 100
    assert value(told, "tokens_total", model="small", kind="cached") == 40
    assert value(told, "cost_usd_total", model="small", kind="answer") == pytest.approx(0.0004)
    assert value(told, "decisions_total", policy="utility", model="small") == 1
    assert value(told, "expected_quality_sum") == pytest.approx(0.5)
    assert value(told, "stage_seconds_sum", stage="upstream") == pytest.approx(0.2)
    assert value(told, "overhead_seconds_sum") == pytest.approx(0.00135)


def test_a_saving_is_the_difference_of_two_counters() -> None:
    told = telemetry()
    told.finished(*finished(cost_usd=0.0004))
    told.finished(*finished(cost_usd=0.005))  # dearer than the dearest was expected to be: the saving shrinks
    assert value(told, "dearest_expected_cost_usd_total") == pytest.approx(0.006)
    assert value(told, "routed_cost_usd_total") == pytest.approx(0.0054)


def test_histograms_put_a_bound_into_its_own_bucket() -> None:
    told = telemetry()
    told.finished(*finished(latency_s=0.25))
    assert value(told, "request_duration_seconds_bucket", endpoint="chat", le="0.1") == 0
    assert value(told, "request_duration_seconds_bucket", endpoint="chat", le="0.25") == 1
    assert value(told, "request_duration_seconds_bucket", endpoint="chat", le="+Inf") == 1


def test_failures_are_attempts_and_fallbacks() -> None:
    told = telemetry()
    failures = [
        FailedAttempt("large", BackendStatusError("x", status=429, body=b"")),
        FailedAttempt("middle", BackendTimeoutError("x")),
        FailedAttempt("large", LocalLimitError("x", status=429, body=b"")),
    ]
    told.finished(*finished(failures=failures))
    assert value(told, "upstream_attempts_total", model="large", result="local_limit") == 1
    assert value(told, "upstream_attempts_total", model="large", result="rate_limit") == 1
    assert value(told, "upstream_attempts_total", model="middle", result="timeout") == 1
    assert value(told, "upstream_attempts_total", model="small", result="ok") == 1
    assert value(told, "fallbacks_total", from_="large", to="middle", reason="rate_limit") == 1
    assert value(told, "fallbacks_total", from_="middle", to="large", reason="timeout") == 1


def test_a_request_that_nobody_answered_falls_back_to_none() -> None:
    told = telemetry()
    failures = [FailedAttempt("small", BackendConnectError("x"))]
    told.finished(*finished(failures=failures, served_by=None, status="error", cost_usd=None))
    assert value(told, "requests_total", endpoint="chat", model="small", status="error", stream="false") == 1
    assert value(told, "fallbacks_total", from_="small", to="none", reason="connection") == 1
    assert value(told, "upstream_attempts_total", model="small", result="ok") is None


def test_a_call_that_was_given_up_for_another_is_an_attempt_but_no_failure() -> None:
    told = telemetry()
    told.finished(*finished(hedges=["small"], abandoned=[("large", 0.3)]))
    assert value(told, "upstream_attempts_total", model="large", result="abandoned") == 1


def test_an_answer_from_the_cache_is_no_call_of_an_upstream() -> None:
    told = telemetry()
    told.finished(*finished(cache="hit", cost_usd=0.0))
    assert value(told, "cache_requests_total", result="hit") == 1
    assert value(told, "decisions_total", policy="utility", model="small") is None
    assert value(told, "upstream_attempts_total", model="small", result="ok") is None


def test_extra_costs_are_told_apart() -> None:
    told = telemetry()
    told.finished(*finished(extra_cost={"hedge": 0.001, "retry": 0.002, "invented": 0.5}))
    assert value(told, "cost_usd_total", model="small", kind="hedge") == pytest.approx(0.001)
    assert value(told, "cost_usd_total", model="small", kind="other") == pytest.approx(0.5)


def test_a_pinned_model_has_no_expected_quality_and_saves_nothing() -> None:
    told = telemetry()
    pinned = Decision(ranking=(RankedModel("small", math.nan, math.nan, math.nan),), policy="pinned")
    told.finished(*finished(decision=pinned))
    assert value(told, "decisions_total", policy="pinned", model="small") == 1
    assert value(told, "expected_quality_count") == 0
    assert value(told, "dearest_expected_cost_usd_total") == 0


def test_a_model_that_was_ruled_out_is_no_yardstick_of_savings() -> None:
    told = telemetry()
    ruled_out = RankedModel("large", 0.9, 0.1, 5.0, eligible=False, reason="too small")
    told.finished(*finished(decision=Decision(ranking=(RankedModel("small", 0.5, 0.1, 0.001), ruled_out))))
    assert value(told, "dearest_expected_cost_usd_total") == pytest.approx(0.001)


def _tell_of(told: Telemetry, name: str) -> None:
    """Put `name` wherever a client or an upstream could put it."""
    made_up = Decision(ranking=(RankedModel(name, 0.5, 0.1, 0.1),), policy="utility")
    told.finished(
        *finished(
            served_by=name,
            decision=made_up,
            endpoint=name,
            status=name,
            cache=name,
            hedges=[name],
            abandoned=[(name, 1.0)],
            stages={name: 0.1},
            extra_cost={name: 0.1},
            usage={name: 1},
            failures=[FailedAttempt(name, BackendConnectError(name))],
        )
    )
    told.attempt(name, name)
    told.limited(name, name)
    told.refused(name, APIError(name, status=418))


@settings(max_examples=25, deadline=None)
@given(names=st.lists(st.text(max_size=30).map("!".__add__), min_size=2, max_size=5, unique=True))
def test_unknown_names_never_grow_the_metrics(names: list[str]) -> None:
    told = telemetry()
    _tell_of(told, names[0])
    before = set(samples(told))
    for name in names[1:]:
        _tell_of(told, name)
    assert set(samples(told)) == before
    assert value(told, "telemetry_errors_total") == 0
    assert not any(text.startswith("!") for _, labels in before for _, text in labels)


def test_settings_of_a_policy_are_no_label() -> None:
    told = telemetry()
    for i in range(20):
        ranking = (RankedModel("small", 0.5, 0.1, 0.1),)
        told.finished(*finished(decision=Decision(ranking=ranking, policy=f"utility(0.{i})")))
    assert value(told, "decisions_total", policy="utility", model="small") == 20


def test_policies_that_make_up_names_are_bounded() -> None:
    told = telemetry()
    for i in range(200):
        told.finished(*finished(decision=Decision(ranking=(RankedModel("small", 0.5, 0.1, 0.1),), policy=f"p{i}")))
    assert len([key for key in samples(told) if key[0] == "decisions_total"]) <= 51


@pytest.mark.parametrize(
    "missing",
    ["endpoint", "decision", "stages", "upstream_s", "failures", "cache", "hedges", "abandoned", "extra_cost", "trace"],
)
def test_a_call_may_lack_fields(missing: str) -> None:
    told = telemetry()
    call, outcome = finished()
    delattr(call, missing)
    told.finished(call, outcome)
    assert value(told, "telemetry_errors_total") == 0
    assert sum(number for (name, _), number in samples(told).items() if name == "requests_total") == 1


def test_an_outcome_may_say_nothing() -> None:
    told = telemetry()
    chat = SimpleNamespace(stream=True, model="auto", body={})
    told.finished(SimpleNamespace(chat=chat), Outcome("r", 0.0, "small"))  # type: ignore[arg-type]
    assert value(told, "requests_total", endpoint="other", model="none", status="ok", stream="true") == 1


def test_a_call_that_cannot_be_read_is_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    told = telemetry()
    _, outcome = finished()
    told.finished(None, outcome)  # type: ignore[arg-type]
    told.finished(None, outcome)  # type: ignore[arg-type]
    assert value(told, "telemetry_errors_total") == 2
    assert len([record for record in caplog.records if "taken note of" in record.message]) == 1


def test_refusals_are_counted_by_code_and_limits_by_kind() -> None:
    class LimitedError(APIError):
        kind, dimension = "key", "requests"

    told = telemetry()
    told.refused("chat", UnknownModelError("x", known=[]))
    told.refused("chat", LimitedError("slow down", status=429))
    told.limited("model", "tokens")
    assert value(told, "http_errors_total", endpoint="chat", code="404") == 1
    assert value(told, "http_errors_total", endpoint="chat", code="429") == 1
    assert value(told, "limit_refusals_total", kind="key", limit="requests") == 1
    assert value(told, "limit_refusals_total", kind="model", limit="tokens") == 1
    assert value(told, "requests_total", endpoint="chat", model="none", status="refused", stream="false") == 2


def test_audio_and_stored_tokens_come_from_the_providers_own_usage() -> None:
    told = telemetry()
    usage = {
        "prompt_tokens_details": {"audio_tokens": 7},
        "completion_tokens_details": {"audio_tokens": 3},
        "cache_creation_input_tokens": 11,
    }
    told.finished(*finished(usage=usage))
    assert value(told, "tokens_total", model="small", kind="input_audio") == 7
    assert value(told, "tokens_total", model="small", kind="output_audio") == 3
    assert value(told, "tokens_total", model="small", kind="cache_write") == 11


def test_hostile_usage_is_left_out() -> None:
    told = telemetry()
    told.finished(*finished(usage={"prompt_tokens_details": [1], "completion_tokens_details": "x"}))
    assert value(told, "requests_total", endpoint="chat", model="small", status="ok", stream="false") == 1
    assert value(told, "telemetry_errors_total") == 0


def test_reloads_change_the_pool_and_the_artifact() -> None:
    told = telemetry()
    told.reloaded(ok=False)
    told.reloaded(ok=True, pool=("small", "new"), artifact_id="a2")
    told.finished(*finished(served_by="new"))
    assert value(told, "config_reloads_total", result="failed") == 1
    assert value(told, "build_info", version="1.2.3", artifact="a2") == 1
    assert value(told, "requests_total", endpoint="chat", model="new", status="ok", stream="false") == 1


def test_no_prompt_is_exported() -> None:
    told = telemetry()
    told.finished(*finished(error=SECRET_PROMPT))
    assert SECRET_PROMPT not in told.exposition().body.decode()
    assert "ZEBRA" not in told.exposition().body.decode()


def test_openmetrics_is_given_to_who_asks_for_it() -> None:
    told = telemetry()
    told.finished(*finished())
    body, content_type = told.exposition("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert {family.name for family in parse_openmetrics(body.decode())} >= {"llmrouter_requests"}
    assert told.exposition().content_type.startswith("text/plain")


def test_every_metric_keeps_prometheus_naming() -> None:
    for name, family in FAMILIES.items():
        assert name.endswith("_total") == (family.kind == "counter"), name
        assert family.help.endswith("."), name
        assert list(family.buckets) == sorted(set(family.buckets)), name


def test_metrics_that_are_switched_off_count_nothing() -> None:
    told = telemetry({"metrics": {"enabled": False}})
    told.finished(*finished())
    assert not [key for key in samples(told) if key[0] == "requests_total"]
