"""The shadow decides with what is known already, is never waited for, and cannot do harm."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from llmrouter.exceptions import EncoderError, LLMRouterError
from llmrouter.types import Decision, FloatArray, RankedModel, RoutingRequest
from service.learning.canary_lanes import Lanes
from service.learning.shadow import Shadow
from service.learning.shadow_settings import ShadowSettings


def decision(*models: str, explored: bool = False, artifact: str = "live") -> Decision:
    ranking = tuple(RankedModel(m, 0.9 - 0.1 * i, 0.1, 1e-4 * (i + 1)) for i, m in enumerate(models))
    return Decision(ranking, artifact_id=artifact, explored=explored)


class FakeEncoder:
    """Counts the texts."""

    fingerprint = "f"

    def __init__(self) -> None:
        self.texts: list[str] = []

    def encode(self, texts: Sequence[str]) -> FloatArray:
        if "unreadable" in texts:
            raise EncoderError("no")
        self.texts += texts
        return np.full((len(texts), 3), float(len(self.texts)))


class FakeEngine:
    """Decides for the models in this order; fails on demand."""

    def __init__(self, *models: str, artifact: str = "live", encoder: FakeEncoder | None = None) -> None:
        self.models, self.artifact_id = models, artifact
        self.encoder = encoder or FakeEncoder()
        self.cards: Any = ()
        self.policy: Any = None
        self.router_name = "knn"
        self.embedded: list[FloatArray] = []
        self.requests: list[RoutingRequest] = []
        self.error: Exception | None = None
        self.gate: threading.Event | None = None

    def route_many(self, requests: Sequence[RoutingRequest], *, neighbours: int = 0) -> list[Decision | LLMRouterError]:
        try:
            embeddings = self.encoder.encode([request.text for request in requests])
        except LLMRouterError as error:
            return [error] * len(requests)
        return self.route_embedded(requests, embeddings, neighbours=neighbours)

    def route_embedded(
        self, requests: Sequence[RoutingRequest], embeddings: FloatArray, *, neighbours: int = 0
    ) -> list[Decision | LLMRouterError]:
        self.embedded += list(embeddings)
        self.requests += requests
        if self.gate is not None:
            self.gate.wait(10)
        if self.error is not None:
            raise self.error
        return [decision(*self.models, artifact=self.artifact_id) for _ in requests]


def request(i: int = 0, **fields: Any) -> RoutingRequest:
    return RoutingRequest(**{"text": f"text {i}", "request_id": f"r{i}", **fields})


def shadow(engine: FakeEngine, *, share: float = 1.0, shares_embeddings: bool = True) -> Shadow:
    settings = ShadowSettings.model_validate({"artifact": "a", "share": share})
    return Shadow(settings, engine, shares_embeddings=shares_embeddings)


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


async def test_what_it_would_have_done_is_kept_for_the_outcome_once() -> None:
    one = shadow(FakeEngine("b", "a", artifact="new"))
    one.consider(request(), decision("a", "b"))
    await until(lambda: one.state()["decisions"] == 1)
    assert one.take("r0") == {
        "artifact_id": "new",
        "model": "b",
        "expected_quality": 0.9,
        "expected_cost_usd": 1e-4,
    }
    assert one.take("r0") is None
    state = one.state()
    assert state["disagreements"] == 1
    assert state["quality_difference"] == pytest.approx(0.1)
    assert state["cost_difference_usd"] == pytest.approx(-1e-4)
    await one.aclose()


async def test_where_chance_chose_it_is_compared_with_what_the_estimates_had_chosen() -> None:
    one = shadow(FakeEngine("a", "b"))
    one.consider(request(), decision("b", "a", explored=True))
    await until(lambda: one.state()["decisions"] == 1)
    assert one.state()["disagreements"] == 0
    await one.aclose()


async def test_dry_runs_and_those_beyond_the_share_are_left_alone() -> None:
    engine = FakeEngine("a")
    one = shadow(engine, share=0.25)
    one.consider(request(dry_run=True), decision("a"))
    for i in range(200):
        one.consider(request(i), decision("a"))
    expected = len(one._tasks)
    assert 25 < expected < 80
    await until(lambda: one.state()["decisions"] == expected)
    await one.aclose()


@pytest.mark.parametrize("error", [RuntimeError("a fault"), EncoderError("no")])
async def test_a_shadow_that_fails_is_counted_and_nothing_else(error: Exception) -> None:
    engine = FakeEngine("a")
    engine.error = error
    one = shadow(engine)
    for i in range(5):
        one.consider(request(i), decision("a"))
    await until(lambda: one.state()["failures"] == 5)
    assert one.take("r0") is None
    await one.aclose()


async def test_a_shadow_that_falls_behind_leaves_requests_out() -> None:
    engine = FakeEngine("a")
    engine.gate = threading.Event()
    one = shadow(engine)
    one._routing.cost_s = 1.0  # dear: in the thread
    for i in range(400):
        one.consider(request(i, text="x" * 5000), decision("a"))
    assert one.state()["skipped"] == 400 - 256
    await asyncio.sleep(0.02)  # the event loop goes on meanwhile
    engine.gate.set()
    await until(lambda: one.state()["decisions"] == 256)
    await one.aclose()


async def test_closing_does_not_wait_for_what_nobody_waits_for() -> None:
    one = shadow(FakeEngine("a"))
    for i in range(50):
        one.consider(request(i), decision("a"))
    await one.aclose()
    assert not one._tasks


async def test_a_text_is_encoded_once_for_both() -> None:
    encoder = FakeEncoder()
    live, other = FakeEngine("a", encoder=encoder), FakeEngine("b", artifact="new", encoder=encoder)
    lanes = Lanes(lambda: live)
    lanes.shadow = shadow(other)
    requests = [request(i) for i in range(5)]
    for one, made in zip(requests, lanes.route_many(requests), strict=True):
        assert isinstance(made, Decision)
        assert made.model == "a"
        lanes.decided(one, made)
    await until(lambda: lanes.shadow is not None and lanes.shadow.state()["decisions"] == 5)
    assert len(encoder.texts) == 5
    assert np.array_equal(np.sort(live.embedded, axis=0), np.sort(other.embedded, axis=0))
    made = lanes.with_shadow("r3", decision("a"))
    assert made.shadow is not None
    assert made.shadow["model"] == "b"
    await lanes.aclose()


async def test_with_another_encoder_it_encodes_for_itself() -> None:
    live, other = FakeEngine("a"), FakeEngine("b")
    lanes = Lanes(lambda: live)
    lanes.shadow = shadow(other, shares_embeddings=False)
    (made,) = lanes.route_many([request()])
    assert isinstance(made, Decision)
    lanes.decided(request(), made)
    await until(lambda: lanes.shadow is not None and lanes.shadow.state()["decisions"] == 1)
    assert other.encoder.texts == ["text 0"]
    await lanes.aclose()


async def test_a_text_that_cannot_be_encoded_is_the_live_engines_matter() -> None:
    live = FakeEngine("a")
    lanes = Lanes(lambda: live)
    lanes.shadow = shadow(FakeEngine("b"))
    (error,) = lanes.route_many([request(text="unreadable")])
    assert isinstance(error, EncoderError)
    await lanes.aclose()
