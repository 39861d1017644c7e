"""Penalties and biases: the formula against a loop over plain forward passes, and values out of range."""

import pytest
import torch

from llmrouter.exceptions import GenerationRequestError
from llmrouter.moe import GenerationRequest
from llmrouter.moe._adjust import Adjustment, adjusted


def request(**values):
    return GenerationRequest(prompt="The quick brown", max_tokens=16, temperature=0.0, **values)


def expected_text(engine, *, frequency=0.0, presence=0.0, bias=None):
    tokens = engine.vocabulary.encode("The quick brown", special_tokens=True)
    generated = []
    for _ in range(16):
        with torch.inference_mode():
            output = engine.model(torch.tensor([tokens + generated])).logits[0, -1]
        logits = output.double()
        for token in set(generated):
            logits[token] -= frequency * generated.count(token) + presence
        for token, value in (bias or {}).items():
            logits[token] += value
        generated.append(int(logits.argmax()))
        if generated[-1] in engine._end_tokens:
            break
    return engine.vocabulary.decode(generated)


@pytest.mark.parametrize("values", [{"frequency": 1.5}, {"presence": 2.0}, {"frequency": -2.0, "presence": -1.0}])
def test_penalties_are_openais(engine, values):
    named = {f"{name}_penalty": value for name, value in values.items()}
    assert engine.run([request(**named)])[0].text == expected_text(engine, **values)


def test_a_bias_bans_and_forces(engine):
    [plain] = engine.run([request()])
    first = engine.vocabulary.encode(plain.text, special_tokens=False)[0]
    for bias in ({first: -100.0, 50: 2.5}, {77: 100.0}):
        assert engine.run([request(logit_bias=bias)])[0].text == expected_text(engine, bias=bias)
    forced = engine.vocabulary.decode([77])
    assert engine.run([request(logit_bias={77: 100.0})])[0].text == forced * 16


def test_logprobs_are_from_before(engine):
    [plain] = engine.run([request(logprobs=True)])
    [changed] = engine.run([request(logprobs=True, logit_bias={77: 100.0})])
    assert changed.logprobs[0].logprob < plain.logprobs[0].logprob


def test_rows_without_an_adjustment_keep_their_bits():
    logits = torch.randn(3, 50)
    scores, refused = adjusted(logits, [None, Adjustment(bias={3: 1.0}), None])
    assert torch.equal(scores[[0, 2]], logits[[0, 2]])
    assert scores[1, 3] == logits[1, 3] + 1
    assert not refused
    assert adjusted(logits, [None] * 3)[0] is logits


@pytest.mark.parametrize(
    ("values", "param", "message"),
    [
        ({"frequency_penalty": 2.1}, "frequency_penalty", "from -2 to 2"),
        ({"presence_penalty": float("nan")}, "presence_penalty", "from -2 to 2"),
        ({"logit_bias": {5: 101.0}}, "logit_bias[5]", "from -100 to 100"),
        ({"logit_bias": dict.fromkeys(range(2000), 1.0)}, "logit_bias", "at most 1024"),
    ],
)
def test_values_out_of_range(values, param, message):
    with pytest.raises(GenerationRequestError, match=message) as caught:
        request(**values)
    assert caught.value.param == param


def test_a_token_that_the_model_has_not(engine):
    with pytest.raises(GenerationRequestError, match=r"logit_bias has the token 99999; this model's tokens are 0 to"):
        engine.run([request(logit_bias={99999: 1.0})])
