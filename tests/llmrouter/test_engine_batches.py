"""Decisions made in a batch are, to the last bit, those made one by one."""

from __future__ import annotations

import numpy as np
import pytest

from llmrouter.engine import RoutingEngine
from llmrouter.exceptions import NoEligibleModelError
from llmrouter.types import Decision, RoutingRequest
from service.settings import build_engine, load_settings


@pytest.fixture(scope="module")
def engine() -> RoutingEngine:
    """Return the embedded default: the shipped artifact over the pocket pool."""
    return build_engine(load_settings(environment={}))


def requests(n: int) -> list[RoutingRequest]:
    rng = np.random.default_rng(0)
    words = [
        "What",
        "is",
        "plus",
        "minus",
        "the",
        "capital",
        "of",
        "reverse",
        "word",
        "tree",
        "river",
        "number",
        "twelve",
        "17",
        "40",
        "explain",
        "why",
    ]
    texts = [" ".join(rng.choice(words, rng.integers(1, 40))) for _ in range(n)]
    return [RoutingRequest(text=text, prompt_tokens=len(text) // 4) for text in texts]


@pytest.mark.parametrize("size", [2, 3, 7, 64])
def test_batch_mates_change_nothing(engine: RoutingEngine, size: int) -> None:
    asked = requests(128)
    alone = [engine.route(request) for request in asked]
    together: list[object] = []
    for start in range(0, len(asked), size):
        together += engine.route_many(asked[start : start + size])
    assert together == alone


def test_one_that_nobody_can_take_spoils_no_other(engine: RoutingEngine) -> None:
    good, other = requests(2)
    impossible = RoutingRequest(text="x", prompt_tokens=10**9)
    first, refused, last = engine.route_many([good, impossible, other], neighbours=2)
    assert isinstance(first, Decision)
    assert isinstance(last, Decision)
    assert isinstance(refused, NoEligibleModelError)
    assert first.neighbours != last.neighbours
    assert [len(first.neighbours), len(last.neighbours)] == [2, 2]
    with pytest.raises(NoEligibleModelError):
        engine.route(impossible)


def test_a_text_that_cannot_be_encoded_spoils_no_other(engine: RoutingEngine) -> None:
    good, other = requests(2)
    wrong = RoutingRequest(text=5)  # type: ignore[arg-type]
    first, refused, last = engine.route_many([good, wrong, other])
    assert (first, last) == (engine.route(good), engine.route(other))
    assert isinstance(refused, Exception)
