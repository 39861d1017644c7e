"""Checkpoints with another router than their class's: what they compute, and what is refused."""

import json
import shutil

import pytest
import torch
from routed_checkpoints import FIELDS, routed_checkpoint
from safetensors.torch import load_file, save_file
from tiny_checkpoints import ARCHITECTURES, make_checkpoint

from llmrouter.exceptions import CheckpointError
from llmrouter.moe import (
    EmbeddingRequest,
    Engine,
    GenerationRequest,
    Pruning,
    Quantization,
    SelfContrast,
    load_engine,
)
from llmrouter.moe._batch import RunningBatch
from llmrouter.moe.compression import moe_layers
from llmrouter.moe.experts import Reduction, module_weights
from llmrouter.moe.routing import FIELD, RoutingSettings, routers_of

KINDS = tuple(FIELDS)
EXPERTS = {"mixtral": 4, "qwen3_moe": 4, "olmoe": 8}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("routed")
    return {
        (architecture, kind): routed_checkpoint(folder / f"{architecture}-{kind}", architecture, kind)
        for architecture in ARCHITECTURES
        for kind in KINDS
    }


@pytest.fixture(scope="module")
def routed(folders):
    return {key: load_engine(folder, max_batch=8) for key, folder in folders.items()}


def by_hand(router, experts, hidden, kind):
    """One token at a time in float64, from the papers' formulas: {expert: weight} applied to a (H,) token."""
    logits = router.weight.double() @ hidden
    count = experts.count
    if kind == "relu":
        used = {expert: logits[expert] for expert in range(count) if logits[expert] > 0}
    else:
        scores = logits.softmax(0)
        ranked = scores + router.bias.double() if kind == "loss-free" else scores
        slots = 4 if kind == "null" else 2
        used = {expert: scores[expert] for expert in ranked.argsort(descending=True)[:slots].tolist() if expert < count}
        total = sum(used.values())
        used = {expert: weight / total for expert, weight in used.items()}
    output = torch.zeros_like(hidden)
    for expert, weight in used.items():
        gate, up = (experts.up[expert].double() @ hidden).chunk(2)
        output += weight * (experts.down[expert].double() @ (torch.nn.functional.silu(gate) * up))
    return output, len(used)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_a_layer_computes_the_papers_formula(routed, architecture, kind):
    model = routed[architecture, kind].model
    layer, router = moe_layers(model)[1], routers_of(model)[1]
    hidden = torch.randn(40, 32, generator=torch.Generator().manual_seed(1))
    expected = [by_hand(router, module_weights(layer.experts), token, kind) for token in hidden.double()]
    output = layer.block(hidden[None])[0]
    torch.testing.assert_close(output.double(), torch.stack([value for value, _ in expected]), rtol=1e-5, atol=1e-5)
    used = {number for _, number in expected}
    assert used == {2} if kind == "loss-free" else len(used) > 2


@pytest.mark.parametrize(("architecture", "kind"), [("qwen3_moe", kind) for kind in KINDS] + [("mixtral", "null")])
def test_saved_and_loaded_again_it_is_the_same(routed, folders, tmp_path, architecture, kind):
    model = routed[architecture, kind].model
    shutil.copytree(folders[architecture, kind], tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").unlink()
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())[FIELD] == FIELDS[kind]
    again = load_engine(tmp_path)
    ids = torch.arange(3, 23).view(2, 10)
    with torch.inference_mode():
        assert torch.equal(again.model(ids).logits, model(ids).logits)
    assert [type(router) for router in routers_of(again.model)] == [type(router) for router in routers_of(model)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [(7,), (9,) * 8, (12, 9, 9, 4, 3, 1, 1, 1)])
