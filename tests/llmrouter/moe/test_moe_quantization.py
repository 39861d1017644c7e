"""Experts as integers: how far they are from the weights, what they compute, what they take, and what is refused."""

import pytest
import torch
from pocket_prompts import POCKET, accuracy, drawn_prompts
from tiny_experts import VOCABULARY, make_model

from llmrouter.exceptions import CheckpointError
from llmrouter.moe import Pruning, Quantization, load_engine
from llmrouter.moe.compression import QuantizedMatrices, moe_layers, quantize
from llmrouter.moe.experts import module_weights, register_experts, routing_hooks

KINDS = ["int8", "int8:8", "int4:8"]


def ours(model_type, implementation="llmrouter"):
    register_experts()
    model = make_model(model_type)
    model.set_experts_implementation(implementation)
    return model


@pytest.mark.parametrize(("kind", "bound"), [("int8", 0.012), ("int8:16", 0.006), ("int4:32", 0.12), ("int4:8", 0.09)])
def test_weights_come_back_within_the_steps_of_their_scale(kind, bound):
    matrices = torch.randn(3, 10, 64, generator=torch.Generator().manual_seed(0))
    stored = QuantizedMatrices(matrices, Quantization.parse(kind))
    back = stored.expanded(torch.arange(3))
    assert back.shape == matrices.shape
    assert float((back - matrices).norm() / matrices.norm()) < bound
    if kind.startswith("int8"):  # nothing is clipped: at most half a step
        half = stored.scales.repeat_interleave(64 // stored.scales.shape[-1], dim=-1) / 2
        assert bool(((back - matrices).abs() <= half + 1e-6).all())
    assert torch.equal(stored.expanded(torch.tensor([2, 0])), back[[2, 0]])


def test_weights_that_are_integers_of_a_scale_come_back_exactly():
    codes = torch.randint(-7, 8, (2, 4, 16), generator=torch.Generator().manual_seed(1)).float()
    codes[..., 0] = 7
    for kind, step in (("int4:16", 0.5), ("int8", 0.25 / 127 * 7)):
        matrices = codes * step
        torch.testing.assert_close(
            QuantizedMatrices(matrices, Quantization.parse(kind)).expanded(torch.arange(2)),
            matrices,
            rtol=0 if kind == "int4:16" else 0.02,
            atol=1e-6 if kind == "int4:16" else 0.01,
        )
    assert not QuantizedMatrices(torch.zeros(1, 2, 16), Quantization(8)).expanded(torch.arange(1)).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe", "gpt_oss", "nemotron_h"])
def test_a_quantised_model_is_the_model_with_the_rounded_weights(model_type, kind):
    quantised, rounded = ours(model_type), ours(model_type)
    before, after = quantize(quantised, Quantization.parse(kind))
    assert after < before * (0.4 if kind.startswith("int8") else 0.26)
    for layer, reference in zip(moe_layers(quantised), moe_layers(rounded), strict=True):
        stored, weights = layer.experts.llmrouter_quantized, module_weights(reference.experts)
        everything = torch.arange(layer.count)
        with torch.no_grad():
            weights.up.copy_(stored.up.expanded(everything))
            weights.down.copy_(stored.down.expanded(everything))
    tokens = torch.arange(3, 27).view(2, 12) % VOCABULARY
    with torch.inference_mode():
        for batch in (tokens, tokens[:1, :1]):
            torch.testing.assert_close(quantised(batch).logits, rounded(batch).logits, rtol=1e-5, atol=1e-5)


def test_skipped_experts_stay_skipped():
    model = ours("olmoe")
    tokens = torch.arange(5, 15).view(1, 10)

    def leave_out(module, hidden, index, weights):
        return torch.where(index % 2 == 0, 8, index), weights

    with torch.inference_mode(), routing_hooks(leave_out):
        expected = model(tokens).logits
        quantize(model, Quantization(8, group=8))
        torch.testing.assert_close(model(tokens).logits, expected, rtol=0.1, atol=0.1)
    with torch.inference_mode(), routing_hooks(lambda _, __, index, weights: (index * 0 + 8, weights)):
        assert torch.isfinite(model(tokens).logits).all()


def test_the_deterministic_option_holds(checkpoints, chat):
    engine = load_engine(checkpoints["olmoe"], deterministic=True, quantize=Quantization.parse("int8"))
    requests = [chat("hello " * size, max_tokens=5, logprobs=True) for size in (1, 4, 9)]
    together = engine.run(requests)
    for request, batched in zip(requests, together, strict=True):
        assert engine.run([request])[0].logprobs == batched.logprobs


@pytest.mark.parametrize(("kind", "worst"), [("int8", 0.0), ("int4:16", 0.1)])
@pytest.mark.parametrize("name", ["pocket-numbers", "pocket-words"])
def test_a_quantised_pocket_model_keeps_its_quality(name, kind, worst):
    pairs = drawn_prompts(name, 40)
    plain = accuracy(load_engine(POCKET / name), pairs)
    assert plain > 0.8
    assert accuracy(load_engine(POCKET / name, quantize=Quantization.parse(kind)), pairs) >= plain - worst - 0.025


def test_pruned_and_quantised(checkpoints, chat):
    engine = load_engine(checkpoints["olmoe"], prune=Pruning(0.5, ["hello"]), quantize=Quantization.parse("int4:16"))
    assert [layer.count for layer in moe_layers(engine.model)] == [4, 4]
    assert engine.run([chat("hello", max_tokens=3)])[0].output_tokens > 0


@pytest.mark.parametrize("text", ["int3", "int4:", "int4:x", "int8:-4", ""])
def test_a_kind_that_is_none(text):
    with pytest.raises(CheckpointError, match="write int8, int4, or a group of columns as in int4:16"):
        Quantization.parse(text)


def test_bad_settings():
    with pytest.raises(CheckpointError, match="2 bits are not supported; take 8 or 4"):
        Quantization(2)
    for group in (0, 1, 3):
        with pytest.raises(CheckpointError, match=f"group of quantised weights is {group}; .* even"):
            Quantization(4, group)


def test_models_that_cannot_be_quantised(checkpoints):
    with pytest.raises(
        CheckpointError, match="int4:32: experts of hidden size 32 and inner size 48 .* int4:16, or int8"
    ):
        load_engine(checkpoints["olmoe"], quantize=Quantization.parse("int4"))
    with pytest.raises(CheckpointError, match="quantisation needs a mixture-of-experts model"):
        load_engine(checkpoints["llama"], allow_dense=True, quantize=Quantization(8))
    with pytest.raises(CheckpointError, match="not 'grouped_mm'"):
        load_engine(checkpoints["olmoe"], experts="grouped_mm", quantize=Quantization(8))


def test_a_refusal_changes_nothing():
    model = ours("olmoe")  # hidden 32, inner 48: groups of 32 do not divide the second
    with pytest.raises(CheckpointError):
        quantize(model, Quantization.parse("int4"))
    assert torch.isfinite(model(torch.tensor([[1, 2, 3]])).logits).all()
