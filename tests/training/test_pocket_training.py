"""Tokenizer, batches, optimizer and training loop of the pocket models."""

import json
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from training.pocket.batches import IGNORED, batches  # noqa: E402
from training.pocket.optimizer import orthogonalise  # noqa: E402
from training.pocket.specifications import SPECIFICATIONS, count_parameters, price  # noqa: E402
from training.pocket.tokenizer import END, build_tokenizer, byte_ids  # noqa: E402
from training.pocket.train import build_model, experts_of, learning_rate, train, train_and_save  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_torch_thread")

TOKENIZER = build_tokenizer()


def toy(name="pocket-numbers"):
    """A specification small enough for a few seconds."""
    specification = SPECIFICATIONS[name]
    shape = {**specification.shape, "hidden_size": 32, "num_hidden_layers": 1}
    if "head_dim" in shape:
        shape["head_dim"] = 8
    return replace(specification, name="toy", shape=shape, batch_size=16, weights={"parity": 1.0, "larger": 1.0})


@given(st.text(max_size=60))
@settings(deadline=None, max_examples=60)
def test_any_text_round_trips(text):
    for special in TOKENIZER.all_special_tokens:
        text = text.replace(special, "")
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert TOKENIZER.decode(ids) == text


@pytest.mark.parametrize("text", ["😀 naïve", "日本語 und Ärger", "\t\n  x\r\n", "a\u0000b", "x" * 500, "{}[]<>|"])
def test_odd_texts_round_trip(text):
    assert TOKENIZER.decode(TOKENIZER(text)["input_ids"]) == text


def test_instruction_words_are_single_tokens_and_payloads_are_letters():
    pieces = TOKENIZER.convert_ids_to_tokens(TOKENIZER("Reverse the word zebra 42")["input_ids"])
    assert pieces == ["Reverse", "Ġthe", "Ġword", "Ġ", "z", "e", "b", "r", "a", "Ġ", "4", "2"]


def test_answers_are_bytes():
    assert TOKENIZER.decode(byte_ids("Addis Ababa é", TOKENIZER)) == "Addis Ababa é"
    assert len(byte_ids("even", TOKENIZER)) == 4


def test_chat_template_renders_the_last_user_message_only():
    turns = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "First"},
        {"role": "assistant", "content": "Yes"},
        {"role": "user", "content": " What is 1 + 1? "},
    ]
    rendered = TOKENIZER.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert rendered == "<|user|>What is 1 + 1?<|assistant|>"
    parts = [{"role": "user", "content": [{"type": "text", "text": "Spell"}, {"type": "text", "text": "dog"}]}]
    assert TOKENIZER.apply_chat_template(parts, tokenize=False, add_generation_prompt=True).count("Spell dog") == 1
    TOKENIZER.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)


def test_only_answers_are_learned_from():
    inputs, labels = next(batches(toy(), TOKENIZER, steps=1, seed=1))
    end = TOKENIZER.convert_tokens_to_ids(END)
    assert inputs.shape == labels.shape
    for row in range(len(inputs)):
        learned = labels[row][labels[row] != IGNORED].tolist()
        assert learned[-1] == end
        text = TOKENIZER.decode(learned[:-1])
        assert text in ("even", "odd") or text.isdigit()


def test_batches_are_deterministic():
    first, second = (list(batches(toy(), TOKENIZER, steps=3, seed=2)) for _ in range(2))
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(first, second))


def test_learning_rate_rises_and_falls():
    rates = [learning_rate(step, steps=1000, peak=1.0) for step in range(1000)]
    assert rates[0] < 0.05
    assert max(rates) == pytest.approx(1.0, abs=0.01)
    assert rates[-1] < 0.02


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (3, 8, 5)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
    assert values.min() > 0.3
    assert values.max() < 1.5


def test_prices_follow_active_parameters():
    total, active = count_parameters({"a": 100, "l.experts.w": 400}, experts=4, chosen=1)
    assert (total, active) == (500, 200)
    assert price(2_000_000)["input"] == pytest.approx(2 * price(1_000_000)["input"])


@pytest.mark.parametrize("name", SPECIFICATIONS)
def test_models_fit_into_four_megabytes(name):
    model = build_model(SPECIFICATIONS[name])
    assert sum(parameter.numel() for parameter in model.parameters()) < 2_000_000
    experts, chosen = experts_of(model)
    assert chosen < experts


@pytest.mark.parametrize("name", ["pocket-mini", "pocket-numbers", "pocket-max"])
def test_twenty_steps_lower_the_loss(name):
    _, losses = train(toy(name), steps=20, progress=False)
    assert len(losses) == 20
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_training_repeats_itself_and_saves_a_loadable_checkpoint(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folders = [train_and_save(toy(), out=tmp_path / name, steps=3) for name in ("a", "b")]
    contents = [(folder / "model.safetensors").read_bytes() for folder in folders]
    assert contents[0] == contents[1]
    record = json.loads((folders[0] / "pocket.json").read_text())
    assert record["training"]["steps"] == 3
    assert record["active_params"] < record["params"]
    model = AutoModelForCausalLM.from_pretrained(folders[0])
    assert model.dtype == torch.float32
    assert AutoTokenizer.from_pretrained(folders[0]).chat_template
    assert not list(folders[0].glob("*.bin"))
