"""Requests of one batch are decided each in its lane, and a canary that fails harms none of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from gateway_process import MODELS, SUMS, make_artifact

from llmrouter import artifact
from llmrouter.engine import RoutingEngine
from llmrouter.exceptions import EncoderError, LLMRouterError
from llmrouter.policy import policy_from_config
from llmrouter.types import Decision, ModelCard, Outcome, Price, RoutingRequest
from service.learning.canary_lanes import Lanes, problems_of
from service.settings import Settings


class FakeTrial:
    """Takes those whose id is even."""

    def __init__(self) -> None:
        self.seen: list[Outcome] = []

    def takes(self, request: RoutingRequest) -> bool:
        return int((request.request_id or "r0")[1:]) % 2 == 0

    def observe(self, outcome: Outcome) -> None:
        self.seen.append(outcome)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_artifact(tmp_path_factory.mktemp("artifacts"))


CARDS = tuple(ModelCard(name, Price(1.0, 2.0)) for name in MODELS)


def engine(folder: Path, name: str, **policy: Any) -> RoutingEngine:
    made = artifact.load(folder, CARDS, policy=policy_from_config(policy) if policy else None)
    made.artifact_id = name
    return made


def lanes(folder: Path, **policy: Any) -> Lanes:
    live = engine(folder, "live", **policy)
    made = Lanes(lambda: live)
    made.canary, made.trial = engine(folder, "new", **policy), FakeTrial()  # type: ignore[assignment]
    return made


def requests(n: int) -> list[RoutingRequest]:
    return [RoutingRequest(SUMS[i % len(SUMS)], prompt_tokens=8, request_id=f"r{i}") for i in range(n)]


def test_each_is_decided_in_its_lane(folder: Path) -> None:
    for one, made in zip(requests(10), lanes(folder).route_many(requests(10), neighbours=2), strict=True):
        assert isinstance(made, Decision)
        even = int((one.request_id or "")[1:]) % 2 == 0
        assert (made.lane, made.artifact_id) == (("canary", "new") if even else ("", "live"))
        assert len(made.neighbours) == 2


@pytest.mark.parametrize("size", [1, 3, 7])
def test_who_else_is_in_the_batch_makes_no_difference(folder: Path, size: int) -> None:
    policy = {"kind": "explore", "share": 0.4, "base": {"kind": "utility"}}
    asked = requests(60)
    expected = dict(zip(asked, lanes(folder, **policy).route_many(asked), strict=True))
    assert any(isinstance(made, Decision) and made.explored for made in expected.values())
    other = lanes(folder, **policy)
    backwards = asked[::-1]
    found: dict[RoutingRequest, Decision | LLMRouterError] = {}
    for start in range(0, len(asked), size):
        batch = backwards[start : start + size]
        found |= dict(zip(batch, other.route_many(batch), strict=True))
    assert found == expected


@pytest.mark.parametrize("failure", ["raises", "returns"])
def test_what_the_canary_cannot_decide_the_live_engine_does(folder: Path, failure: str) -> None:
    made = lanes(folder)

    def fails(requests: Sequence[RoutingRequest], *, neighbours: int = 0) -> list[Decision | LLMRouterError]:
        if failure == "raises":
            raise RuntimeError("a fault")
        return [EncoderError("no")] * len(requests)

    made.canary.route_many = fails  # type: ignore[union-attr,method-assign]
    decisions = made.route_many(requests(6))
    assert [d.artifact_id for d in decisions if isinstance(d, Decision)] == ["live"] * 6
    assert made.canary_failures == (1 if failure == "raises" else 0)


def test_the_check_of_a_configuration_names_what_cannot_be_loaded(folder: Path, tmp_path: Path) -> None:
    def settings(canary: Path, shadow: Path) -> Settings:
        learning = {"canary": {"artifact": canary}, "shadow": {"artifact": shadow}}
        pool = [{"name": name, "backend": "scripted", "price": {"input": 1, "output": 2}} for name in MODELS]
        return Settings.model_validate({"pool": pool, "learning": learning})

    live = engine(folder, "live")
    assert problems_of(settings(folder, folder), live) == []
    first, second = problems_of(settings(tmp_path, tmp_path / "nowhere"), live)
    assert first.startswith(f"learning.canary.artifact: {tmp_path} is not an artifact")
    assert second.startswith("learning.shadow.artifact: ")


def test_without_canary_and_shadow_there_are_no_lanes() -> None:
    settings = Settings.model_validate(
        {"pool": [{"name": "a", "backend": "scripted", "price": {"input": 1, "output": 1}}]}
    )
    nothing: Any = None
    built = Lanes.build(settings, live=nothing, policy=nothing, shadow_policy=nothing, with_log=nothing, link=None)
    assert built is None
