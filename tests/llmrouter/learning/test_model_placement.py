"""Where a change of models puts the router, by its own estimates."""

import numpy as np
import pytest
from trained_pool import MODELS, PRICES, scored, table, trained

from llmrouter.engine import RoutingEngine
from llmrouter.exceptions import DataError, NoEligibleModelError
from llmrouter.learning import placement, with_scored
from llmrouter.policy import UtilityPolicy
from llmrouter.types import ModelCard, Price

DATA, X = table()
TEXTS = [text for text in DATA.texts if text]


class Rows:
    """Encodes "question number i ..." as row i of the table."""

    fingerprint = "rows"

    def encode(self, texts):
        return X[[int(text.split()[2]) for text in texts]]


def engine(routers, cards, weight=0.3):
    return RoutingEngine(cards, Rows(), trained=routers, policy=UtilityPolicy(weight, guard=None))


CARDS = tuple(ModelCard(name, PRICES[name]) for name in MODELS)


def placed(*, level, price, weight=0.3):
    base = trained()
    new = with_scored(base, "new", scored(100, level=level), X)
    return placement(engine(base, CARDS, weight), engine(new, (*CARDS, ModelCard("new", price)), weight), TEXTS)


def test_a_cheap_and_good_model_takes_the_traffic_and_lifts_the_curve():
    place = placed(level=1.0, price=Price(0.01, 0.02))
    assert place.after.share["new"] > 0.5
    assert "new" not in place.before.share
    assert place.after.aiq > place.before.aiq
    assert place.after.quality > place.before.quality
    assert sum(place.after.share.values()) == pytest.approx(1)
    assert place.prompts == len(TEXTS)
    assert place.alone["new"][1] == pytest.approx(1.0, abs=0.1)


def test_a_dear_and_bad_model_takes_nothing_and_changes_nothing():
    place = placed(level=0.0, price=Price(50, 100))
    assert place.after.share["new"] == 0
    assert place.after.quality == pytest.approx(place.before.quality)
    assert place.after.aiq >= place.before.aiq - 1e-9


def test_the_curve_rises_and_bends_down():
    for place in (placed(level=0.8, price=Price(1, 2)).before, placed(level=0.8, price=Price(1, 2)).after):
        cost, quality = np.array(place.curve).T
        assert (np.diff(cost) > 0).all()
        assert (np.diff(quality) > 0).all()
        assert (np.diff(np.diff(quality) / np.diff(cost)) < 1e-9).all()


def test_nothing_to_place_on_is_said():
    base = engine(trained(), CARDS)
    with pytest.raises(DataError, match="needs prompts"):
        placement(base, base, [])


def test_a_pool_that_no_prompt_fits_is_said():
    base = engine(trained(), CARDS)
    small = engine(trained(), tuple(ModelCard(name, PRICES[name], context_window=1) for name in MODELS))
    with pytest.raises(NoEligibleModelError):
        placement(base, small, TEXTS)
