"""The section learning.explore: what it makes of the configured policy, and what a reload keeps of it."""

from __future__ import annotations

from typing import Any

import pytest

from llmrouter.exceptions import ConfigError
from llmrouter.policy import ExplorePolicy
from service.gateway import Gateway
from service.learning.explore_settings import ExploreSettings
from service.settings import Settings, configured_policy, parse_settings

POOL = "pool: [{name: a, backend: scripted, price: {input: 1, output: 1}}]\n"


def of(text: str) -> Settings:
    return parse_settings(POOL + text, source="config.yaml", environment={})


def test_it_goes_around_whatever_policy_there_is() -> None:
    policy = configured_policy(of("policy: {kind: sticky}\nlearning: {explore: {method: thompson, share: 0.1}}\n"))
    assert policy.name == "explore(thompson=0.1;sticky(utility(0.3)))"
    assert configured_policy(of("")).name == "utility(0.3)"


def test_workers_share_the_dollars() -> None:
    policy = configured_policy(of("server: {workers: 4}\nlearning: {explore: {usd_per_day: 2}}\n"))
    assert isinstance(policy, ExplorePolicy)
    assert policy.state()["left_usd"] == 0.5


def test_every_setting_reaches_the_policy() -> None:
    given = {"share": 0.2, "max_extra_usd": 0.1, "max_gap": 0.3, "min_propensity": 0.01, "seed": 7}
    policy = ExploreSettings(**given).around(configured_policy(of("")))
    assert {name: getattr(policy, name) for name in given} == given


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ("{share: 0.9}", "learning.explore.share"),
        ("{method: greedy}", "learning.explore.method"),
        ("{usd: 1}", "learning.explore.usd"),
        ("{seed: -1}", "learning.explore.seed"),
    ],
)
def test_what_is_wrong_is_named(section: str, named: str) -> None:
    with pytest.raises(ConfigError) as refused:
        of(f"learning: {{explore: {section}}}\n")
    assert named in str(refused.value)


def test_a_policy_that_cannot_be_wrapped_says_so() -> None:
    class Foreign:
        name = "foreign"

    foreign: Any = Foreign()
    with pytest.raises(ConfigError, match="learning.explore works around .* 'foreign' is not"):
        ExploreSettings().around(foreign)


def test_a_reload_that_leaves_it_as_it_is_keeps_what_was_counted(tmp_path: Any) -> None:
    def gateway(text: str, reuse: Gateway | None = None) -> Gateway:
        log = f"log: {{store: 'sqlite:///{tmp_path}/outcomes.db'}}\n"
        return Gateway(of(log + text), reuse=reuse)

    first = gateway("learning: {explore: {usd_per_day: 1}}\n")
    same = gateway("learning: {explore: {usd_per_day: 1}}\nserver: {max_body_bytes: 1000}\n", first)
    other = gateway("learning: {explore: {usd_per_day: 2}}\n", first)
    assert same.policy is first.policy
    assert other.policy is not first.policy
    assert set(first.learning) >= {"explore"}
    first.writer.close()
