"""The command that describes models, and the ablation of descriptors: what is written, asked again and refused."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from llmrouter.exceptions import BackendError, ConfigError
from llmrouter.outcomes import load_table
from llmrouter.routers import CSCRRouter
from llmrouter.routers.descriptors import ModelDescriptor, ProbeSet, TokenList, load_descriptor
from tests.contracts.router_kit import topics
from training.contrastive import ablation, ablation_descriptors, describe
from training.contrastive._adding import expectations
from training.contrastive._kept import Kept
from training.contrastive._pocket_descriptors import pocket_probes, write_pool

POCKET = ablation_descriptors.POCKET


class Upstream:
    """An HTTP server that answers every chat with the same choice."""

    def __init__(self, choice):
        self.asked = []
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                body = json.dumps({"choices": [choice]}).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join(10)
        self.server.server_close()


@pytest.fixture
def probes(tmp_path):
    path = tmp_path / "few.json"
    ProbeSet(("Spell the word chair", "Which is larger, 560 or 524?", "Make the word bear upper case")).save(path)
    return path


def test_models_are_described_and_a_later_one_is_asked_the_same(tmp_path, probes, capsys):
    pytest.importorskip("torch", reason="local models need the extra [moe]")
    out = tmp_path / "out"
    models = [f"--model={name}={POCKET / f'pocket-{name}'}" for name in ("mini", "words")]
    describe.main(["--kind", "logit", *models, "--probes", str(probes), "--tokens", "40", "--out", str(out)])
    describe.main(["--kind", "logit", f"--model=later={POCKET / 'pocket-mini'}", "--out", str(out)])
    found = [load_descriptor(out / name) for name in ("mini", "words", "later")]
    assert {one.probe_set for one in found} == {ProbeSet.load(probes).id}
    assert {one.settings["vocabulary"] for one in found} == {TokenList.load(out / "tokens.json").id}
    assert capsys.readouterr().out.count("logit over probes-3-") == 3
    np.testing.assert_array_equal(found[2].vector, found[0].vector, "the same weights under another name")
    X, y, _ = topics(60)
    folders = "|".join(str(out / name) for name in ("mini", "words"))
    router = CSCRRouter(descriptors=folders, members=1, epochs=1).fit(X, y[:, :2])
    assert router.add_described(found[2]).predict(X).shape == (60, 3)


def test_a_server_is_described(tmp_path, probes):
    token = {"token": "a", "bytes": [97], "logprob": -0.1}
    choice = {"message": {"content": "a"}, "logprobs": {"content": [{**token, "top_logprobs": [token]}]}}
    out = tmp_path / "out"
    with Upstream(choice) as upstream:
        arguments = ["--kind", "logit", f"--server=far={upstream.url}", "--upstream", "far-8b", "--out", str(out)]
        with pytest.raises(ConfigError, match=r"--tokenizer: .*tokens\.json is not there yet"):
            describe.main([*arguments, "--probes", str(probes)])
        TokenList((b"a", b"b"), "bytes").save(out / "tokens.json")
        describe.main(arguments)
    assert {body["model"] for body in upstream.asked} == {"far-8b"}
    np.testing.assert_allclose(load_descriptor(out / "far").vector, [np.exp(-0.1), 0.0])


def test_a_server_without_logprobs_leaves_nothing_behind(tmp_path, probes):
    out = tmp_path / "out"
    TokenList((b"a", b"b"), "bytes").save(out / "tokens.json")
    with Upstream({"message": {"content": "a"}}) as upstream, pytest.raises(BackendError, match="offers no logprobs"):
        describe.main(["--kind", "logit", f"--server=far={upstream.url}", "--probes", str(probes), "--out", str(out)])
    assert not (out / "far").exists()


def test_what_is_missing_is_named(tmp_path, probes):
    out = str(tmp_path / "out")
    with pytest.raises(ConfigError, match="--probes: .*is not there yet"):
        describe.main(["--kind", "logit", "--model", "a=b", "--out", out])
    with pytest.raises(ConfigError, match="--model: must be NAME=WHERE; got 'a'"):
        describe.main(["--kind", "logit", "--model", "a", "--probes", str(probes), "--out", out])
    with (
        Upstream({"message": {"content": "a"}}) as upstream,
        pytest.raises(ConfigError, match="--scorer: a perplexity fingerprint needs"),
    ):
        describe.main(["--kind", "perplexity", f"--server=far={upstream.url}", "--out", out])
    other = tmp_path / "other.json"
    ProbeSet(("something else",)).save(other)
    with pytest.raises(ConfigError, match="--probes: .*use another folder"):
        describe.main(["--kind", "logit", "--model", "a=b", "--probes", str(other), "--out", out])
    with pytest.raises(SystemExit):
        describe.main(["--kind", "logit", "--out", out])


def test_probes_can_be_drawn_from_the_train_split(tmp_path):
    table = load_table(POCKET / "outcomes")
    found = describe.probes_of(tmp_path, given=None, data=POCKET / "outcomes", count=12, seed=1)
    assert len(found.prompts) == 12
    assert set(found.prompts) <= set(table.split("train").router_texts())
    assert describe.probes_of(tmp_path, given=None, data=None, count=5, seed=2) == found, "those that are there"


# The ablation


def test_probes_of_the_ablation_are_no_prompts_of_the_log():
    table = load_table(POCKET / "outcomes")
    probes = pocket_probes(table, count=192)
    assert len(probes.prompts) == 192
    assert not set(probes.prompts) & set(table.router_texts())


def test_settings_are_listed_once_and_the_first_is_the_default():
    ways = [*ablation_descriptors.KINDS, "another"]
    listed = [changes for _, changes in ablation_descriptors.settings(ways)]
    assert listed[0] == {}
    assert all(listed.count(changes) == 1 for changes in listed)
    assert {changes.get("descriptors") for changes in listed} == {None, *ways}


@pytest.fixture
def described(tmp_path):
    """Prompts, outcomes, their truth and, as two ways, descriptors that say what models are good at, and nothing."""
    X, y, truth = topics(600)
    clusters = np.unique(truth, axis=0)
    rng = np.random.default_rng(5)
    names = [f"model-{number}" for number in range(4)]

    def way(vectors):
        return [
            ModelDescriptor(vector, "probes-48-x", "perplexity", {}, {"model": name})
            for name, vector in zip(names, vectors, strict=True)
        ]

    good = np.repeat(clusters.T, 12, axis=1) + 0.02 * rng.normal(size=(4, 48))
    return X, y, truth, write_pool({"good": way(good), "random": way(rng.normal(size=(4, 48)))}, tmp_path)


def test_written_pools_are_named_in_the_order_of_the_models(described):
    named = described[3]
    for number, folder in enumerate(named["good"].split("|")):
        assert load_descriptor(ablation_descriptors.Path(folder)).provenance["model"] == f"model-{number}"


def test_every_way_expects_something_of_the_hidden_model_but_one(described):
    X, y, _, named = described
    found = expectations(
        X[:400], y[:400], X[400:], hidden=1, named=named, parameters={"members": 1, "epochs": 3}, costs=[1, 2, 3, 4],
        seed=0,
    )  # fmt: skip
    none = [name for name, expected in found.items() if np.isnan(expected[:, 1]).any()]
    assert none == ["without it"]
    others = found["without it"][:, [0, 2, 3]]
    assert np.isfinite(others).all()
    np.testing.assert_array_equal(found["cscr, 20 scored prompts"][:, [0, 2, 3]], others)
    assert {"cscr, good, mean known", "cscr, good, spread, usual level", "ridge, prior, good, mean known"} <= set(found)
    mean = y[:400, 1].mean()
    assert found["ridge, prior, random, mean known"][:, 1].mean() == pytest.approx(mean, abs=0.05)


def test_a_comparison_that_was_broken_off_goes_on(tmp_path):
    path, measured = tmp_path / "kept.jsonl", []

    def measure():
        measured.append(1)
        return [[0.5, 0.25]]

    assert Kept(path).measured({"part": "a", "changes": {}}, measure) == [[0.5, 0.25]]
    again = Kept(path)
    assert again.measured({"changes": {}, "part": "a"}, measure) == [[0.5, 0.25]]
    assert len(measured) == 1
    again.measured({"part": "b", "changes": {}}, measure)
    assert len(measured) == 2
    Kept().measured({"part": "b", "changes": {}}, measure)
    assert len(measured) == 3
    assert len(path.read_text().splitlines()) == 2


def test_descriptors_are_named_in_the_rows_and_found_by_the_router(described):
    table = load_table(POCKET / "outcomes").split("train")
    few = table.select(np.arange(0, len(table), 20))
    X = np.random.default_rng(0).normal(size=(len(few), 8)).astype(np.float32)
    listed = [("outcome", {}), ("good", {"descriptors": "good"}), ("good", {"descriptors": "good", "spread": True})]
    rows = ablation.ablate(
        few, X, listed=listed, compared=(), common={"epochs": 1, "members": 1}, described=described[3], folds_judged=2
    )
    assert [row["changes"] for row in rows] == [changes for _, changes in listed]
    assert all(np.isfinite(row["raw, k=1"]["aiq"]) for row in rows)
    assert str(described[3]["good"]) not in json.dumps(rows), "no folder of this machine in the results"
