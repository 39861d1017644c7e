"""Descriptors of real models: what a server says beside what the weights say, and models that join by them alone."""

import asyncio
import importlib.resources
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="local models need the extra [moe]")

from llmrouter.encoders import encode_cached, load_encoder
from llmrouter.exceptions import CheckpointError, FingerprintError
from llmrouter.moe import GenerationRequest, Quantization, load_engine
from llmrouter.outcomes import load_table
from llmrouter.pool import BackendResponse
from llmrouter.routers import CSCRRouter
from llmrouter.routers.descriptors import (
    HubTokenizer,
    LocalModel,
    ProbeSet,
    TokenList,
    answers_of_server,
    likeness,
    load_descriptor,
    logit_footprint_of_server,
    perplexity_fingerprint,
    save_descriptor,
)

POCKET = Path(str(importlib.resources.files("llmrouter"))) / "assets" / "pocket"
NAMES = ("pocket-mini", "pocket-numbers", "pocket-words", "pocket-max")
MAX_TOKENS = 24


@pytest.fixture(scope="module")
def models(torch_in_one_thread):
    return {name: LocalModel.load(POCKET / name, device="cpu") for name in NAMES}


@pytest.fixture(scope="module")
def probes():
    return ProbeSet.drawn(load_table(POCKET / "outcomes").split("train").router_texts(), count=40, seed=3)


@pytest.fixture(scope="module")
def tokens(models, probes):
    return TokenList.most_frequent(probes.prompts, models["pocket-mini"], count=200)


class EngineServer:
    """The chat API over an engine: as a server would answer, without one."""

    def __init__(self, engine):
        self.engine = engine

    async def complete(self, body, *, timeouts, endpoint="chat/completions"):
        given = {
            key: body[key]
            for key in ("messages", "max_tokens", "temperature", "logprobs", "top_logprobs")
            if key in body
        }
        [result] = self.engine.run([GenerationRequest(**given)])
        content = [
            {**_token(one), "top_logprobs": [_token(other) for other in one.top]} for one in result.logprobs or ()
        ]
        choice = {
            "message": {"content": result.text},
            "logprobs": {"content": content} if result.logprobs is not None else None,
        }
        return BackendResponse(json.dumps({"choices": [choice]}).encode())


def _token(one):
    return {"token": one.text, "bytes": list(one.bytes), "logprob": one.logprob}


@pytest.fixture(scope="module")
def server():
    return EngineServer(load_engine(POCKET / "pocket-words", device="cpu"))


def test_a_server_says_what_the_weights_say(models, probes, tokens, server):
    read = models["pocket-words"].logit_footprint(probes, tokens)
    tokenizer = HubTokenizer.load(POCKET / "pocket-words")
    said = asyncio.run(logit_footprint_of_server(server, probes, tokens, model="pocket-words", tokenizer=tokenizer))
    assert (said.probe_set, said.settings) == (read.probe_set, read.settings), "the two can be compared"
    assert said.provenance["seen"] > 0.9
    np.testing.assert_allclose(said.vector, read.vector, atol=2e-3)
    assert (said.vector <= read.vector + 1e-6).all(), "what is not among the top 20 is missing"


def test_answers_are_the_same_over_a_server(models, probes, server):
    said = asyncio.run(answers_of_server(server, probes, model="pocket-words", max_tokens=MAX_TOKENS))
    assert said == models["pocket-words"].answers(probes.prompts, max_tokens=MAX_TOKENS)


def test_surprise_at_its_own_answer_is_what_the_engine_reports(models, server):
    prompts = ["Make the word bear upper case", "Spell the word chair"]
    results = server.engine.run(
        [
            GenerationRequest(
                messages=[{"role": "user", "content": prompt}], max_tokens=MAX_TOKENS, temperature=0.0, logprobs=True
            )
            for prompt in prompts
        ]
    )
    expected = [-np.mean([one.logprob for one in result.logprobs]) for result in results]
    found = models["pocket-words"].surprise(prompts, [result.text for result in results], with_prompt=True)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    alone = models["pocket-words"].surprise(prompts, ["BEAR", " "], with_prompt=False)
    assert alone[0] > found[0], "without the question the answer is a surprise"
    assert np.isnan(alone[1])


