"""Routes in the configuration: what is taken, and what is refused with field, value and remedy."""

import re
from pathlib import Path

import pytest

from llmrouter.cli import main
from llmrouter.exceptions import ConfigError
from llmrouter.routes import Route, RoutesPolicy
from service.picking.policy import with_routes
from service.settings import Settings, build_policy, load_settings, parse_settings

POOL = """\
pool:
  - {name: small, base_url: "http://a/v1", price: {input: 1, output: 1}}
  - {name: large, base_url: "http://a/v1", price: {input: 9, output: 9}}
  - {name: vectors, base_url: "http://a/v1", price: {input: 1, output: 0}, endpoints: [embeddings]}
"""
CODE = "{name: code, description: Program code, models: [large, small]}"


def of(router: str, *, environment: dict[str, str] | None = None) -> Settings:
    return parse_settings(f"{POOL}router: {router}\n", source="it", environment=environment or {})


def problems(router: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        of(router)
    lines = str(caught.value).splitlines()
    assert re.match(rf"it has {len(lines) - 1} problem", lines[0])
    return dict(line.strip().split(": ", 1) for line in lines[1:])


def test_routes_become_the_librarys_with_their_policies_checked() -> None:
    settings = of(
        "{routes: [" + CODE + ", {name: talk, description: Small talk, examples: [Hi there], only: true, "
        "models: [small], policy: {kind: utility, cost_weight: '0.7'}}]}"
    )
    first, second = (route.route for route in settings.router.routes or ())
    assert first == Route("code", "Program code", models=("large", "small"))
    assert second == Route(
        "talk", "Small talk", ("Hi there",), ("small",), only=True, policy={"kind": "utility", "cost_weight": 0.7}
    )
    assert settings.router.picks_by.kind == "embedding"
    assert isinstance(with_routes(build_policy(settings.policy), settings), RoutesPolicy)
    plain = of("{}")
    policy = build_policy(plain.policy)
    assert with_routes(policy, plain) is policy


@pytest.mark.parametrize(
    ("router", "place", "said"),
    [
        ("{routes: []}", "router.routes", "is empty; write at least one route"),
        ("{routes: [{name: a, models: [small]}]}", "router.routes[0].description", "is required and empty; got ''"),
        ("{routes: [{description: x, models: [small]}]}", "router.routes[0].name", "is required"),
        (f"{{routes: [{CODE}, {CODE}]}}", "router.routes[1].name", "'code' is the name of routes[0] already"),
        ("{routes: [{name: a, description: x, models: [smal]}]}", "router.routes[0].models[0]", "did you mean 'small'"),
        ("{routes: [{name: a, description: x, models: [vectors]}]}", "router.routes[0].models[0]", "answers chats"),
        ("{routes: [{name: a, description: x, model: small}]}", "router.routes[0].model", "did you mean 'models'?"),
        ("{routes: [{name: a, description: x, models: small}]}", "router.routes[0].models", "must be a list"),
        (
            "{routes: [{name: a, description: x, policy: {kind: utilty}}]}",
            "router.routes[0].policy.kind",
            "did you mean 'utility'?",
        ),
        (
            "{routes: [{name: a, description: x, policy: {cost_weight: -1}}]}",
            "router.routes[0].policy",
            "cost_weight",
        ),
        ("{chooser: {kind: embedding}}", "router.chooser", "there are none; write routes, or leave it out"),
        (f"{{routes: [{CODE}], chooser: {{kind: model}}}}", "router.chooser.model", "name a model of the pool: small"),
        (
            f"{{routes: [{CODE}], chooser: {{kind: model, model: lrge}}}}",
            "router.chooser.model",
            "'lrge' is no model of the pool that answers chats: small, large; did you mean 'large'?",
        ),
        (f"{{routes: [{CODE}], chooser: {{timeout_s: 1}}}}", "router.chooser.timeout_s", "is a key of kind: model"),
        (f"{{routes: [{CODE}], chooser: {{kind: llm}}}}", "router.chooser.kind", "got 'llm'"),
        (
            f"{{routes: [{CODE}], chooser: {{kind: classifier, threshold: -0.5}}}}",
            "router.chooser.threshold",
            "is a probability",
        ),
        (
            f"{{routes: [{CODE}], chooser: {{kind: classifier, examples_file: none.jsonl}}}}",
            "router.chooser.examples_file",
            "cannot read none.jsonl",
        ),
        (
            f"{{routes: [{CODE}], chooser: {{kind: model, model: large, answers: false}}}}",
            "router.routes[0].models[0]",
            "'large' is no model of the pool that answers chats: small",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_place(router: str, place: str, said: str) -> None:
    found = problems(router)
    assert list(found) == [place]
    assert said in found[place]


def test_every_problem_is_told_at_once() -> None:
    found = problems("{routes: [{name: other, description: x, models: [small]}, {name: b, description: ' '}]}")
    assert set(found) == {"router.routes[0].name", "router.routes[1].description", "router.routes[1].models"}


def test_routes_may_be_in_a_file_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "routes.yaml"
    for text in (f"- {CODE}\n", f"routes:\n  - {CODE}\n", "- " + CODE.replace("Program code", "'${WORDS}'") + "\n"):
        file.write_text(text)
        routes = of(f"{{routes_file: {file}}}", environment={"WORDS": "Program code"}).router.routes
        assert routes is not None
        assert [(route.name, route.description) for route in routes] == [("code", "Program code")]
    for text, place, said in [
        ("routes: 1", "router.routes_file", "must hold a list of routes"),
        ("- {name: a, name: b}", "router.routes_file", "the key 'name' is there twice"),
        ("- {name: a, description: x, models: [smal]}", "router.routes[0].models[0]", "did you mean 'small'?"),
        ("- {name: a, description: x, modls: [small]}", "router.routes[0].modls", "did you mean 'models'?"),
        ("- {name: a, description: '${NOT_SET}', models: [small]}", "router.routes[0].description", "is not set"),
    ]:
        file.write_text(text)
        found = problems(f"{{routes_file: {file}}}")
        assert said in found[place]
    file.unlink()
    found = problems(f"{{routes_file: {file}, chooser: {{kind: model, model: small}}}}")
    assert list(found) == ["router.routes_file"]
    assert "cannot read" in found["router.routes_file"]
    both = problems(f"{{routes_file: {file}, routes: [{CODE}]}}")
    assert both == {"router.routes_file": "cannot be beside router.routes; keep one of the two"}


def test_a_labels_file_is_checked_against_the_routes(tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    file.write_text('{"text": "Hi", "route": "talk"}\n')
    found = problems(f"{{routes: [{CODE}], chooser: {{kind: classifier, examples_file: {file}}}}}")
    assert found["router.chooser.examples_file"] == "labels utterances 'talk', which is no route; there are code, other"


def test_a_model_that_only_picks_is_left_out_of_the_pool_that_answers() -> None:
    chooser = "{kind: model, model: small, answers: false}"
    settings = of(f"{{routes: [{{name: a, description: x, models: [large]}}], chooser: {chooser}}}")
    assert [card.name for card in settings.cards] == ["large"]


def test_what_config_show_prints_is_the_same_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "routes.yaml").write_text(f"- {CODE}\n")
    config = tmp_path / "config.yaml"
    config.write_text(
        f"{POOL}router: {{routes_file: {tmp_path}/routes.yaml, chooser: {{kind: model, model: small}}}}\n"
    )
    assert main(["config", "show", "--config", str(config)]) == 0
    shown = parse_settings(capsys.readouterr().out, source="shown", environment={})
    wanted = load_settings(config, environment={})
    assert shown.router.routes == wanted.router.routes
    assert shown.router.chooser == wanted.router.chooser
    assert shown.router.routes_file is None
