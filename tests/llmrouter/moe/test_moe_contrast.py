"""Self-contrast: the formula against two forward passes, in company as alone, and models that have no contrast."""

import pytest
import torch
from pocket_prompts import POCKET, accuracy, drawn_prompts
from tiny_checkpoints import ARCHITECTURES

from llmrouter.exceptions import CheckpointError
from llmrouter.moe import GenerationRequest, SelfContrast, load_engine
from llmrouter.moe._contrast import RULED_OUT, contrasted
from llmrouter.moe.experts import Reduction, routing_hooks


def second_expert(module, hidden, index, weights):
    order = weights.argsort(dim=-1, descending=True)
    return torch.where(order.argsort(dim=-1) == 1, index, 99), weights.sum(-1, keepdim=True).expand_as(weights)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_tokens_and_scores_are_those_of_two_full_passes(checkpoints, name):
    contrast = SelfContrast(beta=0.7, alpha=0.05)
    engine = load_engine(checkpoints[name], contrast=contrast)
    request = GenerationRequest(prompt="The quick brown", max_tokens=6, temperature=0.0, logprobs=True)
    [result] = engine.run([request])
    tokens = engine.vocabulary.encode(request.prompt, special_tokens=True)
    for entry in result.logprobs:
        ids = torch.tensor([tokens])
        with torch.inference_mode():
            strong = engine.model(ids).logits[0, -1].double().log_softmax(-1)
            with routing_hooks(second_expert):
                weak = engine.model(ids).logits[0, -1].double().log_softmax(-1)
        score = 1.7 * strong - 0.7 * weak
        score[strong.exp() < 0.05 * strong.exp().max()] = -torch.inf
        token = int(score.argmax())
        assert engine.vocabulary.token_bytes(token) == entry.bytes
        assert entry.logprob == pytest.approx(float(score.log_softmax(-1)[token]), abs=1e-4)
        tokens.append(token)


def test_without_strength_it_is_the_model():
    strong, weak = torch.randn(2, 3, 20, generator=torch.Generator().manual_seed(0))
    score = contrasted(strong, weak, SelfContrast(beta=1e-9, alpha=1e-12))
    torch.testing.assert_close(score, strong.log_softmax(-1), rtol=1e-5, atol=1e-5)


def test_improbable_tokens_are_ruled_out_by_a_finite_score():
    strong = torch.tensor([[4.0, 3.9, 0.0, -3.0]])
    weak = torch.tensor([[9.0, 0.0, -9.0, -9.0]])
    score = contrasted(strong, weak, SelfContrast())
    assert score.argmax() == 1
    assert score[0, 2:].tolist() == [RULED_OUT, RULED_OUT]
    assert float(score[0, :2].exp().sum()) == pytest.approx(1)
    assert not torch.isfinite(contrasted(strong * torch.nan, weak, SelfContrast())).any()


def test_in_company_as_alone(checkpoints, chat):
    engine = load_engine(checkpoints["mixtral"], max_batch=3, contrast=SelfContrast())
    requests = [chat("word " * (1 + size % 4), max_tokens=3 + 2 * size, seed=size) for size in range(7)]
    together = [result.text for result in engine.run(requests)]
    assert together == [engine.run([request])[0].text for request in requests]
    assert len(engine._batch) == 0


def test_the_deterministic_option_holds(checkpoints, chat):
    engine = load_engine(checkpoints["olmoe"], deterministic=True, contrast=SelfContrast())
    requests = [chat("hi " * size, max_tokens=4, logprobs=True, top_logprobs=3) for size in (1, 5)]
    together = engine.run(requests)
    assert [engine.run([request])[0].logprobs for request in requests] == [result.logprobs for result in together]


def test_fewer_experts_and_contrast(checkpoints, chat):
    engine = load_engine(checkpoints["olmoe"], reduction=Reduction(active=1), contrast=SelfContrast())
    assert engine.run([chat("hi", max_tokens=3)])[0].output_tokens > 0


def test_a_pocket_model_keeps_its_quality():
    pairs = drawn_prompts("pocket-words", 40)
    assert accuracy(load_engine(POCKET / "pocket-words", contrast=SelfContrast()), pairs) >= 0.9


def test_models_without_a_second_expert(checkpoints):
    with pytest.raises(CheckpointError, match="rank 2 .* a token of this model uses 1; it needs"):
        load_engine(POCKET / "pocket-mini", contrast=SelfContrast())
    with pytest.raises(CheckpointError, match="rank 3 .* uses 2"):
        load_engine(checkpoints["mixtral"], contrast=SelfContrast(rank=3))
    with pytest.raises(CheckpointError, match="self-contrast needs a mixture-of-experts model"):
        load_engine(checkpoints["llama"], allow_dense=True, contrast=SelfContrast())


@pytest.mark.parametrize(
    ("values", "match"),
    [({"beta": 0}, "strength .* is 0"), ({"beta": 11}, "up to 10"), ({"alpha": 0}, "alpha"), ({"rank": 0}, "rank")],
)
def test_bad_settings(values, match):
    with pytest.raises(CheckpointError, match=match):
        SelfContrast(**values)


def test_a_token_counts_once_among_the_experts(checkpoints, chat):
    engine = load_engine(checkpoints["olmoe"], contrast=SelfContrast())
    engine.run([chat("hello " * size, max_tokens=5) for size in (1, 3)])
    steps = engine.meter.histograms()[2].total
    assert steps > 0
    for load in engine.expert_load().values():
        assert load.routed == steps
        assert load.experts_a_token == 2
