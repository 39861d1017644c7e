"""An engine that decides by what models cost and how fast they are at present."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from llmrouter._completion import PoolArrays
from llmrouter.engine import RoutingEngine
from llmrouter.exceptions import ConfigError
from llmrouter.policy import LatencyPolicy, LiveSpeed
from llmrouter.types import Decision, ModelCard, Price, RoutingRequest
from service.settings import build_engine, load_settings


@pytest.fixture
def engine() -> RoutingEngine:
    """Return the embedded default: the shipped artifact over the pocket pool."""
    return build_engine(load_settings(environment={}))


def costs(decision: Decision) -> dict[str, float]:
    return {ranked.model: ranked.expected_cost_usd for ranked in decision.ranking}


def at(card: ModelCard, input_price: float, output_price: float) -> ModelCard:
    return replace(card, price=Price(input_price, output_price))


ASKED = RoutingRequest(text="What is 12 plus 30?", prompt_tokens=40)


def test_expected_costs_follow_the_price_of_the_moment_and_come_back(engine: RoutingEngine) -> None:
    before = engine.route(ASKED)
    card = engine.cards[1]
    engine.at_present({card.name: at(card, 3 * card.price.input, 3 * card.price.output)})
    during = costs(engine.route(ASKED))
    assert during[card.name] == pytest.approx(3 * costs(before)[card.name])
    assert {name: cost for name, cost in during.items() if name != card.name} == {
        name: cost for name, cost in costs(before).items() if name != card.name
    }
    engine.at_present({})
    assert engine.route(ASKED) == before


def test_the_choice_follows_too(engine: RoutingEngine) -> None:
    chosen = engine.route(ASKED).model
    card = next(card for card in engine.cards if card.name == chosen)
    engine.at_present({chosen: at(card, 1e6, 1e6)})
    assert engine.route(ASKED).model != chosen


def test_estimates_for_learning_stay_at_the_configured_price(engine: RoutingEngine) -> None:
    (before,) = engine.estimate([ASKED.text], [40])
    engine.at_present({card.name: at(card, 7, 7) for card in engine.cards})
    (after,) = engine.estimate([ASKED.text], [40])
    np.testing.assert_array_equal(before.cost_usd, after.cost_usd)


def test_engines_adapted_before_and_after_follow(engine: RoutingEngine) -> None:
    earlier = engine.adapted()
    engine.at_present({engine.cards[0].name: at(engine.cards[0], 5, 5)})
    assert costs(earlier.route(ASKED)) == costs(engine.route(ASKED)) == costs(engine.adapted().route(ASKED))


def test_a_batch_ends_with_the_prices_it_began_with(engine: RoutingEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    card = engine.cards[0]
    expected = costs(engine.route(ASKED))
    complete = PoolArrays.complete

    def swapped_meanwhile(self: PoolArrays, *arguments: object) -> object:
        found = complete(self, *arguments)  # type: ignore[arg-type]
        engine.at_present({card.name: replace(at(card, 9e5, 9e5), context_window=1)})
        return found

    monkeypatch.setattr(PoolArrays, "complete", swapped_meanwhile)
    batch = engine.route_many([ASKED] * 3)
    assert all(isinstance(one, Decision) and costs(one) == expected and len(one.eligible) == 4 for one in batch)
    monkeypatch.undo()
    assert card.name not in [ranked.model for ranked in engine.route(ASKED).eligible]


def test_models_that_the_pool_lacks_are_refused(engine: RoutingEngine) -> None:
    with pytest.raises(ConfigError, match="no model other"):
        engine.at_present({"other": ModelCard("other", Price(1, 1))})


def test_what_an_engine_says_of_its_speed_goes_before_the_past(engine: RoutingEngine) -> None:
    slow = engine.cards[0].name
    timed = engine.with_policy(LatencyPolicy(2.0))
    assert slow in [ranked.model for ranked in timed.route(ASKED).eligible]  # nothing is known of its speed
    timed.at_present({slow: replace(engine.cards[0], speed=LiveSpeed(0.01, 100.0, 0.1))})
    ruled_out = {ranked.model: ranked.reason for ranked in timed.route(ASKED).ranking if not ranked.eligible}
    assert "exceeds the limit of 2 s" in ruled_out[slow]  # 40 tokens of the prompt take 4 s


# Costs that were learned in dollars


def arrays(*prices: Price) -> PoolArrays:
    engine = build_engine(load_settings(environment={}))
    cards = [replace(card, price=price) for card, price in zip(engine.cards, prices, strict=True)]
    trained = replace(engine.trained, cost_unit="usd")
    return PoolArrays.of(cards, trained)


def test_learned_dollars_are_moved_as_the_prices_have_moved() -> None:
    listed = [Price(1, 2), Price(1, 2), Price(0, 0), Price(1, 2)]
    pool = arrays(*listed)
    cards = [ModelCard(name, price) for name, price in zip(pool.names, listed, strict=True)]
    now = [replace(cards[0], price=Price(3, 6)), cards[1], replace(cards[2], price=Price(1, 2)), cards[3]]
    quality = std = np.full((2, 4), 0.5)
    learned = np.array([[1e-4, 2e-4, 0.0, 3e-4], [2e-4, 1e-4, 0.0, np.nan]])
    before = pool.complete(quality, std, learned, [100, 10])[2]
    after = pool.at_prices(now).complete(quality, std, learned, [100, 10])[2]
    np.testing.assert_allclose(after[:, 0], 3 * before[:, 0])
    np.testing.assert_array_equal(after[:, [1, 3]], before[:, [1, 3]])
    assert (before[:, 2] == 0).all()
    assert (after[:, 2] > 0).all()
