"""The section `resilience`, and what is built from it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from llmrouter.exceptions import BackendConnectError, BackendStatusError, ConfigError
from llmrouter.pool import FailureClass, ScriptedBackend, Timeouts, failure_class
from service.errors import APIError
from service.resilience.settings import DeploymentSettings, ResilienceSettings
from service.resilience.state import LocalLimitError, Resilience


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def resilience(**settings: Any) -> Resilience:
    return Resilience(ResilienceSettings.model_validate(settings), ("a", "b"), clock=Clock())


def test_the_section_is_cheap_to_import() -> None:
    script = (
        "import sys, service.resilience.settings\n"
        "print(sorted({'fastapi', 'aiohttp', 'numpy', 'llmrouter.pool'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_every_class_falls_back_by_default_but_the_requests_own() -> None:
    names = ResilienceSettings().fallback_on
    assert {FailureClass(name) for name in names} == set(FailureClass) - {FailureClass.REQUEST}


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_attempts": 0},
        {"fallback_on": ["request"]},
        {"hedge": {"after": "p100"}},
        {"hedge": {"after": "95"}},
        {"hedge": {"max_share": 1.5}},
        {"hedge": {"models": "third"}},
        {"retry_budget": {"ratio": -1}},
        {"breaker": {"failure_share": 0}},
        {"retries": 3},
    ],
)
def test_wrong_values_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ResilienceSettings.model_validate(wrong)


def test_the_wait_is_a_quantile() -> None:
    assert ResilienceSettings().hedge.quantile == 0.95
    assert ResilienceSettings.model_validate({"hedge": {"after": "p50"}}).hedge.quantile == 0.5


def test_keys_of_deployments_are_not_shown() -> None:
    deployment = DeploymentSettings.model_validate(
        {"api_key": "sk-secret", "headers": {"x": "hidden-one"}, "options": {"token": "hidden-two"}}
    )
    assert "sk-secret" not in repr(deployment)
    assert "hidden" not in repr(deployment)


def test_the_walk_is_as_configured() -> None:
    walk = resilience(max_attempts=2, fallback_on=["timeout"]).walk(["a", "b"], {})
    assert walk.next() == "a"
    walk.failed("a", BackendConnectError("x"))
    assert walk.next() is None


def test_hedging_is_off_by_default() -> None:
    assert resilience().hedger is None
    assert resilience(hedge={"enabled": True}).hedger is not None


async def test_deployments_are_balanced_and_named() -> None:
    state = resilience()
    section = [DeploymentSettings(), DeploymentSettings(name="west", weight=3.0)]
    backend = state.balanced("m", [(one, ScriptedBackend("m", reply="x")) for one in section])
    assert [(one.name, one.weight) for one in backend.deployments] == [("1", 1.0), ("west", 3.0)]
    state.deployment_cooldowns.failed("m/1", BackendStatusError("x", status=429, body=b""))
    answer = await backend.complete({"messages": []}, timeouts=Timeouts())
    assert answer.headers["x-llmrouter-deployment"] == "west"
    with pytest.raises(ConfigError, match=r"pool\.m\.deployments"):
        state.balanced("m", [(DeploymentSettings(name="2"), backend), (DeploymentSettings(), backend)])


def test_a_limit_of_ours_is_a_rate_limit() -> None:
    refused = APIError("m is at its limit", status=429, type="requests", headers={"retry-after": "2"})
    error = LocalLimitError.of(refused, model="m")
    assert failure_class(error) is FailureClass.RATE_LIMIT
    assert (error.model, error.status, error.headers["retry-after"]) == ("m", 429, "2")
    assert b"m is at its limit" in error.body


def test_states_for_metrics() -> None:
    state = resilience(retry_budget={"ratio": 0, "min_per_s": 0})
    for _ in range(3):
        state.cooldowns.failed("a", BackendConnectError("x"))
    state.retry_budget.take()
    assert state.breakers() == {"a": "open", "b": "closed"}
    assert state.cooling_s() == {"a": 10.0, "b": 0.0}
    assert state.state()["retries_refused"] == 1
