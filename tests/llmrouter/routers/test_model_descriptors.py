"""Descriptors of models: probes and files, footprints by hand, what is refused, routers that use them."""

import asyncio
import json
import math
import subprocess
import sys

import numpy as np
import pytest

from llmrouter.exceptions import (
    ArtifactCorruptError,
    ArtifactError,
    BackendError,
    BackendStatusError,
    ConfigError,
    DataError,
    FingerprintError,
)
from llmrouter.pool import BackendResponse
from llmrouter.routers import CSCRRouter, ModelDescriptor
from llmrouter.routers.descriptors import (
    MeasuredSpace,
    ProbeSet,
    TokenList,
    answers_of_server,
    likeness,
    load_descriptor,
    logit_footprint_of_server,
    perplexity_fingerprint,
    save_descriptor,
)
from tests.contracts.router_kit import rmse, through_a_file, topics

PROBES = ProbeSet(("one?", "two?"))


class Words:
    """A tokenizer of single characters."""

    tokenizer = "characters"

    def split(self, text):
        return [character.encode() for character in text]


TOKENS = TokenList((b"a", b"b", b"z"), "characters")


class Server:
    """Answers each prompt with one choice, and remembers what it was asked."""

    def __init__(self, choice):
        self.choice, self.bodies = choice, []

    async def complete(self, body, *, timeouts, endpoint="chat/completions"):
        self.bodies.append(body)
        if isinstance(self.choice, Exception):
            raise self.choice
        return BackendResponse(json.dumps({"choices": [self.choice]}).encode())


def place(text, **chances):
    listed = [{"token": token, "bytes": list(token.encode()), "logprob": math.log(p)} for token, p in chances.items()]
    return {"token": text, "bytes": list(text.encode()), "logprob": math.log(chances[text]), "top_logprobs": listed}


def answer(*places):
    text = "".join(one["token"] for one in places)
    return {"message": {"content": text}, "logprobs": {"content": list(places)}}


AB = answer(place("a", a=0.75, b=0.25), place("b", a=0.25, b=0.5))


def footprint(choice, **further):
    return asyncio.run(logit_footprint_of_server(Server(choice), PROBES, TOKENS, model="theirs", **further))


def measured(vector, **changes):
    made = {"probe_set": PROBES.id, "kind": "perplexity", "settings": {"scorer": "s"}, "provenance": {"model": "m"}}
    return ModelDescriptor(np.asarray(vector, dtype=float), **(made | changes))


# Probes and tokens


def test_probes_are_named_by_what_they_are_and_in_which_order(tmp_path):
    assert ProbeSet(("a", "b")).id != ProbeSet(("b", "a")).id
    assert ProbeSet(("ab", "c")).id != ProbeSet(("a", "bc")).id
    texts = [f"prompt {number % 30}" for number in range(90)] + ["", "  "]
    drawn = ProbeSet.drawn(texts, count=8, seed=1)
    assert len(set(drawn.prompts)) == 8
    assert drawn.id == ProbeSet.drawn(texts[::-1], count=8, seed=1).id, "the order of the texts means nothing"
    drawn.save(tmp_path / "probes.json")
    assert ProbeSet.load(tmp_path / "probes.json") == drawn


@pytest.mark.parametrize("prompts", [(), ("a", " "), ("a", "b", "a")])
def test_bad_probes_are_refused(prompts):
    with pytest.raises(DataError, match="probes"):
        ProbeSet(prompts)


def test_the_list_of_tokens_is_the_most_frequent_ones(tmp_path):
    made = TokenList.most_frequent(["abba", "bz"], Words(), count=2)
    assert made == TokenList((b"b", b"a"), "characters")
    made.save(tmp_path / "tokens.json")
    assert TokenList.load(tmp_path / "tokens.json") == made
    with pytest.raises(DataError, match="tokens"):
        TokenList((b"a", b"a"), "characters")
    with pytest.raises(DataError, match="texts have none"):
        TokenList.most_frequent([""], Words())


@pytest.mark.parametrize(("kind", "made"), [(ProbeSet, PROBES), (TokenList, TOKENS)])
def test_a_changed_file_is_refused(tmp_path, kind, made):
    path = tmp_path / "it.json"
    made.save(path)
    found = json.loads(path.read_bytes())
    key = "prompts" if kind is ProbeSet else "tokens"
    path.write_text(json.dumps(found | {key: found[key][:1]}))
    with pytest.raises(ArtifactCorruptError, match="was changed"):
        kind.load(path)
    path.write_text(json.dumps({"id": made.id, key: 3}))
    with pytest.raises(ArtifactCorruptError, match=str(path)):
        kind.load(path)


