"""Hugging Face models give the same logits through our experts as through their own eager ones."""

import pytest
import torch
from tiny_experts import CLASSES, VOCABULARY, make_model

from llmrouter.moe import experts
from llmrouter.moe.experts import DETERMINISTIC_NAME, NAME, register_experts

TOLERANCE = 1e-5


@pytest.fixture(scope="module", autouse=True)
def registered():
    register_experts()


@pytest.fixture(scope="module", params=CLASSES)
def model(request):
    return make_model(request.param)


def logits(model, implementation, **inputs):
    model.set_experts_implementation(implementation)
    with torch.inference_mode():
        return model(**inputs).logits


def tokens(rows, length, seed=0):
    return torch.randint(3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("implementation", [NAME, DETERMINISTIC_NAME])
@pytest.mark.parametrize(("rows", "length"), [(1, 1), (1, 9), (8, 5), (64, 2)])
def test_logits_are_those_of_eager(model, implementation, rows, length):
    ids = tokens(rows, length)
    ours, eager = (logits(model, name, input_ids=ids) for name in (implementation, "eager"))
    torch.testing.assert_close(ours, eager, atol=TOLERANCE, rtol=0)


def test_logits_of_a_ragged_batch_are_those_of_eager(model):
    ids = tokens(6, 9)
    mask = torch.ones_like(ids)
    for row, padding in enumerate([0, 8, 3, 5, 1, 7]):
        mask[row, :padding] = 0
    ours, eager = (logits(model, name, input_ids=ids, attention_mask=mask)[mask.bool()] for name in (NAME, "eager"))
    torch.testing.assert_close(ours, eager, atol=TOLERANCE, rtol=0)


def test_the_model_really_computes_with_our_experts(model, monkeypatch):
    seen = []
    computed = experts._register.grouped_experts

    def spy(hidden, *arguments, **options):
        seen.append(tuple(hidden.shape))
        return computed(hidden, *arguments, **options)

    monkeypatch.setattr(experts._register, "grouped_experts", spy)
    logits(model, NAME, input_ids=tokens(2, 3))
    layers = sum(hasattr(module, "is_transposed") for module in model.modules())
    assert layers > 0
    assert seen == [(6, 32)] * layers


@pytest.mark.parametrize("model_type", ["mixtral", "gpt_oss"])
def test_gradients_are_those_of_eager(model_type):
    model = make_model(model_type)
    gradients = {}
    for name in (NAME, "eager"):
        model.set_experts_implementation(name)
        model.zero_grad()
        model(input_ids=tokens(4, 5)).logits.square().mean().backward()
        gradients[name] = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    for ours, eager in zip(gradients[NAME], gradients["eager"], strict=True):
        torch.testing.assert_close(ours, eager, atol=1e-4, rtol=1e-4)
