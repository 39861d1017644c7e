"""Who answers on a route: its models in order, or a policy among them; the ordinary policy on none."""

import pytest

from llmrouter.exceptions import ConfigError, NoEligibleModelError
from llmrouter.policy import ExplorePolicy, UtilityPolicy
from llmrouter.routes import Route, RoutesPolicy
from llmrouter.types import OTHER_ROUTE, Preference, RoutePick, RoutingRequest
from tests.contracts.policy_kit import FACTS, candidates_of, estimates_of, outcome_of

ESTIMATES = estimates_of([0.2, 0.5, 0.9, 0.4])  # small, middle, large, other; costs 1, 4, 20, 10 (1e-4 USD)
ORDERED = Route("ordered", "x", models=("middle", "small"))
STRICT = Route("strict", "x", models=("small", "middle"), only=True)
CHEAP = Route("cheap", "x", models=("small", "other"), policy={"kind": "utility", "cost_weight": 5.0})
WHOLE = Route("whole", "x", policy={"kind": "utility", "cost_weight": 5.0})
ROUTES = (ORDERED, STRICT, CHEAP, WHOLE)


def policy(base=None, routes=ROUTES):
    return RoutesPolicy(routes, base or {"kind": "utility", "cost_weight": 0.0, "guard": None}).bind(FACTS)


def on(route, **fields):
    return RoutingRequest("x", request_id="r1", route=RoutePick(route, "embedding"), **fields)


def ranked(decision):
    return [entry.model for entry in decision.eligible]


def choose(request, eligible=(True,) * 4, chosen_by=None):
    return (chosen_by or policy()).choose(request, candidates_of(eligible), ESTIMATES)


def test_models_go_in_the_order_of_the_route_and_the_others_after_them():
    decision = choose(on("ordered"))
    assert ranked(decision) == ["middle", "small", "large", "other"]
    assert (decision.policy, decision.propensity) == ("route(ordered)", 1.0)


@pytest.mark.parametrize("route", [None, RoutePick(OTHER_ROUTE, "model")])
def test_what_is_on_no_route_is_the_ordinary_policys(route):
    request = RoutingRequest("x", route=route)
    plain = UtilityPolicy(0.0, guard=None).bind(FACTS).choose(request, candidates_of(), ESTIMATES)
    assert choose(request) == plain
    assert policy().name == "utility(0)"


def test_only_the_models_of_a_strict_route_answer():
    decision = choose(on("strict"))
    assert ranked(decision) == ["small", "middle"]
    assert {entry.reason for entry in decision.ranking[2:]} == {"not a model of the route 'strict'"}
    with pytest.raises(NoEligibleModelError, match="large: not a model of the route 'strict'"):
        choose(on("strict"), (False, False, True, True))


def test_where_none_of_the_routes_models_can_another_answers_with_a_warning():
    for name, eligible in (("ordered", (False, False, True, True)), ("cheap", (False, True, True, False))):
        decision = choose(on(name), eligible)
        assert decision.model == "large"
        assert f"no model of the route '{name}' can take this request" in decision.warnings[0]


def test_a_policy_chooses_among_the_models_of_its_route():
    decision = choose(on("cheap"))
    assert ranked(decision) == ["small", "other", "large", "middle"]
    assert decision.policy == "route(cheap;utility(5))"
    assert ranked(choose(on("whole")))[0] == "small"


def test_a_random_policy_keeps_to_its_route_and_tells_its_chances():
    routes = [Route("try", "x", models=("small", "middle"), policy={"kind": "thompson", "seed": 3})]
    decision = choose(on("try"), chosen_by=policy(routes=routes))
    assert set(ranked(decision)) == {"small", "middle"}
    assert sum(entry.propensity for entry in decision.ranking) == pytest.approx(1)


def test_a_requests_own_wishes_choose_among_the_routes_models():
    wished = choose(on("ordered", preference=Preference(cost_weight=100.0)))
    assert ranked(wished)[:2] == ["small", "middle"]
    limited = choose(on("ordered", preference=Preference(max_cost_usd=2e-4)))
    assert ranked(limited) == ["small"]
    floor = choose(on("ordered", preference=Preference(quality_floor=0.01)))
    assert set(ranked(floor)[:2]) == {"small", "middle"}


def test_the_ordinary_policy_counts_on_routes_and_does_not_rule_out():
    base = {"kind": "budget", "usd_per_1k": 0.5, "burst_requests": 5}
    dear = [Route("dear", "x", models=("large",))]
    plain = RoutingRequest("x", request_id="r2")
    assert choose(plain, chosen_by=policy(base, dear)).model == "large", "there is a budget to begin with"
    chooser = policy(base, dear)
    spent = [choose(on("dear"), chosen_by=chooser) for _ in range(3)]
    assert {decision.model for decision in spent} == {"large"}
    after = choose(plain, chosen_by=chooser)
    assert after.model == "small", "the route has overdrawn it"
    assert "exceeds what is left of the budget" in after.ranking[-1].reason
    chooser.observe(outcome_of(on("dear"), spent[0]))


def test_a_routes_policy_counts_its_own_and_goes_on_around_another_base():
    routes = [Route("paced", "x", policy={"kind": "budget", "usd_per_1k": 0.5, "burst_requests": 5})]
    chooser = RoutesPolicy(routes, {"kind": "utility", "cost_weight": 0.0})
    first = chooser.bind(FACTS)
    models = [choose(on("paced"), chosen_by=first).model for _ in range(4)]
    assert models == ["large", "middle", "middle", "middle"], "the first has spent the budget"
    again = chooser.around(UtilityPolicy(0.1)).bind(FACTS)
    assert choose(on("paced"), chosen_by=again).model == "middle"
    assert again.name == "utility(0.1)"
    dry = RoutesPolicy(routes).bind(FACTS)
    for _ in range(4):
        assert choose(on("paced", dry_run=True), chosen_by=dry).model == "large"
    assert choose(on("paced"), chosen_by=dry).model == "large", "dry runs spend nothing"


def test_chance_explores_what_is_on_no_route_only():
    explore = ExplorePolicy({"kind": "utility", "cost_weight": 0.0, "guard": None}, share=0.5)
    chooser = RoutesPolicy(ROUTES, explore).bind(FACTS)
    decisions = [
        chooser.choose(
            RoutingRequest("x", request_id=f"r{i}", route=RoutePick("ordered", "model")), candidates_of(), ESTIMATES
        )
        for i in range(30)
    ]
    assert {(decision.model, decision.propensity, decision.explored) for decision in decisions} == {
        ("middle", 1.0, False)
    }
    assert explore.state()["seen"] == 0
    others = [chooser.choose(RoutingRequest("x", request_id=f"r{i}"), candidates_of(), ESTIMATES) for i in range(30)]
    assert any(decision.explored for decision in others)


def test_bad_policies_and_unknown_routes_are_refused():
    with pytest.raises(ConfigError, match=r"^routes\[0\].policy: "):
        RoutesPolicy([Route("a", "x", policy={"kind": "nonsense"})])
    with pytest.raises(ConfigError, match="the request is on the route 'gone'; there are ordered"):
        choose(on("gone"))
    poor = [Route("a", "x", policy={"kind": "category_map", "usd_per_1k": 1e-9})]
    with pytest.raises(ConfigError, match="the policy of the route 'a' does not fit the artifact"):
        RoutesPolicy(poor).bind(FACTS)
