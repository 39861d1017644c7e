"""With the deterministic option no bit of a request's logits depends on its batch-mates; nobody can be crowded out."""

import math
import random
from pathlib import Path

import pytest
import torch
from tiny_checkpoints import ARCHITECTURES
from tiny_experts import CLASSES, VOCABULARY, make_layer, make_model

from llmrouter.exceptions import CheckpointError
from llmrouter.moe import load_engine
from llmrouter.moe._batch import RunningBatch
from llmrouter.moe.experts import DETERMINISTIC_NAME, BatchInvariant, grouped_experts, module_weights, register_experts

POCKET = Path(__file__).parents[3] / "llmrouter" / "assets" / "pocket"


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request):
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def deterministic_engines(checkpoints):
    return {name: load_engine(checkpoints[name], deterministic=True) for name in ARCHITECTURES}


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("hidden_size", "inner"), [(56, 40), (256, 1100)])
def test_a_layer_gives_a_token_the_same_bits_in_any_batch(dtype, hidden_size, inner):
    hidden, index, weights, layer = make_layer(4, hidden_size, inner, 2, 70, dtype=dtype)
    together = grouped_experts(hidden, index, weights, layer, deterministic=True)
    draw = random.Random(0)
    for size in (1, 2, 7, 16, 17, 40):
        rows = draw.sample(range(70), size)
        assert torch.equal(
            grouped_experts(hidden[rows], index[rows], weights[rows], layer, deterministic=True), together[rows]
        )


@pytest.mark.parametrize("model_type", CLASSES)
def test_a_model_gives_a_sequence_the_same_bits_in_any_batch(model_type):
    register_experts()
    model = make_model(model_type, attn_implementation="eager" if model_type == "gpt_oss" else "sdpa")
    model.set_experts_implementation(DETERMINISTIC_NAME)
    ids = torch.randint(3, VOCABULARY, (9, 6), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), BatchInvariant():
        together = model(input_ids=ids).logits
        for rows in ([0], [8], [3, 5], [7, 1, 2, 6, 4]):
            assert torch.equal(model(input_ids=ids[rows]).logits, together[rows])


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_request_keeps_its_bits_whoever_joins_and_leaves(deterministic_engines, architecture):
    model = deterministic_engines[architecture].model
    draw = random.Random(1)
    prompt = [draw.randrange(3, 300) for _ in range(21)]
    continuation = [draw.randrange(3, 300) for _ in range(3)]

    def follow(mates):
        """Return the logits of the prompt and of each token after it, beside the mates given at each step."""
        batch = RunningBatch(model, deterministic=True)
        longer = [mate for mate in mates[0] if len(mate) >= len(prompt)]
        shorter = [mate for mate in mates[0] if len(mate) < len(prompt)]
        row = len(longer)
        seen = [batch.prefill([*longer, prompt, *shorter])[row]]
        for token, joining in zip(continuation, mates[1:]):
            tokens = [draw.randrange(3, 300) for _ in range(len(batch))]
            tokens[row] = token
            seen.append(batch.decode(tokens)[row])
            if joining:
                batch.prefill(joining)
        return torch.stack(seen)

    def others(count, longest):
        prompts = [[draw.randrange(3, 300) for _ in range(draw.randint(1, longest))] for _ in range(count)]
        return sorted(prompts, key=len, reverse=True)

    alone = follow([[]] * 4)
    assert torch.equal(follow([others(5, 30), [], others(3, 40), []]), alone)
    # The cache becomes wider than a block of columns, first beside the prompt and then beside the running row.
    assert torch.equal(follow([[*others(1, 20), [5] * 140][::-1], others(1, 9), [], others(2, 9)]), alone)
    assert torch.equal(follow([others(2, 20), [[7] * 130], others(1, 9), []]), alone)


@pytest.mark.parametrize("name", ["pocket-mini", "pocket-max"])
def test_a_pocket_model_answers_with_the_same_logprobs_alone_and_in_a_batch(name, chat):
    if not (POCKET / name).is_dir():
        pytest.skip("this checkout has no pocket models")
    engine = load_engine(POCKET / name, deterministic=True)
    questions = ["What is 3 + 4?", "Reverse the word stone.", "Which is larger, 45 or 54?", "WRITE dog IN UPPER CASE"]
    requests = [chat(question, max_tokens=12, logprobs=True) for question in questions]
    for request, batched in zip(requests, engine.run(requests), strict=True):
        assert engine.run([request])[0].logprobs == batched.logprobs


def capped(module, hidden, index, weights, factor=1.25):
    """Experts as trained models with a capacity dispatch them: first come, first served, the rest is dropped."""
    layer = module_weights(module)
    capacity = math.ceil(factor * index.numel() / layer.count)
    taken = [0] * layer.count
    kept = index.clone()
    for token, chosen in enumerate(index.tolist()):
        for slot, expert in enumerate(chosen):
            taken[expert] += 1
            if taken[expert] > capacity:
                kept[token, slot] = layer.count
    return grouped_experts(hidden, kept, weights, layer)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def victim_model(request, checkpoints):
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    ALL_EXPERTS_FUNCTIONS.register("capped", capped)
    return load_engine(checkpoints[request.param], deterministic=True).model


class TestTheCapacityAttack:
    """An attacker fills the buffers of the experts that a victim needs (Buffer Overflow in Mixture of Experts,
    arXiv:2402.05526): repeating the victim's words does, as the same words choose the same experts."""

    @staticmethod
    def change(model, *, deterministic=False):
        """Return how far an attacker who comes first moves the victim's logits."""
        victim = [random.Random(5).randrange(3, 300) for _ in range(12)]
        alone = RunningBatch(model, deterministic=deterministic).prefill([victim])[0]
        attacked = RunningBatch(model, deterministic=deterministic).prefill([victim] * 8)[-1]
        return float((attacked - alone).abs().max())

    def test_succeeds_against_experts_with_a_capacity(self, victim_model):
        victim_model.set_experts_implementation("capped")
        assert self.change(victim_model) > 0.1

    def test_fails_against_ours(self, victim_model):
        victim_model.set_experts_implementation("llmrouter")
        assert self.change(victim_model) < 1e-5

    def test_does_not_change_a_bit_with_the_deterministic_option(self, victim_model):
        victim_model.set_experts_implementation(DETERMINISTIC_NAME)
        assert self.change(victim_model, deterministic=True) == 0.0


def test_other_experts_with_the_deterministic_option_are_refused(checkpoints):
    with pytest.raises(CheckpointError, match="experts is 'grouped_mm'; with deterministic leave it out"):
        load_engine(checkpoints["mixtral"], deterministic=True, experts="grouped_mm")


def test_unknown_experts_are_refused(checkpoints):
    with pytest.raises(CheckpointError, match="nonesuch"):
        load_engine(checkpoints["mixtral"], experts="nonesuch")


def test_dropout_is_refused():
    states = torch.zeros(1, 1, 2, 4)
    with BatchInvariant(), pytest.raises(ValueError, match="dropout_p is 0.1"):
        torch.nn.functional.scaled_dot_product_attention(states, states, states, dropout_p=0.1)