# Files


def test_a_descriptor_comes_back_from_its_file(tmp_path):
    made = measured([0.5, np.nan], settings={"scorer": "s", "with_prompt": True})
    assert save_descriptor(tmp_path / "m", made) == save_descriptor(tmp_path / "again", made)
    found = load_descriptor(tmp_path / "m")
    np.testing.assert_array_equal(found.vector, made.vector)
    assert (found.kind, found.probe_set, found.settings, found.provenance) == (
        made.kind, made.probe_set, made.settings, made.provenance,
    )  # fmt: skip


def test_damaged_descriptors_are_refused(tmp_path):
    with pytest.raises(ArtifactError, match="holds no descriptor"):
        load_descriptor(tmp_path)
    save_descriptor(tmp_path, measured([1.0, 2.0]))
    about, vector = tmp_path / "descriptor.json", tmp_path / "descriptor.safetensors"
    whole, content = about.read_bytes(), json.loads(about.read_bytes())
    about.write_text(json.dumps(content | {"probe_set": "another"}))
    with pytest.raises(ArtifactCorruptError, match="was changed"):
        load_descriptor(tmp_path)
    about.write_text(json.dumps(content | {"format": 9}))
    with pytest.raises(ArtifactError, match="format 9"):
        load_descriptor(tmp_path)
    about.write_bytes(whole)
    vector.write_bytes(vector.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ArtifactCorruptError, match="SHA-256"):
        load_descriptor(tmp_path)
    vector.unlink()
    with pytest.raises(ArtifactCorruptError, match="cannot read"):
        load_descriptor(tmp_path)


# Logit footprints of servers


def test_a_footprint_is_the_mean_probability_of_each_listed_token():
    server = Server(AB)
    made = asyncio.run(logit_footprint_of_server(server, PROBES, TOKENS, model="theirs", tokenizer=Words(), places=2))
    np.testing.assert_allclose(made.vector, [0.5, 0.375, 0.0])
    assert made.kind == "logit"
    assert made.probe_set == PROBES.id
    assert made.settings == {"tokenizer": "characters", "vocabulary": TOKENS.id, "places": 2}
    assert made.provenance == {"model": "theirs", "answered": 2, "listed": 0.875, "top": 20, "seen": 0.875}
    for body, prompt in zip(server.bodies, PROBES.prompts, strict=True):
        assert body["messages"] == [{"role": "user", "content": prompt}]
        assert (body["temperature"], body["max_tokens"], body["logprobs"], body["top_logprobs"]) == (0, 2, True, 20)


def test_servers_that_send_no_bytes_are_read_by_the_text_of_tokens():
    choice = json.loads(json.dumps(AB))
    for one in choice["logprobs"]["content"]:
        for token in (one, *one["top_logprobs"]):
            token["bytes"] = None
    np.testing.assert_allclose(footprint(choice).vector, footprint(AB).vector)


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"message": {"content": "ab"}}, "offers no logprobs.*perplexity"),
        ({"message": {"content": "ab"}, "logprobs": None}, "offers no logprobs.*perplexity"),
        ({"message": {"content": "ab"}, "logprobs": {"content": [{"token": "a"}]}}, "offers no logprobs"),
        (
            {"message": {"content": "ab"}, "logprobs": {"content": [place("a", a=1.0) | {"top_logprobs": []}]}},
            "of its own tokens only.*perplexity",
        ),
        (
            BackendStatusError("no", model="theirs", status=400, body=b'{"error": "logprobs not supported"}'),
            "refuses logprobs.*400.*not supported.*perplexity",
        ),
        ("nonsense", "choice that is no object"),
    ],
)
def test_a_backend_without_logprobs_is_refused(choice, said):
    with pytest.raises(BackendError, match=f"theirs.*{said}"):
        footprint(choice)


def test_other_failures_of_a_backend_stay_what_they_are():
    down = BackendStatusError("busy", model="theirs", status=503, body=b"")
    with pytest.raises(BackendStatusError, match="busy"):
        footprint(down)


