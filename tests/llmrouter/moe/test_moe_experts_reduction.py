"""Fewer experts than trained: the weights that are left, and models against Hugging Face's with fewer experts."""

from pathlib import Path

import pytest
import torch
from tiny_experts import make_model

from llmrouter.moe import load_engine
from llmrouter.moe.experts import Reduction, register_reduced_experts

POCKET = Path(__file__).parents[3] / "llmrouter" / "assets" / "pocket"
INDEX = torch.tensor([[4, 2, 7], [1, 3, 0]])
WEIGHTS = torch.tensor([[0.1, 0.6, 0.1], [0.5, 0.2, 0.3]])


def test_a_smaller_number_keeps_the_largest_weights_and_their_sum():
    index, weights = Reduction(active=2).apply(INDEX, WEIGHTS, 8)
    assert index.tolist() == [[4, 2, 8], [1, 8, 0]]
    torch.testing.assert_close(weights.sum(-1), WEIGHTS.sum(-1))
    torch.testing.assert_close(weights[1], torch.tensor([0.625, 0.0, 0.375]))


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [
        (0.7, [[8, 2, 8], [1, 8, 0]]),  # 0.6 of 0.8 is enough; 0.5 of 1 is not
        (0.8, [[4, 2, 8], [1, 8, 0]]),
        (0.01, [[8, 2, 8], [1, 8, 8]]),
        (1.0, [[4, 2, 7], [1, 3, 0]]),
    ],
)
def test_mass_takes_as_many_as_it_needs(top_p, expected):
    index, weights = Reduction(top_p=top_p).apply(INDEX, WEIGHTS, 8)
    assert index.tolist() == expected
    torch.testing.assert_close(weights.sum(-1), WEIGHTS.sum(-1))


def test_both_limits_hold():
    index, _ = Reduction(active=1, top_p=1.0).apply(INDEX, WEIGHTS, 8)
    assert index.tolist() == [[8, 2, 8], [1, 8, 8]]


def test_weights_of_zero_stay_finite():
    _, weights = Reduction(top_p=0.5).apply(INDEX, torch.zeros_like(WEIGHTS), 8)
    assert not weights.any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "both None"),
        ({"active": 0}, "active is 0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"top_p": 0.0}, "top_p is 0"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Reduction(**settings)


@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe"])
@pytest.mark.parametrize("active", [1, 2, 3])
def test_a_model_that_normalises_its_weights_is_as_configured_with_fewer_experts(model_type, active):
    settings = {"norm_topk_prob": True} if model_type == "qwen3_moe" else {}
    ids = torch.randint(3, 97, (3, 5), generator=torch.Generator().manual_seed(0))
    model = make_model(model_type, num_experts_per_tok=4, **settings)
    fewer = make_model(model_type, num_experts_per_tok=active, **settings)
    fewer.set_experts_implementation("eager")
    model.set_experts_implementation(register_reduced_experts(Reduction(active=active)))
    with torch.inference_mode():
        torch.testing.assert_close(model(ids).logits, fewer(ids).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["pocket-numbers", "pocket-words", "pocket-max"])
def test_on_pocket_models_more_mass_is_nearer_to_the_whole_model(name, chat):
    """A trained model: the mean divergence of its next-token distribution falls as more of the mass is computed."""
    if not (POCKET / name).is_dir():
        pytest.skip("this checkout has no pocket models")
    engine = load_engine(POCKET / name)
    questions = ["What is 3 + 4?", "Reverse the word stone.", "Which is larger, 45 or 54?", "WRITE dog IN UPPER CASE"]
    prompts = [
        engine.vocabulary.encode(engine.vocabulary.render(chat(q).messages), special_tokens=False) for q in questions
    ]

    def distributions(implementation):
        engine.model.set_experts_implementation(implementation)
        with torch.inference_mode():
            return [engine.model(torch.tensor([prompt])).logits[0].log_softmax(-1) for prompt in prompts]

    whole = distributions("llmrouter")

    def divergence(reduction):
        reduced = distributions(register_reduced_experts(reduction))
        pairs = zip(whole, reduced, strict=True)
        return float(torch.cat([(w.exp() * (w - r)).sum(-1) for w, r in pairs]).mean())

    found = {top_p: divergence(Reduction(top_p=top_p)) for top_p in (1.0, 0.9, 0.6)}
    assert abs(found[1.0]) < 1e-6
    assert found[1.0] <= found[0.9] <= found[0.6]
    assert divergence(Reduction(active=1)) >= found[0.6] > 0
