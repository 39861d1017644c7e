"""``llmrouter models``: from a command to an artifact and an overlay."""

import json
import shutil
import time

import numpy as np
import pytest
import yaml
from contracts.misbehaving_upstream import completion
from gateway_process import MODELS, SUMS, WORDS, make_artifact, write_config

from llmrouter import artifact
from llmrouter.cli import main
from llmrouter.learning import read_history
from llmrouter.outcomes import SQLiteOutcomeStore
from llmrouter.routers.descriptors import ModelDescriptor, save_descriptor
from llmrouter.types import Outcome
from service.models.overlay import read_overlay
from service.settings import build_engine, load_settings

PRICE = {"input": 0.5, "output": 1.0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = make_artifact(tmp_path_factory.mktemp("artifacts"))
    artifact.promote(folder)
    return folder.parent / "current"


def right_sums(exchange):
    """Answer sums rightly, and words as wrongly as can be."""
    text = exchange.body["messages"][0]["content"]
    if text.startswith("What is"):
        first, second = (int(part) for part in text.removeprefix("What is ").removesuffix("?").split(" plus "))
        return exchange.answer(completion(str(first + second)))
    return exchange.answer(completion("no idea"))


@pytest.fixture
def place(tmp_path, trained, upstream, monkeypatch):
    """A configuration with an overlay, an upstream with a third model, a log with prompts, a file of right answers."""
    monkeypatch.chdir(tmp_path)
    upstream.behaviours["gamma"] = right_sums
    own = tmp_path / "artifacts"
    own.mkdir()
    shutil.copytree(trained.resolve(), own / trained.resolve().name)
    artifact.promote(own / trained.resolve().name)
    learning = {"models": {"overlay": str(tmp_path / "models.yaml")}}
    config = write_config(tmp_path, upstream.base_url, own / "current", learning=learning)
    store = SQLiteOutcomeStore(tmp_path / "outcomes.db")
    prompts = [*SUMS, *WORDS]
    store.append(
        [
            Outcome(
                request_id=f"r{i}",
                time=time.time() - 60 + i,
                model=MODELS[i % 2],
                served_by=MODELS[i % 2],
                policy="utility(0.3)",
                status="ok",
                prompt=text,
                input_tokens=8,
                output_tokens=4,
                cost_usd=1e-5,
                quality=float(text in SUMS),
                propensity=1.0,
            )
            for i, text in enumerate(prompts)
        ]
    )
    store.close()
    answers = tmp_path / "answers.jsonl"
    lines = [{"prompt": f"What is {i} plus {i + 3}?", "answer": str(2 * i + 3)} for i in range(20)]
    lines += [{"prompt": text, "answer": text.split()[3][::-1]} for text in WORDS]
    answers.write_text("\n".join(json.dumps(line) for line in lines))
    return config


def new(config, *arguments, name="gamma"):
    base = yaml.safe_load(config.read_text())["pool"][0]["base_url"]
    return main(["models", "add", name, "--config", str(config), "--base-url", base, "--price", "0.5,1.0", *arguments])


def profile(config, *arguments):
    return new(config, "--profile", "12", "--references", str(config.parent / "answers.jsonl"), *arguments)


def shown(capsys):
    return json.loads(capsys.readouterr().out)


def known(config):
    return build_engine(load_settings(config)).trained


def test_without_yes_everything_is_shown_and_nothing_changes(place, capsys, upstream):
    before = (place.parent / "artifacts" / "current").readlink()
    assert profile(place) == 0
    printed = capsys.readouterr().out
    assert "12 prompts for gamma: about " in printed
    assert "at most" in printed
    assert "share then" in printed
    assert "nothing is in effect yet" in printed
    assert (place.parent / "artifacts" / "current").readlink() == before
    assert not (place.parent / "models.yaml").exists()
    assert len(upstream.exchanges) == 12
    assert profile(place, "--yes") == 0  # costs nothing more
    assert len(upstream.exchanges) == 12


def test_with_yes_the_model_is_in_pool_and_router(place, capsys):
    assert profile(place, "--yes", "--json") == 0
    document = shown(capsys)
    assert document["applied"]
    assert document["scored"] == 12
    settings = load_settings(place)
    assert [model.name for model in settings.pool] == [*MODELS, "gamma"]
    trained = known(place)
    assert trained.models == (*MODELS, "gamma")
    assert artifact.read_manifest(place.parent / "artifacts" / "current")["id"] == document["artifact"]
    assert read_history(place.parent / "artifacts")[-1].reason == "models add"
    assert document["placement"]["after"]["share"]["gamma"] > 0
    assert list((place.parent / "models.yaml.work" / "answers").iterdir()) == []  # what was paid for is in the artifact
    encoder = build_engine(settings).encoder
    sums, words = encoder.encode(["What is 5 plus 9?"]), encoder.encode(["Write the word lamp backwards"])
    assert trained.quality.predict(sums)[0, 2] > trained.quality.predict(words)[0, 2]


def test_the_budget_holds(place, capsys, upstream):
    assert profile(place, "--max-usd", "0", "--json") == 1
    assert "none of 12 answers has a score" in capsys.readouterr().err
    assert upstream.exchanges == []


def test_list_says_how_each_model_is_known(place, capsys):
    assert new(place, "--zero-shot", "--yes") == 0
    capsys.readouterr()
    assert main(["models", "list", "--config", str(place)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "yes (zero-shot)" in next(line for line in lines if line.startswith("gamma"))
    assert main(["models", "list", "--config", str(place), "--json"]) == 0
    assert {entry["name"]: entry["how"] for entry in shown(capsys)} == {
        "alpha": "training",
        "beta": "training",
        "gamma": "zero-shot",
    }


def test_zero_shot_asks_nothing_and_is_unsure(place, capsys, upstream):
    (place.parent / "card.yaml").write_text(
        "scores: {mmlu: 0.8}\nknown_scores: {alpha: {mmlu: 0.5}, beta: {mmlu: 0.6}}\n"
    )
    assert new(place, "--zero-shot", "--card", str(place.parent / "card.yaml"), "--yes", "--json") == 0
    document = shown(capsys)
    assert upstream.exchanges == []
    assert document["standard_error"] >= 0.12
    assert any("public scores beside 2" in line for line in document["evidence"])


def descriptor(folder, name, *vector, probes="p"):
    made = ModelDescriptor(
        np.asarray(vector), probe_set=probes, kind="perplexity", settings={"scorer": "s"}, provenance={"model": name}
    )
    save_descriptor(folder / name, made)
    return str(folder / name)


def test_a_descriptor_says_where_a_model_is_good_before_it_answered_anything(place, capsys, upstream, tmp_path):
    """Alpha does sums, beta words; the new model says to the probes what alpha says."""
    others = [
        f"--known={name}={descriptor(tmp_path, name, *vector)}"
        for name, vector in {"alpha": (1.0, 0.1), "beta": (0.1, 1.0)}.items()
    ]
    own = descriptor(tmp_path, "gamma", 0.9, 0.2)
    assert new(place, "--zero-shot", "--descriptor", own, *others, "--yes", "--json") == 0
    assert "a descriptor (perplexity)" in shown(capsys)["evidence"]
    assert upstream.exchanges == []
    engine = build_engine(load_settings(place))
    sums, words = engine.encoder.encode(["What is 5 plus 9?"]), engine.encoder.encode(["Write the word lamp backwards"])
    alpha, beta, gamma = engine.trained.quality.predict(sums)[0] - engine.trained.quality.predict(words)[0]
    assert alpha > 0.1 > -0.1 > beta
    assert gamma > 0.1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--zero-shot", "--known", "alpha=x"], "give the new one's as --descriptor DIR"),
        (["--profile", "5", "--descriptor", "x"], "is for --zero-shot"),
        (["--zero-shot", "--descriptor", "{own}", "--known", "alpha"], "must be NAME=DIR; got 'alpha'"),
        (["--zero-shot", "--descriptor", "{own}"], "give those of at least 2 of its models (alpha, beta)"),
        (["--zero-shot", "--descriptor", "nowhere"], "holds no descriptor"),
        (["--zero-shot", "--descriptor", "{own}", "--known", "delta={own}", "--known", "beta={own}"], "delta"),
        (["--zero-shot", "--descriptor", "{own}", "--known", "alpha={far}", "--known", "beta={own}"], "probe"),
    ],
)
def test_descriptors_that_do_not_fit_are_refused(place, capsys, tmp_path, arguments, said):
    folders = {"own": descriptor(tmp_path, "gamma", 0.9, 0.2), "far": descriptor(tmp_path, "far", 1.0, 0.0, probes="q")}
    assert new(place, *(argument.format(**folders) for argument in arguments), "--yes") != 0
    assert said in capsys.readouterr().err
    assert not (place.parent / "models.yaml").exists()


def test_what_was_believed_is_learned_from_the_log_later(place, capsys):
    assert new(place, "--zero-shot", "--expect", "0.2", "--yes") == 0
    believed = known(place).mean_quality["gamma"]
    store = SQLiteOutcomeStore(place.parent / "outcomes.db")
    store.append(
        [
            Outcome(
                request_id=f"g{i}", time=time.time() - 30 + i, model="gamma", served_by="gamma", policy="explore",
                status="ok", prompt=f"What is {i} plus {i + 7}?", input_tokens=8, output_tokens=4, cost_usd=1e-6,
                quality=1.0, propensity=0.05,
            )
            for i in range(40)
        ]
    )  # fmt: skip
    store.close()
    capsys.readouterr()
    assert main(["models", "add", "gamma", "--config", str(place), "--from-log", "--yes", "--json"]) == 0
    document = shown(capsys)
    assert document["how"] == "log"
    assert known(place).models == (*MODELS, "gamma")
    assert known(place).mean_quality["gamma"] > believed + 0.3


def test_given_scores_ask_nothing(place, capsys, upstream):
    rows = [{"prompt": text, "quality": 1.0, "input_tokens": 8, "output_tokens": 3} for text in SUMS]
    (place.parent / "scores.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    assert new(place, "--from", str(place.parent / "scores.jsonl"), "--yes", "--json") == 0
    assert shown(capsys)["scored"] == 20
    assert upstream.exchanges == []
    assert known(place).mean_output_tokens["gamma"] == pytest.approx(3, rel=0.2)


def test_removing_takes_it_out_of_pool_and_router(place, capsys):
    assert main(["models", "remove", "beta", "--config", str(place), "--yes", "--json"]) == 0
    assert shown(capsys)["artifact"]
    assert [model.name for model in load_settings(place).pool] == ["alpha"]
    assert known(place).models == ("alpha",)


def test_the_last_model_stays(place, capsys):
    assert main(["models", "remove", "beta", "--config", str(place), "--yes"]) == 0
    assert main(["models", "remove", "alpha", "--config", str(place), "--yes"]) == 1
    assert "pool" in capsys.readouterr().err
    assert [model.name for model in load_settings(place).pool] == ["alpha"]


def test_replacing_exchanges_one_for_the_other(place, capsys):
    base = yaml.safe_load(place.read_text())["pool"][0]["base_url"]
    arguments = ["--base-url", base, "--upstream", "gamma", "--price", "1,2", "--zero-shot", "--yes", "--json"]
    assert main(["models", "replace", "alpha", "alpha-2", "--config", str(place), *arguments]) == 0
    assert [model.name for model in load_settings(place).pool] == ["beta", "alpha-2"]
    trained = known(place)
    assert trained.models == ("beta", "alpha-2")
    encoder = build_engine(load_settings(place)).encoder
    sums = encoder.encode(["What is 5 plus 9?"])
    assert trained.quality.predict(sums)[0, 1] > trained.quality.predict(sums)[0, 0]  # sums were alpha's


def test_repricing_moves_price_and_mean_cost(place, capsys):
    before = known(place)
    assert main(["models", "reprice", "alpha", "--price", "10,20", "--config", str(place), "--yes", "--json"]) == 0
    assert shown(capsys)["price"] == {"input": 10.0, "output": 20.0}
    assert load_settings(place).pool[0].price.input == 10
    after = known(place)
    assert after.mean_cost_usd["alpha"] == pytest.approx(10 * before.mean_cost_usd["alpha"], rel=0.01)
    assert after.mean_cost_usd["beta"] == before.mean_cost_usd["beta"]


def test_without_an_overlay_the_entry_is_yours_to_write(place, capsys):
    tree = yaml.safe_load(place.read_text())
    del tree["learning"]
    place.write_text(yaml.safe_dump(tree))
    assert profile(place) == 0
    printed = capsys.readouterr().out
    assert "the configuration is yours to change" in printed
    assert "name: gamma" in printed
    assert profile(place, "--yes") == 1
    assert "name: gamma" in capsys.readouterr().err


def test_a_model_of_the_configuration_needs_no_entry(place, capsys):
    tree = yaml.safe_load(place.read_text())
    tree["pool"].append({**tree["pool"][0], "name": "gamma"})
    place.write_text(yaml.safe_dump(tree))
    command = ["models", "add", "gamma", "--config", str(place), "--profile", "10", "--yes", "--json"]
    assert main([*command, "--references", str(place.parent / "answers.jsonl")]) == 0
    assert shown(capsys)["scored"] == 10
    assert read_overlay(place.parent / "models.yaml").pool == ()
    assert known(place).models == (*MODELS, "gamma")


def test_an_artifact_that_is_no_link_is_followed_by_one_in_the_overlay(place, capsys):
    tree = yaml.safe_load(place.read_text())
    tree["router"]["artifact"] = str((place.parent / "artifacts" / "current").resolve())
    place.write_text(yaml.safe_dump(tree))
    assert profile(place, "--yes") == 0
    settings = load_settings(place)
    assert settings.router.artifact.name == "current"
    assert known(place).models == (*MODELS, "gamma")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["add", "gamma", "--zero-shot"], "is not in the pool; say how it is reached"),
        (["add", "alpha", "--zero-shot"], "was trained on 'alpha'"),
        (["add", "alpha", "--base-url", "http://x/v1", "--price", "1,1", "--zero-shot"], "is in the pool already"),
        (["add", "gamma", "--base-url", "http://x/v1", "--price", "cheap"], "must be two numbers"),
        (["add", "gamma", "--base-url", "x", "--price", "1,1", "--zero-shot"], "base_url"),
        (["add", "gamma", "--base-url", "http://x/v1", "--price", "1,1"], "no right answers to score by"),
        (["add", "gamma", "--base-url", "http://x/v1", "--price", "1,1", "--scorer", "vibes"], "unknown scorer"),
        (["add", "gamma", "--base-url", "http://x/v1", "--price", "1,1", "--scorer", "judge:zeta"], "judge 'zeta'"),
        (["remove", "gamma", "--yes"], "gamma"),
        (["reprice", "gamma", "--price", "1,2"], "gamma"),
        (["reprice", "alpha", "--price=-1,2"], "price"),
        (["replace", "alpha", "gamma"], "how the new model is reached"),
    ],
)
def test_what_is_wrong_is_said(place, arguments, what, capsys):
    assert main(["models", *arguments, "--config", str(place)]) == 1
    assert what in capsys.readouterr().err
    assert not (place.parent / "models.yaml").exists()


def test_another_artifact_meanwhile_is_built_upon(place, capsys, monkeypatch):
    from service.models.changes import Bench

    work_out, moved = Bench.work_out, []

    def once_then_promote(self, prepared, result=None):
        change = work_out(self, prepared, result)
        if not moved:
            moved.append(True)
            assert main(["models", "reprice", "beta", "--price", "7,7", "--config", str(place), "--yes"]) == 0
        return change

    monkeypatch.setattr(Bench, "work_out", once_then_promote)
    assert profile(place, "--yes") == 0
    settings = load_settings(place)
    assert {model.name: model.price.input for model in settings.pool} == {"alpha": 1.0, "beta": 7.0, "gamma": 0.5}
    assert known(place).models == (*MODELS, "gamma")