def test_refusals_of_a_local_model(models, probes, tmp_path):
    foreign = TokenList((b"a", b"b"), "vocabulary-2-of-another")
    with pytest.raises(FingerprintError, match=r"'vocabulary-2-of-another', but 'pocket-mini' has 'vocabulary-691-"):
        models["pocket-mini"].logit_footprint(probes, foreign)
    with pytest.raises(CheckpointError, match="cannot be loaded as a causal language model"):
        LocalModel.load(tmp_path)
    with pytest.raises(CheckpointError, match="no tokenizer"):
        HubTokenizer.load(tmp_path)


def test_the_same_vocabulary_has_the_same_name_and_other_weights_have_another(models):
    assert len({model.tokenizer for model in models.values()}) == 1
    assert models["pocket-max"].tokenizer == HubTokenizer.load(POCKET / "pocket-max").tokenizer
    assert len({model.weights for model in models.values()}) == len(NAMES)


def test_a_fifth_model_is_known_by_its_descriptor(models, probes, tokens):
    """The best model with its experts in four bits: other weights and other answers, but nothing else is like it."""
    from transformers import AutoTokenizer

    squeezed = load_engine(POCKET / "pocket-max", device="cpu", quantize=Quantization(4))
    fifth = LocalModel(squeezed.model, AutoTokenizer.from_pretrained(POCKET / "pocket-max"), name="pocket-max-int4")
    scorer = models["pocket-mini"]

    def logit(model):
        return model.logit_footprint(probes, tokens)

    def perplexity(model):
        answers = model.answers(probes.prompts, max_tokens=MAX_TOKENS)
        return perplexity_fingerprint(probes, answers, scorer, model=model.name)

    for describe in (logit, perplexity):
        alike = likeness(describe(fifth), {name: describe(model) for name, model in models.items()})
        assert max(alike, key=alike.get) == "pocket-max"
        assert alike["pocket-max"] > 0.9
        assert alike["pocket-numbers"] < 0.5


NUMBERS = {
    "add", "subtract", "multiply", "larger", "smaller", "maximum", "minimum", "sort_numbers", "parity", "next_number",
    "convert_units", "count_items",
}  # fmt: skip


@pytest.mark.parametrize("new", [1, 2])
def test_a_specialist_gets_the_prompts_that_it_is_good_at(models, probes, tokens, tmp_path, new):
    """It joins three models that never saw it: its descriptor, its costs, and nothing else."""
    table = load_table(POCKET / "outcomes").split("train")
    table = table.select(np.arange(0, len(table), 3))
    assert table.models == NAMES
    X = encode_cached(load_encoder("form"), table.router_texts())
    fitted, judged = np.arange(0, len(table), 2), np.arange(1, len(table), 2)
    known = [column for column in range(4) if column != new]
    for name, model in models.items():
        save_descriptor(tmp_path / name, model.logit_footprint(probes, tokens))
    folders = [str(tmp_path / NAMES[column]) for column in known]
    costs = table.cost_usd.mean(axis=0)
    settings = {"descriptors": folders, "costs": [costs[column] for column in known]}
    router = CSCRRouter(**settings, spread=True, hidden=64, members=1)
    router.fit(X[fitted], table.quality[np.ix_(fitted, known)]).add_described(load_descriptor(tmp_path / NAMES[new]))
    utility = router.predict(X[judged]) - 0.5 * costs[[*known, new]] / costs.max()
    got = utility.argmax(axis=1) == 3
    of_numbers = np.array([task in NUMBERS for task in table.tasks])[judged]
    own = of_numbers if NAMES[new] == "pocket-numbers" else ~of_numbers
    assert got[own].mean() > got[~own].mean() + 0.2
    right = table.quality[judged, new]
    assert right[got].mean() > right.mean() + 0.1, "what it gets it answers right more often than what it does not"