def test_an_empty_answer_says_nothing():
    with pytest.raises(DataError, match="answered none of the 2 probes"):
        footprint({"message": {"content": ""}, "logprobs": {"content": []}})


def test_another_tokenizer_is_refused():
    pieces = answer(place("ab", ab=0.9, a=0.1))
    with pytest.raises(FingerprintError, match=r"another tokenizer than 'characters'.*b'ab'.*b'a'"):
        footprint(pieces, tokenizer=Words())
    strange = answer(place("q", q=0.9, r=0.1))
    with pytest.raises(FingerprintError, match="none of the 3 listed tokens"):
        footprint(strange)

    class Other(Words):
        tokenizer = "syllables"

    with pytest.raises(FingerprintError, match="'syllables'.*'characters'.*list was made with"):
        footprint(AB, tokenizer=Other())


# Perplexity fingerprints


class Lengths:
    """Is the more surprised the longer an answer is."""

    weights = "lengths-1"

    def surprise(self, prompts, answers, *, with_prompt):
        longer = [len(prompt) if with_prompt else 0 for prompt in prompts]
        found = [len(answer) + more if answer else np.nan for answer, more in zip(answers, longer, strict=True)]
        return np.array(found, dtype=float)


def test_a_perplexity_fingerprint_is_the_surprise_at_each_answer():
    made = perplexity_fingerprint(PROBES, ["yes", ""], Lengths(), model="box")
    np.testing.assert_array_equal(made.vector, [7.0, np.nan])
    assert made.settings == {"scorer": "lengths-1", "with_prompt": True}
    assert made.provenance == {"model": "box", "answered": 1}
    assert perplexity_fingerprint(PROBES, ["yes", ""], Lengths(), model="box", with_prompt=False).vector[0] == 3.0
    with pytest.raises(DataError, match="1 of 'box' for 2 probes"):
        perplexity_fingerprint(PROBES, ["yes"], Lengths(), model="box")
    with pytest.raises(DataError, match="'box' answered none"):
        perplexity_fingerprint(PROBES, ["", ""], Lengths(), model="box")


def test_answers_are_asked_for_in_order():
    server = Server({"message": {"content": "yes"}})
    assert asyncio.run(answers_of_server(server, PROBES, model="box", max_tokens=5)) == ["yes", "yes"]
    assert "logprobs" not in server.bodies[0], "a black box need not offer any"
    silent = Server({"message": {"content": None}})
    assert asyncio.run(answers_of_server(silent, PROBES, model="box")) == ["", ""]


# Pools


def test_what_all_models_have_in_common_is_taken_off():
    pool = [measured([1.0, 5.0, 3.0]), measured([3.0, 5.0, 1.0])]
    rows = MeasuredSpace.over(pool).described(pool)
    np.testing.assert_allclose(rows, np.array([[-1, 0, 1], [1, 0, -1]]) / np.sqrt(2))
    plain = MeasuredSpace.over(pool, centred=False).described(pool)
    np.testing.assert_allclose(plain[0], np.array([-2, 2, 0]) / np.sqrt(8), err_msg="mean 0 over the probes")
    logit = [measured([3.0, 4.0], kind="logit"), measured([4.0, 3.0], kind="logit")]
    np.testing.assert_allclose(MeasuredSpace.over(logit, centred=False).described(logit)[0], [0.6, 0.8])
    unanswered = measured([np.nan, 5.0, 1.0])
    assert MeasuredSpace.over(pool).checked(unanswered)[0] == 0.0, "what is not known is taken to be usual"


