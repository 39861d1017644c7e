"""`load` in a pool entry: what it takes, and what is said of what it does not."""

from __future__ import annotations

import re

import pytest

from llmrouter.exceptions import ConfigError
from service.loads.settings import LoadSettings
from service.settings import Settings, parse_settings

ENTRY = "name: a, base_url: 'http://engine:8090/v1', price: {input: 1, output: 2}"


def parse(more: str, entry: str = ENTRY) -> Settings:
    return parse_settings(f"pool: [{{{entry}{more}}}]", source="x", environment={})


def test_true_is_short_for_the_defaults_and_false_for_none() -> None:
    assert parse(", load: true").pool[0].load == LoadSettings()
    assert parse(", load: {}").pool[0].load == LoadSettings()
    for off in (", load: false", ", load: null", ""):
        assert parse(off).pool[0].load is None


def test_every_key_can_be_said() -> None:
    load = (
        parse(", load: {url: 'http://e:1/load', model: m, price: average, every_s: 1, timeout_s: 0.5, stale_s: 4}")
        .pool[0]
        .load
    )
    assert load == LoadSettings(url="http://e:1/load", model="m", price="average", every_s=1, timeout_s=0.5, stale_s=4)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (", load: 3", "pool[0].load: must be true, false or a mapping such as {every_s: 2}; got 3"),
        (
            ", load: {every: 3}",
            "pool[0].load.every: unknown key; allowed: every_s, model, price, stale_s, timeout_s, url",
        ),
        (", load: {url: 'engine:8090'}", "pool[0].load.url:"),
        (", load: {price: mean}", "pool[0].load.price: must be 'marginal' or 'average'; got 'mean'"),
        (", load: {stale_s: 3}", "pool[0].load: stale_s is 3 and must be at least twice every_s (2)"),
        (", load: {timeout_s: 10}", "pool[0].load: timeout_s is 10 and must be below stale_s (10)"),
        (", load: {every_s: 0}", "pool[0].load.every_s:"),
        (", load: true, deployments: [{base_url: 'http://e/v1'}]", "pool[0].load: reads one engine"),
        (", load: true, endpoints: [embeddings]", "pool[0].load: is of use for models that are routed to"),
    ],
)
def test_what_is_wrong_is_said_with_its_place_and_remedy(more: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse(more)


def test_an_entry_without_an_address_needs_one() -> None:
    scripted = "name: a, backend: scripted, price: {input: 1, output: 2}"
    with pytest.raises(ConfigError, match=re.escape("pool[0].load: needs an address: give base_url, or load.url")):
        parse(", load: true", scripted)
    assert parse(", load: {url: 'http://e:1/load'}", scripted).pool[0].load is not None
