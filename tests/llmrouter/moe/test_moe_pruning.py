"""Pruning: what an expert does is measured, the rest of the model is the model without the removed experts."""

import random

import pytest
import torch
from pocket_prompts import POCKET, accuracy, drawn_prompts
from tiny_experts import VOCABULARY, exact, make_model

from llmrouter.exceptions import CheckpointError
from llmrouter.moe import Pruning, load_engine
from llmrouter.moe.compression import calibrate, choose_kept, keep_experts, moe_layers, prune
from llmrouter.moe.compression._gates import learned_gates
from llmrouter.moe.compression._pruning import PRUNABLE, with_rates_of
from llmrouter.moe.experts import module_weights, register_experts, routing_hooks

PROMPTS = [[3, 1, 4], [1, 5, 9, 2, 6], [5], [35, 8, 9, 7]]


def ours(model_type, **changes):
    register_experts()
    model = make_model(model_type, **changes)
    model.set_experts_implementation("llmrouter")
    return model


@pytest.mark.parametrize("model_type", PRUNABLE)
def test_a_pruned_model_is_the_model_whose_router_cannot_choose_the_removed(model_type):
    tokens = torch.arange(2, 26).view(2, 12) % VOCABULARY
    whole, pruned = ours(model_type), ours(model_type)
    kept = prune(pruned, Pruning(0.4, ["x"], allocation="global"), PROMPTS, end_tokens=frozenset())
    assert sum(map(len, kept.values())) == 16 - 6
    for layer in moe_layers(whole):
        router, barred = layer.router(), torch.full((layer.count,), -torch.inf)
        barred[kept[layer.name]] = 0.0
        normalised = getattr(router, "norm_topk_prob", True)

        def choose(hidden, router=router, barred=barred, normalised=normalised):
            logits = torch.nn.functional.linear(hidden.reshape(-1, 32), router.weight) + barred
            weights, index = logits.softmax(-1).topk(2)
            return logits, weights / weights.sum(-1, keepdim=True) if normalised else weights, index

        router.forward = choose
    with torch.inference_mode():
        torch.testing.assert_close(pruned(tokens).logits, whole(tokens).logits, rtol=1e-5, atol=1e-5)
    assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in whole.parameters())


def test_activation_is_router_weight_times_length_of_the_output():
    model = ours("olmoe")
    seen = {}

    def watch(module, hidden, index, weights):
        seen.setdefault(id(module), []).append((hidden, index, weights))
        return index, weights

    with routing_hooks(watch):
        measured = calibrate(model, PROMPTS, end_tokens=frozenset(), answer_tokens=3)
    assert [len(sequence) for sequence in measured.sequences] == [len(prompt) + 3 for prompt in PROMPTS]
    # The last token of an answer is said, not read.
    assert measured.tokens == sum(map(len, measured.sequences)) - len(PROMPTS)
    for layer in moe_layers(model):
        weights = module_weights(layer.experts)
        expected = torch.zeros(layer.count, dtype=torch.float64)
        for hidden, index, shares in seen[id(layer.experts)]:
            for token, slot in [(t, s) for t in range(len(hidden)) for s in range(2)]:
                expert = index[token, slot].reshape(1, 1)
                output = exact(hidden[token : token + 1], expert, torch.ones(1, 1), weights)
                expected[int(expert)] += float(shares[token, slot]) * output.norm().item()
        torch.testing.assert_close(measured.activation[layer.name], expected / measured.tokens, rtol=1e-4, atol=1e-7)


def test_answers_are_the_engines_greedy_ones(checkpoints):
    engine = load_engine(checkpoints["qwen3_moe"])
    prompts = [engine.vocabulary.encode(text, special_tokens=True) for text in ("hello", "a longer prompt", "x")]
    measured = calibrate(engine.model, prompts, end_tokens=engine._end_tokens, answer_tokens=12)
    for prompt, sequence in zip(prompts, measured.sequences, strict=True):
        with torch.inference_mode():
            expected = engine.model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)[0].tolist()
        assert sequence == expected


def test_the_rules_on_given_scores():
    scores = {"a": torch.tensor([4.0, 1.0, 3.0, 2.0]), "b": torch.tensor([40.0, 30.0, 29.0, 1.0])}
    uniform = choose_kept(scores, Pruning(0.25, ["x"]), top_k=1)
    assert uniform == {"a": [0, 2, 3], "b": [0, 1, 2]}
    # As shares, b's last and a's second are least; then a's fourth (0.2).
    three = choose_kept(scores, Pruning(0.375, ["x"], allocation="global"), top_k=1)
    assert three == {"a": [0, 2], "b": [0, 1, 2]}
    kept = choose_kept(scores, Pruning(0.5, ["x"], allocation="global"), top_k=2)
    assert all(len(experts) == 2 for experts in kept.values())


