"""The shipped pocket checkpoints: format, size, and real right answers on held-out prompts."""

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from training.pocket.cli import ASSETS  # noqa: E402
from training.pocket.evaluate import accuracy_table, batched_runner, load  # noqa: E402
from training.pocket.publish import publish  # noqa: E402
from training.pocket.scoring import score  # noqa: E402
from training.pocket.specifications import SPECIFICATIONS, price  # noqa: E402
from training.pocket.tasks import balanced  # noqa: E402
from training.pocket.tokenizer import build_tokenizer  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_torch_thread")

FOUR_MEGABYTES = 4_000_000


# Floors on 150 held-out prompts (two for each task and level), about eight points under what was measured:
# mini 0.577, numbers 0.903, words 0.936, max 0.880.
FLOORS = {
    "pocket-mini": ("words", 0.50),
    "pocket-numbers": ("numbers", 0.82),
    "pocket-words": ("words", 0.86),
    "pocket-max": ("overall", 0.80),
}
NEWCOMERS = {
    "pocket-numbers": (
        ("What is 12 + 7?", "19", "add"),
        ("Which is larger, 34 or 8?", "34", "larger"),
        ("Sort these numbers: 5 2 9", "2 5 9", "sort_numbers"),
        ("Is 7 even or odd?", "odd", "parity"),
    ),
    "pocket-words": (
        ("Reverse the word hello", "olleh", "reverse"),
        ("What is the capital of France?", "Paris", "capital"),
        ("Spell the word dog", "d-o-g", "spell"),
        ("Write 'cat' in upper case", "CAT", "upper_case"),
    ),
    "pocket-max": (
        ("What is 12 + 7?", "19", "add"),
        ("What is the capital of France?", "Paris", "capital"),
        ("Which is larger, 34 or 8?", "34", "larger"),
    ),
    "pocket-mini": (
        ("Write 'cat' in upper case", "CAT", "upper_case"),
        ("Is 7 even or odd?", "odd", "parity"),
    ),
}


@pytest.mark.parametrize("name", SPECIFICATIONS)
def test_checkpoint_is_complete_and_small(name):
    folder = ASSETS / name
    present = {file.name for file in folder.iterdir()}
    wanted = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert wanted <= present
    assert not [file for file in present if file.endswith((".bin", ".pt", ".pkl"))]
    assert (folder / "model.safetensors").stat().st_size <= FOUR_MEGABYTES
    config = json.loads((folder / "config.json").read_text())
    assert "auto_map" not in config
    assert config["max_position_embeddings"] == 2048


def test_architectures_differ():
    kinds = {json.loads((ASSETS / name / "config.json").read_text())["architectures"][0] for name in SPECIFICATIONS}
    assert kinds == {"MixtralForCausalLM", "Qwen3MoeForCausalLM", "OlmoeForCausalLM"}


def test_pool_file_agrees_with_the_models(tmp_path):
    pool = json.loads((ASSETS / "pool.json").read_text())
    for entry in pool["models"]:
        model, tokenizer = load(ASSETS / entry["name"])
        assert sum(parameter.numel() for parameter in model.parameters()) == entry["params"]
        assert entry["price"] == price(entry["active_params"])
        assert entry["training"]["steps"] == SPECIFICATIONS[entry["name"]].steps
        assert len(tokenizer) == model.config.vocab_size == len(build_tokenizer())
    for entry in pool["models"]:
        (tmp_path / entry["name"]).mkdir()
        (tmp_path / entry["name"] / "pocket.json").write_text(json.dumps(entry))
    assert json.loads(Path(publish(tmp_path)).read_text()) == pool


def test_specialists_cost_two_fifths_of_the_dear_model_at_most():
    active = {
        entry["name"]: entry["active_params"] for entry in json.loads((ASSETS / "pool.json").read_text())["models"]
    }
    assert active["pocket-numbers"] <= 0.4 * active["pocket-max"]
    assert active["pocket-words"] <= 0.4 * active["pocket-max"]
    assert active["pocket-mini"] <= 0.11 * active["pocket-max"]


@pytest.mark.parametrize("name", SPECIFICATIONS)
def test_newcomers_prompts_are_answered(name):
    prompts = [prompt for prompt, _, _ in NEWCOMERS[name]]
    answers = batched_runner(ASSETS / name)(prompts)
    wrong = [
        (prompt, answer.text)
        for (prompt, expected, task), answer in zip(NEWCOMERS[name], answers)
        if not score(answer.text, expected, task=task)
    ]
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECIFICATIONS)
def test_held_out_accuracy_is_above_its_floor(name):
    examples = balanced(21, "test", each=2)
    answers = batched_runner(ASSETS / name)([example.prompt for example in examples])
    domain, floor = FLOORS[name]
    table = accuracy_table(examples, answers)
    assert (table["overall"] if domain == "overall" else table["domain"][domain]) >= floor


def test_odd_and_long_prompts_do_not_fail():
    prompts = ["😀", "", "日本語で答えて", "x" * 1500, "What is 2 + 2?\n\n" * 40]
    answers = batched_runner(ASSETS / "pocket-mini")(prompts)
    assert len(answers) == len(prompts)
    assert all(answer.output_tokens >= 1 for answer in answers)
