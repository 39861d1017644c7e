"""Embeddings: the parts of MoEE against plain forward passes, alone as beside others, limits, and failures."""

import numpy as np
import pytest
import torch
from tiny_checkpoints import make_checkpoint

from llmrouter.exceptions import EngineStoppedError, GenerationFailedError, GenerationRequestError, QueueFullError
from llmrouter.moe import EmbeddingRequest, load_engine

TEXTS = ["The quick brown fox", "What is two plus two?", "two plus two", "Größe 🙂", "fox " * 20, "The quick brown fox"]


@pytest.fixture
def embedder(engine):
    engine.start()
    yield engine
    engine.stop()


def vectors(engine, inputs, **values):
    job = engine.submit_embedding(EmbeddingRequest(inputs=inputs, **values))
    return job.future.result(60).vectors


def parts(engine, text):
    """Return the last token's hidden state and routing probabilities by two plain outputs of the whole model."""
    ids = torch.tensor([engine.vocabulary.encode(text, special_tokens=True)])
    with torch.inference_mode():
        output = engine.model(ids, output_hidden_states=True, output_router_logits=True)
    hidden = output.hidden_states[-1][0, -1].double()
    routing = torch.cat([layer[-1].double().softmax(-1) for layer in output.router_logits])
    return hidden.numpy(), routing.numpy()


def unit(vector):
    return vector / np.linalg.norm(vector)


def test_the_parts_are_those_of_the_model(embedder):
    for text, row in zip(TEXTS, range(len(TEXTS)), strict=True):
        hidden, routing = parts(embedder, text)
        assert routing.sum() == pytest.approx(2)  # two layers
        expected = {
            "hidden": unit(hidden),
            "routing": unit(routing),
            "concat": unit(np.concatenate([hidden, routing])),
            "sum": unit(np.concatenate([unit(hidden), np.sqrt(0.5) * unit(routing)])),
        }
        for kind, vector in expected.items():
            found = vectors(embedder, TEXTS, kind=kind, alpha=0.5)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found[row], vector, atol=1e-5)


def test_sum_is_the_weighted_sum_of_similarities(embedder):
    hidden, routing = (vectors(embedder, TEXTS, kind=kind).astype(float) for kind in ("hidden", "routing"))
    for alpha in (0.0, 1.0, 3.0):
        both = vectors(embedder, TEXTS, kind="sum", alpha=alpha).astype(float)
        expected = (hidden @ hidden.T + alpha * routing @ routing.T) / (1 + alpha)
        np.testing.assert_allclose(both @ both.T, expected, atol=1e-5)


def test_alone_as_beside_others(embedder):
    together = vectors(embedder, TEXTS)
    for row, text in enumerate(TEXTS):
        np.testing.assert_allclose(vectors(embedder, [text])[0], together[row], atol=1e-6)
    np.testing.assert_allclose(together[0], together[-1], atol=1e-6)  # the same text


@pytest.mark.parametrize("architecture", ["mixtral", "olmoe"])
def test_bitwise_under_the_deterministic_option(checkpoints, architecture):
    engine = load_engine(checkpoints[architecture], deterministic=True)
    engine.start()
    together = vectors(engine, TEXTS)
    for row, text in enumerate(TEXTS):
        assert np.array_equal(vectors(engine, [text])[0], together[row])
    engine.stop()


def test_token_ids_and_usage(embedder):
    ids = embedder.vocabulary.encode(TEXTS[0], special_tokens=True)
    result = embedder.submit_embedding(EmbeddingRequest(inputs=[ids, TEXTS[0]])).future.result(60)
    np.testing.assert_allclose(result.vectors[0], result.vectors[1], atol=1e-6)
    assert result.input_tokens == 2 * len(ids)


def test_generation_goes_on_between(mixtral, chat):
    [expected] = mixtral.run([chat("hello", max_tokens=20)])
    mixtral.start()
    handle = mixtral.submit(chat("hello", max_tokens=20))
    found = vectors(mixtral, TEXTS * 10)
    assert handle.wait(60).text == expected.text
    assert found.shape == (60, 32 + 2 * 4)
    assert mixtral.meter.finished["embedded"] == 1


def test_a_full_queue_cancelling_and_stopping(mixtral):
    with pytest.raises(EngineStoppedError, match="start"):
        vectors(mixtral, TEXTS)
    mixtral.start()
    request = EmbeddingRequest(inputs=TEXTS)
    with mixtral._step_lock:
        jobs = [mixtral.submit_embedding(request) for _ in range(mixtral.max_queue)]
        with pytest.raises(QueueFullError):
            mixtral.submit_embedding(request)
        assert mixtral.stats().waiting == 3
        jobs[1].cancel()
    assert len(jobs[0].future.result(60).vectors) == len(jobs[2].future.result(60).vectors) == 6
    with pytest.raises(GenerationFailedError, match="cancelled"):
        jobs[1].future.result(60)
    assert mixtral.meter.finished["cancelled"] == 1


def test_stopping_ends_what_waits(mixtral):
    mixtral.start()
    with mixtral._step_lock:
        jobs = [mixtral.submit_embedding(EmbeddingRequest(inputs=TEXTS * 50)) for _ in range(2)]
    mixtral.stop()
    with pytest.raises(EngineStoppedError, match="stopped"):
        jobs[1].future.result(60)


def test_a_failure_ends_its_job_only(mixtral, monkeypatch):
    mixtral.start()
    with monkeypatch.context() as broken:
        broken.setattr(mixtral.model, "get_decoder", lambda: 1 / 0)
        with pytest.raises(GenerationFailedError, match="the embedding failed: division"):
            vectors(mixtral, TEXTS)
    assert len(vectors(mixtral, TEXTS)) == len(TEXTS)


def test_weights_that_give_nan_are_reported(mixtral):
    with torch.no_grad():
        mixtral.model.model.norm.weight.fill_(float("nan"))
    mixtral.start()
    with pytest.raises(GenerationFailedError, match="not finite"):
        vectors(mixtral, TEXTS)


def test_a_model_without_routers(tmp_path):
    engine = load_engine(make_checkpoint(tmp_path / "m", "llama"), allow_dense=True)
    engine.start()
    with pytest.raises(GenerationRequestError, match="give moee: hidden") as caught:
        vectors(engine, TEXTS)
    assert caught.value.param == "moee"
    assert vectors(engine, TEXTS, kind="hidden").shape == (6, 32)
    engine.stop()


@pytest.mark.parametrize(
    ("values", "param", "message"),
    [
        ({"inputs": []}, "input", "has 0 texts; it must be 1 to 2048"),
        ({"inputs": ["x"] * 2049}, "input", "2049 texts"),
        ({"inputs": ["x", ""]}, "input[1]", r"input\[1\] is empty"),
        ({"inputs": [[]]}, "input[0]", "is empty"),
        ({"inputs": ["fox " * 400]}, "input[0]", "this model takes 256. Shorten or split it"),
        ({"inputs": [[5, 999]]}, "input[0]", "has the token 999; this model's tokens are 0 to"),
        ({"inputs": ["fox " * 100] * 1600}, "input", "give at most 300000 in one request"),
        ({"inputs": ["x"], "kind": "mean"}, "moee", "'mean'; it must be one of concat, sum, hidden, routing"),
        ({"inputs": ["x"], "kind": "sum", "alpha": -1.0}, "moee_alpha", "from 0 to 1e6"),
    ],
)
def test_wrong_requests(mixtral, values, param, message):
    mixtral.start()
    with pytest.raises(GenerationRequestError, match=message) as caught:
        mixtral.submit_embedding(EmbeddingRequest(**values))
    assert caught.value.param == param