def test_rates_of_one_rule_with_the_experts_of_another():
    activation = {"a": torch.tensor([4.0, 1.0, 3.0, 2.0]), "b": torch.tensor([1.0, 2.0, 3.0, 4.0])}
    assert with_rates_of({"a": [1, 3], "b": [0, 1, 2]}, activation) == {"a": [0, 2], "b": [1, 2, 3]}


def test_learned_gates_take_experts_from_the_layer_that_can_spare_them():
    model = ours("qwen3_moe", norm_topk_prob=True)
    first, second = moe_layers(model)
    with torch.no_grad():  # eight copies of one expert: whichever are removed, nothing changes
        for name in ("gate_up_proj", "down_proj"):
            parameter = getattr(first.experts, name)
            parameter.copy_(parameter[:1].expand_as(parameter))
    before = [parameter.clone() for parameter in model.parameters()]
    draw = random.Random(0)
    prompts = [[draw.randrange(VOCABULARY) for _ in range(12)] for _ in range(24)]
    measured = calibrate(model, prompts, end_tokens=frozenset(), answer_tokens=2)
    scores = learned_gates(model, [first, second], measured, rate=0.375, seed=0, steps=100)
    kept = choose_kept(scores, Pruning(0.375, ["x"], allocation="learned"), top_k=2)
    assert len(kept[first.name]) < 5 < len(kept[second.name])
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("allocation", ["uniform", "global", "learned"])
def test_a_pruned_pocket_model_still_answers(allocation, monkeypatch):
    monkeypatch.setattr("llmrouter.moe.compression._gates.STEPS", 10)
    pairs = drawn_prompts("pocket-words", 70)
    pruning = Pruning(0.13, [prompt for prompt, _ in pairs[:40]], allocation=allocation)
    engine = load_engine(POCKET / "pocket-words", prune=pruning)
    assert sum(layer.count for layer in moe_layers(engine.model)) == 24 - 3
    assert accuracy(engine, pairs[40:]) >= 0.8


@pytest.mark.parametrize("rate", [0, 1, -0.1, 1.5, float("nan")])
def test_a_rate_out_of_range(rate):
    with pytest.raises(CheckpointError, match="pruning rate is .* above 0 and below 1"):
        Pruning(rate, ["x"])


def test_other_bad_settings():
    with pytest.raises(CheckpointError, match="'best'; one of uniform, global, learned"):
        Pruning(0.5, ["x"], allocation="best")
    for prompts in ([], ["  "], "a string"):
        with pytest.raises(CheckpointError, match="no calibration prompts"):
            Pruning(0.5, prompts)


@pytest.mark.parametrize(("rate", "allocation"), [(0.9, "uniform"), (0.8, "global"), (0.001, "uniform")])
def test_a_rate_that_the_model_does_not_have(checkpoints, rate, allocation):
    with pytest.raises(CheckpointError, match=r"at least the 2 that a token uses, so take a rate from .* to 0\.75"):
        load_engine(checkpoints["olmoe"], prune=Pruning(rate, ["hello"], allocation=allocation))


def test_models_that_cannot_be_pruned(checkpoints):
    with pytest.raises(CheckpointError, match="pruning needs a mixture-of-experts model"):
        load_engine(checkpoints["llama"], allow_dense=True, prune=Pruning(0.5, ["x"]))
    with pytest.raises(CheckpointError, match="needs experts computed by 'llmrouter', not 'eager'"):
        load_engine(checkpoints["olmoe"], experts="eager", prune=Pruning(0.5, ["x"]))
    with pytest.raises(CheckpointError, match="'gpt_oss' cannot be pruned here"):
        prune(ours("gpt_oss"), Pruning(0.5, ["x"]), PROMPTS, end_tokens=frozenset())


def test_one_expert_less_in_one_layer():
    model = ours("mixtral")
    layer = moe_layers(model)[0]
    rows = layer.experts.down_proj[[0, 2, 3, 4, 5, 6, 7]].clone()
    keep_experts(layer, [0, 2, 3, 4, 5, 6, 7])
    assert torch.equal(layer.experts.down_proj, rows)
    assert [found.count for found in moe_layers(model)] == [7, 8]