def test_known_models_are_set_equally_far_apart():
    near = [measured([1.0, 0.0, 0.0]), measured([0.9, 0.3, 0.0]), measured([0.0, 0.0, 1.0])]
    space = MeasuredSpace.over(near, spread=True)
    rows = space.described(near)
    np.testing.assert_allclose(rows @ rows.T, 1.5 * np.eye(3) - 0.5, atol=0.02)
    plain = MeasuredSpace.over(near).described(near)
    assert plain[0] @ plain[1] > 0.7
    between = rows @ space.checked(measured([0.95, 0.15, 0.0]))
    np.testing.assert_allclose(between[0], between[1], atol=0.2, err_msg="a mixture of the first two")
    assert between[2] < -0.8
    again = MeasuredSpace.from_parts(space.arrays(), space.values())
    np.testing.assert_array_equal(again.described(near), rows)
    alike = MeasuredSpace.over([near[0], near[0]], spread=True)
    assert np.isfinite(alike.described(near)).all(), "models that do not differ are no trouble"


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (measured([1.0, 2.0], kind="logit"), "kind 'logit', but the router's is 'perplexity'.*same kind"),
        (measured([1.0, 2.0], probe_set="probes-9"), "probe_set 'probes-9'.*same probes"),
        (measured([1.0, 2.0], settings={"scorer": "t"}), "scorer 't'.*'s'.*same settings"),
        (measured([1.0, 2.0], settings={"scorer": "s", "places": 3}), "places 3.*None"),
        (measured([1.0, 2.0, 3.0]), r"shape \(3,\).*\(2,\)"),
    ],
)
def test_descriptors_that_cannot_be_compared_are_refused(other, said):
    space = MeasuredSpace.over([measured([1.0, 2.0]), measured([2.0, 1.0])])
    with pytest.raises(FingerprintError, match=f"descriptor of 'm' has .*{said}"):
        space.checked(other)
    with pytest.raises(FingerprintError):
        MeasuredSpace.over([measured([1.0, 2.0]), other])


def test_a_footprint_of_another_tokenizer_or_list_is_refused():
    settings = {"tokenizer": "t1", "vocabulary": "v1", "places": 10}
    pool = [measured(vector, kind="logit", settings=settings) for vector in ([0.1, 0.2], [0.2, 0.1])]
    for change, said in (
        ({"tokenizer": "t2"}, "tokenizer 't2'.*perplexity"),
        ({"vocabulary": "v2"}, "vocabulary 'v2'"),
    ):
        with pytest.raises(FingerprintError, match=said):
            MeasuredSpace.over(pool).checked(measured([0.1, 0.2], kind="logit", settings=settings | change))


def test_a_pool_of_nothing_or_of_outcomes_is_refused():
    with pytest.raises(DataError, match="there is none"):
        MeasuredSpace.over([])
    with pytest.raises(DataError, match="outcome fingerprint"):
        MeasuredSpace.over([measured([1.0], kind="outcome")])


def test_likeness_is_to_whom_a_model_leans():
    known = {"a": measured([1.0, 0.0, 0.0]), "b": measured([0.0, 1.0, 0.0]), "c": measured([0.0, 0.0, 1.0])}
    found = likeness(measured([0.9, 0.1, 0.0]), known)
    assert found["a"] > 0.9
    assert found["c"] == 0.0
    with pytest.raises(DataError, match="at least two"):
        likeness(known["a"], {"a": known["a"]})


# The router


@pytest.fixture
def pool(tmp_path):
    """Prompts, outcomes, their truth, and four descriptors that say what each model is good at, with noise."""
    X, y, truth = topics(800)
    clusters = np.unique(truth, axis=0)
    rng = np.random.default_rng(5)
    folders = []
    for model, chances in enumerate(clusters.T):
        folders.append(str(tmp_path / str(model)))
        noisy = np.repeat(chances, 12) + 0.05 * rng.normal(size=48)
        save_descriptor(tmp_path / str(model), measured(noisy, provenance={"model": str(model)}))
    return X, y, truth, folders


def test_a_router_is_fitted_on_measured_descriptors(pool):
    X, y, truth, folders = pool
    router = CSCRRouter(descriptors="|".join(folders), members=2).fit(X, y)
    assert router.vectors_.shape == (2, 4, 48)
    np.testing.assert_array_equal(router.vectors_[0], router.vectors_[1], "nothing of the outcomes is in them")
    assert rmse(router.predict(X), truth) < 0.8 * rmse(np.broadcast_to(y.mean(axis=0), y.shape), truth)
    apart = CSCRRouter(descriptors=folders, members=2, spread=True).fit(X, y)
    assert apart.vectors_.shape == (2, 4, 48)
    assert rmse(apart.predict(X), truth) < 0.9 * rmse(np.broadcast_to(y.mean(axis=0), y.shape), truth)
    listed = CSCRRouter(descriptors=folders, members=2).fit(X, y)
    np.testing.assert_array_equal(listed.predict(X), router.predict(X))