def test_rows_of_a_batch_are_those_of_the_whole_model_alone(routed, kind, sizes):
    model = routed["qwen3_moe", kind].model
    generator = torch.Generator().manual_seed(2)
    prompts = [torch.randint(3, 300, (size,), generator=generator).tolist() for size in sizes]
    batch, forced = RunningBatch(model), [5, 6, 7]
    seen = [batch.prefill(prompts)] + [batch.decode([token] * len(prompts)) for token in forced]
    for row, prompt in enumerate(prompts):
        with torch.inference_mode():
            alone = model(torch.tensor([prompt + forced])).logits[0, len(prompt) - 1 :]
        torch.testing.assert_close(torch.stack([step[row] for step in seen]), alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_deterministic_option_gives_the_same_bits_in_company(folders, kind, chat):
    engine = load_engine(folders["olmoe", kind], deterministic=True)
    requests = [chat("hi " * size, max_tokens=4, logprobs=True, top_logprobs=3) for size in (1, 5, 2)]
    together = engine.run(requests)
    assert [engine.run([request])[0].logprobs for request in requests] == [result.logprobs for result in together]


@pytest.mark.parametrize("kind", KINDS)
def test_integer_weights_and_embeddings_go_with_it(folders, routed, kind, chat):
    engine = load_engine(folders["qwen3_moe", kind], quantize=Quantization.parse("int8"))
    assert engine.run([chat("hello", max_tokens=3)])[0].output_tokens > 0
    plain = routed["qwen3_moe", kind]
    plain.start()
    try:
        vectors = {
            moee: plain.submit_embedding(EmbeddingRequest(inputs=["hello", "bye"], kind=moee)).future.result(30).vectors
            for moee in ("routing", "hidden")
        }
    finally:
        plain.stop()
    rows = EXPERTS["qwen3_moe"] + (3 if kind == "null" else 0)
    assert vectors["routing"].shape == (2, 2 * rows)
    assert vectors["hidden"].shape == (2, 32)


@pytest.mark.parametrize("kind", KINDS)
def test_loads_count_true_experts(folders, kind, chat):
    engine = load_engine(folders["qwen3_moe", kind])
    engine.run([chat("hello " * size, max_tokens=9) for size in (1, 2, 3)])
    steps = engine.meter.histograms()[2].total
    loads = engine.expert_load().values()
    assert len(loads) == 2
    for load in loads:
        assert len(load.tokens) == 4
        assert load.routed == steps
        assert load.experts_a_token == pytest.approx(sum(load.tokens) / steps)
        assert load.experts_a_token == 2 if kind == "loss-free" else 0 < load.experts_a_token < 4


@torch.inference_mode()
def test_fewer_experts_of_a_null_router_are_the_heaviest_true_ones(routed, folders, chat):
    router = routers_of(routed["qwen3_moe", "null"].model)[0]
    _, weights, index = router(torch.randn(40, 32, generator=torch.Generator().manual_seed(1)))
    true = (index < 4).sum(-1)
    assert set(true.tolist()) >= {1, 2}
    fewer, scaled = Reduction(active=1).apply(index, weights, 4)
    assert torch.equal((fewer < 4).sum(-1), true.clamp(max=1))
    heaviest = index.gather(1, weights.argmax(-1, keepdim=True))
    assert (fewer[true > 0].min(-1).values == heaviest[true > 0, 0]).all()
    torch.testing.assert_close(scaled.sum(-1), weights.sum(-1))
    engine = load_engine(folders["qwen3_moe", "null"], reduction=Reduction(active=1))
    assert engine.run([chat("hi", max_tokens=3)])[0].output_tokens > 0


@pytest.mark.parametrize(
    ("kind", "options", "match"),
    [
        ("relu", {"reduction": Reduction(active=1)}, "relu routing: .* no common sum .* without fewer experts a token"),
        ("relu", {"reduction": Reduction(top_p=0.5)}, "Load it without fewer experts a token"),
        ("relu", {"contrast": SelfContrast()}, "relu routing: .* needs a second one"),
        ("null", {"contrast": SelfContrast()}, "null routing: .* needs a second one"),
        ("null", {"prune": Pruning(0.25, ["x"])}, "null routing, of which experts cannot be removed"),
        ("loss-free", {"prune": Pruning(0.25, ["x"])}, "loss-free routing, of which experts cannot be removed"),
        ("null", {"experts": "grouped_mm"}, "experts is 'grouped_mm', which does not skip them"),
    ],
)
def test_options_that_do_not_fit_are_refused(folders, kind, options, match):
    with pytest.raises(CheckpointError, match=match):
        load_engine(folders["qwen3_moe", kind], **options)


def test_options_that_fit_balanced_routers(folders, routed, chat):
    request = chat("hello", max_tokens=5)
    expected = routed["qwen3_moe", "loss-free"].run([request])[0].text
    assert load_engine(folders["qwen3_moe", "loss-free"], experts="eager").run([request])[0].text == expected
    for options in ({"contrast": SelfContrast()}, {"reduction": Reduction(active=1)}):
        engine = load_engine(folders["qwen3_moe", "loss-free"], **options)
        assert engine.run([request])[0].output_tokens > 0


@pytest.mark.parametrize(
    ("field", "match"),
    [
        ("relu", "llmrouter_routing is 'relu'; it must be an object"),
        ({}, "llmrouter_routing has no kind; one of null, relu, loss-free"),
        ({"kind": "best"}, "llmrouter_routing.kind is 'best'; this version knows null, relu, loss-free"),
        ({"kind": ["relu"]}, r"llmrouter_routing.kind is \['relu'\]"),
        ({"kind": "relu", "temperature": 2}, "has the field 'temperature'; this version knows kind, null_experts"),
        ({"kind": "relu", "slots": 2}, "llmrouter_routing.slots is 2; only kind 'null' has it"),
        ({"kind": "null", "slots": 2}, "llmrouter_routing.null_experts is None; .* at least 1"),
        ({"kind": "null", "null_experts": 3, "slots": True}, "llmrouter_routing.slots is True"),
        ({"kind": "null", "null_experts": 3, "slots": 8}, "slots is 8, above the 4 experts and 3 null experts"),
        (
            {"kind": "null", "null_experts": 2, "slots": 2},
            r"do not fit config.json: .*gate.weight is \(7, 32\), not \(6, 32\)",
        ),
    ],
)
def test_a_wrong_field_is_named(folders, tmp_path, field, match):
    source = shutil.copytree(folders["qwen3_moe", "null"], tmp_path / "m")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {FIELD: field}))
    with pytest.raises(CheckpointError, match=match):
        load_engine(source)


def test_missing_biases_and_classes_without_a_router(folders, tmp_path):
    source = shutil.copytree(folders["qwen3_moe", "loss-free"], tmp_path / "m")
    weights = load_file(source / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.endswith("gate.bias")}
    assert len(kept) == len(weights) - 2
    save_file(kept, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks weights: model.layers.0.mlp.gate.bias"):
        load_engine(source)
    dense = make_checkpoint(tmp_path / "llama", "llama", llmrouter_routing={"kind": "relu"})
    with pytest.raises(CheckpointError, match="routers of model type 'llama' cannot be replaced; those of mixtral"):
        load_engine(dense, allow_dense=True)


def test_settings_as_they_are_written():
    for field in FIELDS.values():
        assert RoutingSettings.parse(field).as_field() == field


def test_an_engine_is_what_it_was(checkpoints):
    engine = load_engine(checkpoints["qwen3_moe"])
    assert isinstance(engine, Engine)
    assert routers_of(engine.model) == []
    assert engine.run([GenerationRequest(prompt="hello", max_tokens=2)])[0].output_tokens > 0
