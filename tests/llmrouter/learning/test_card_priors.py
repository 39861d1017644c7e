"""What a model card lets one expect."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trained_pool import MODELS, PRICES, trained

from llmrouter.engine import TrainedRouters
from llmrouter.exceptions import ConfigError
from llmrouter.learning import PublicCard, card_prior
from llmrouter.types import Price

BASE = trained(calibrated=False, n=60)


def pool(**quality) -> TrainedRouters:
    import dataclasses

    return dataclasses.replace(BASE, mean_quality={name: quality[name] for name in MODELS})


RISING = pool(small=0.3, middle=0.6, large=0.9)


def test_a_dear_model_is_expected_to_be_good_where_dear_ones_are():
    dear = card_prior(RISING, Price(5.0, 10.0), prices=PRICES)
    cheap = card_prior(RISING, Price(0.1, 0.2), prices=PRICES)
    assert dear.quality > cheap.quality + 0.1
    assert dear.cost_usd > cheap.cost_usd


def test_a_falling_price_line_is_not_believed():
    falling = pool(small=0.9, middle=0.6, large=0.3)
    dear = card_prior(falling, Price(5.0, 10.0), prices=PRICES)
    cheap = card_prior(falling, Price(0.1, 0.2), prices=PRICES)
    assert dear.quality == pytest.approx(cheap.quality)


def test_public_scores_place_it_between_its_neighbours():
    known = {"small": {"mmlu": 0.4}, "middle": {"mmlu": 0.6}, "large": {"mmlu": 0.8}}
    card = PublicCard(scores={"mmlu": 0.7}, known_scores=known)
    found = card_prior(RISING, Price(1, 1), card)
    assert 0.6 < found.quality < 0.9
    assert any("public scores beside 3" in line for line in found.evidence)
    better = card_prior(RISING, Price(1, 1), PublicCard(scores={"mmlu": 0.8}, known_scores=known))
    assert better.quality > found.quality


def test_siblings_say_more_than_nothing_and_get_the_weight():
    alone, family = card_prior(RISING, Price(1, 1)), card_prior(RISING, Price(1, 1), PublicCard(siblings=("large",)))
    assert abs(family.quality - 0.9) < abs(alone.quality - 0.9)
    assert max(family.likeness, key=family.likeness.get) == "large"
    assert family.output_tokens == pytest.approx(RISING.mean_output_tokens["large"])


def test_more_evidence_is_surer_but_never_sure():
    known = {name: {"a": quality} for name, quality in RISING.mean_quality.items()}
    full = PublicCard(siblings=("large",), scores={"a": 0.9}, known_scores=known, quality=0.9)
    sure, unsure = card_prior(RISING, Price(5, 10), full, prices=PRICES), card_prior(RISING, Price(5, 10))
    assert 0.12 <= sure.std < unsure.std
    assert unsure.std == 0.25
    assert len(sure.evidence) == 4


def test_scores_without_a_shared_benchmark_say_nothing():
    found = card_prior(RISING, Price(1, 1), PublicCard(scores={"a": 0.9}, known_scores={"small": {"b": 0.2}}))
    assert found.evidence[0].startswith("the mean of the known models")


@pytest.mark.parametrize(
    ("card", "path"),
    [
        (PublicCard(siblings=("nobody",)), "siblings"),
        (PublicCard(scores={"a": 71.0}), "scores.a"),
        (PublicCard(known_scores={"small": {"a": -1}}), "known_scores.small.a"),
        (PublicCard(quality=math.nan), "quality"),
    ],
)
def test_what_is_wrong_is_named(card, path):
    with pytest.raises(ConfigError) as caught:
        card_prior(RISING, Price(1, 1), card)
    assert caught.value.path == path


@settings(deadline=None)
@given(
    quality=st.none() | st.floats(0, 1),
    score=st.floats(0, 1),
    known=st.dictionaries(st.sampled_from(MODELS), st.floats(0, 1)),
    price=st.floats(0, 100),
    siblings=st.lists(st.sampled_from(MODELS), unique=True),
)
def test_any_card_gives_a_usable_prior(quality, score, known, price, siblings):
    card = PublicCard(
        siblings=tuple(siblings),
        scores={"a": score},
        known_scores={name: {"a": value} for name, value in known.items()},
        quality=quality,
    )
    found = card_prior(RISING, Price(price, price), card, prices=PRICES)
    assert 0 <= found.quality <= 1
    assert 0.12 <= found.std <= 0.25
    assert found.output_tokens > 0
    assert found.cost_usd >= 0
    assert all(value > 0 for value in found.likeness.values())