@pytest.mark.parametrize("spread", [False, True])
def test_what_is_learned_needs_the_files_no_more(pool, tmp_path, spread):
    X, y, _, folders = pool
    router = CSCRRouter(descriptors=folders[:3], members=2, spread=spread).fit(X, y[:, :3])
    new = load_descriptor(tmp_path / "3")
    for file in tmp_path.rglob("descriptor.*"):
        file.unlink()
    again = through_a_file(router)
    np.testing.assert_array_equal(again.predict(X), router.predict(X))
    np.testing.assert_array_equal(again.add_described(new).predict(X), router.add_described(new).predict(X))


@pytest.mark.parametrize("spread", [False, True])
def test_a_model_that_joins_by_its_descriptor_is_expected_where_it_is_good(pool, tmp_path, spread):
    X, y, truth, folders = pool
    router = CSCRRouter(descriptors=folders[:3], members=2, hidden=32, spread=spread).fit(X, y[:, :3])
    before = router.estimate(X)
    # The twin of a known model under another name: measured again, so not to the same numbers.
    twin = load_descriptor(tmp_path / "1")
    jitter = 0.02 * np.random.default_rng(1).normal(size=48)
    mean = float(y[:, 1].mean())
    router.add_described(measured(twin.vector + jitter, provenance={"model": "twin"}), level=mean, std=0.2)
    after = router.estimate(X)
    np.testing.assert_array_equal(after[0][:, :3], before[0], "the others stay as they are")
    np.testing.assert_array_equal(after[1][:, :3], before[1])
    cosines = router.similarity(X)
    assert np.corrcoef(cosines[:, 3], cosines[:, 1])[0, 1] > 0.95
    assert rmse(after[0][:, 3], truth[:, 1]) < 0.96 * rmse(np.full(len(X), mean), truth[:, 1])
    assert abs(after[0][:, 3].mean() - mean) < 0.03
    assert 0.15 < after[1][:, 3].mean() < 0.6
    for wrong in ({"level": 1.5}, {"std": 0.0}, {"std": np.nan}):
        with pytest.raises(DataError, match=next(iter(wrong))):
            router.add_described(twin, **wrong)
    with pytest.raises(FingerprintError, match="probe_set"):
        router.add_described(measured(twin.vector, probe_set="probes-48-other"))
    assert router.n_models_ == 4, "what was refused has left nothing behind"


def test_scored_prompts_stand_in_for_a_descriptor(pool):
    X, y, truth, folders = pool
    router = CSCRRouter(descriptors=folders[:3], members=2).fit(X, y[:, :3]).add_column(X[:300], y[:300, 3])
    constant = rmse(np.full(len(X), y[:, 3].mean()), truth[:, 3])
    assert rmse(router.predict(X)[:, 3], truth[:, 3]) < constant
    np.testing.assert_array_equal(through_a_file(router).predict(X), router.predict(X))


@pytest.mark.parametrize("given", ["a|b", ["a", "b", "c"], "a||b|c", [1, 2, 3, 4]])
def test_descriptors_must_be_one_a_model(given):
    X, y, _ = topics(40)
    with pytest.raises(ConfigError, match="descriptors must name 4 folders"):
        CSCRRouter(descriptors=given).fit(X, y)


def test_no_torch_is_needed_to_read_descriptors_and_servers():
    code = (
        "import sys, llmrouter.routers.descriptors as d\n"
        "assert d.logit_footprint_of_server and d.load_descriptor\n"
        "print([name for name in ('torch', 'transformers', 'aiohttp') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_routers_saved_before_there_were_measured_descriptors_still_take_in_models():
    X, y, _ = topics(300)
    router = CSCRRouter(probes=8, members=1).fit(X, y)
    arrays, values = router.state()
    del arrays["queries.mean"], values["learned"]["measured"]
    old = CSCRRouter.from_state(arrays, values)
    np.testing.assert_array_equal(old.predict(X), router.predict(X))
    descriptor = old.fingerprint_.one(X, y[:, 0], np.ones(len(X)))
    assert np.isfinite(old.add_described(descriptor).predict(X)).all()


def test_a_prior_works_beside_descriptors(pool):
    X, y, _, folders = pool
    router = CSCRRouter(descriptors=folders[:3], members=1).fit(X, y[:, :3])
    added = router.add_prior_column(X, level=0.6, std=0.2, weights=np.array([1.0, 0.0, 0.0]))
    assert added.predict(X)[:, 3].mean() == pytest.approx(0.6, abs=0.1)
