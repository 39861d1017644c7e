"""Models trained with each router, saved, and served: what the server says is what the trained model says."""

import functools
import json
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("fastapi")

from starlette.testclient import TestClient  # noqa: E402

from llmrouter.moe import load_engine  # noqa: E402
from llmrouter.moe._batch import RunningBatch  # noqa: E402
from service.moe import create_app  # noqa: E402
from training.pocket import routing_study  # noqa: E402
from training.pocket.cli import main  # noqa: E402
from training.pocket.routing import KINDS, StudyRouter, install  # noqa: E402
from training.pocket.routing_study import STUDY  # noqa: E402
from training.pocket.tokenizer import END, build_tokenizer  # noqa: E402
from training.pocket.train import build_model, save, train  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_torch_thread")

QUESTIONS = ("Write cat in capital letters.", "Spell the word house.", "Put the word tiger in upper case.")
BRIEF = replace(STUDY, batch_size=8, weights={"upper_case": 1.0, "spell": 1.0})  # long enough to say something


@pytest.fixture(scope="module", params=KINDS[1:])  # the first one is the class's own
def trained(request, tmp_path_factory):
    model, _ = train(BRIEF, steps=40, progress=False, routing=request.param)
    folder = tmp_path_factory.mktemp("trained") / f"routing-{request.param}"
    save(model, BRIEF, folder, facts={})
    return request.param, model, folder


@torch.inference_mode()
def greedy(model, tokens, count):
    """The trainer's model by itself: the whole sequence again for every token."""
    said = []
    while len(said) < count and (not said or said[-1] != build_tokenizer().convert_tokens_to_ids(END)):
        said.append(int(model(torch.tensor([tokens + said])).logits[0, -1].argmax()))
    return said


def test_the_server_gives_the_trainers_greedy_answer(trained):
    kind, model, folder = trained
    assert json.loads((folder / "config.json").read_text())["llmrouter_routing"]["kind"] == kind
    assert all(isinstance(m.gate, StudyRouter) for m in model.modules() if hasattr(m, "gate") and hasattr(m, "experts"))
    tokenizer, engine = build_tokenizer(), load_engine(folder)
    with TestClient(create_app([engine])) as client:
        for question in QUESTIONS:
            asked = [{"role": "user", "content": question}]
            body = {"model": f"routing-{kind}", "messages": asked, "max_tokens": 12, "temperature": 0}
            choice = client.post("/v1/chat/completions", json=body).json()["choices"][0]
            text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
            said = greedy(model, tokenizer(text, add_special_tokens=False)["input_ids"], 12)
            assert choice["message"]["content"] == tokenizer.decode(said, skip_special_tokens=True)
            assert choice["finish_reason"] == ("length" if len(said) == 12 else "stop")
        [entry] = client.get("/v1/load").json()["data"]
        metrics = client.get("/metrics").text
    for layer in entry["experts"].values():
        assert len(layer["tokens"]) == 8
        assert layer["experts_a_token"] == 2 if kind == "loss-free" else 0 < layer["experts_a_token"] <= 8
    assert 'llmrouter_moe_experts_a_token{layer="model.layers.1.mlp.experts"' in metrics


@pytest.mark.parametrize("sizes", [(6,), (9,) * 8, (11, 7, 7, 3, 1)])
@torch.inference_mode()
def test_logits_are_the_trainers(trained, sizes):
    _, model, folder = trained
    served = load_engine(folder).model
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(4, len(build_tokenizer()), (size,), generator=generator).tolist() for size in sizes]
    batch, forced = RunningBatch(served), [9, 30]
    seen = [batch.prefill(prompts)] + [batch.decode([token] * len(prompts)) for token in forced]
    for row, prompt in enumerate(prompts):
        expected = model(torch.tensor([prompt + forced])).logits[0, len(prompt) - 1 :]
        torch.testing.assert_close(torch.stack([step[row] for step in seen]), expected, rtol=0, atol=1e-5)


def test_saving_rounds_the_weights_and_nothing_else(tmp_path):
    model = build_model(STUDY)
    install(model, "loss-free")
    angles = model.model.rotary_emb.inv_freq.clone()
    save(model, STUDY, tmp_path, facts={})
    assert torch.equal(model.model.rotary_emb.inv_freq, angles)
    assert all(torch.equal(tensor, tensor.half().float()) for tensor in model.state_dict().values())


def test_the_study_saves_what_it_trains(tmp_path, monkeypatch):
    monkeypatch.setattr(routing_study, "HELD_OUT_BATCHES", 1)
    study = functools.partial(routing_study.study, each=1)
    monkeypatch.setattr(routing_study, "study", study)
    assert main(["routing", "--kinds", "null", "--steps", "2", "--save", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "routing-null" / "pocket.json").read_text())
    assert (record["name"], record["training"]["router"]) == ("routing-null", "null")
    assert 0 < record["training"]["experts_a_token"] <= 3
    assert load_engine(tmp_path / "routing-null").name == "routing-null"
