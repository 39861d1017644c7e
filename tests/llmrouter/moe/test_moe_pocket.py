"""The shipped pocket models load and answer; batched as alone, with the tokens of generate()."""

import importlib.resources
import json
from pathlib import Path

import pytest
import torch

from llmrouter.moe import load_engine

FOLDER = Path(str(importlib.resources.files("llmrouter"))) / "assets" / "pocket"
POOL = FOLDER / "pool.json"
NAMES = [model["name"] for model in json.loads(POOL.read_text())["models"]] if POOL.is_file() else []
QUESTIONS = ["What is 3 + 4?", "Reverse the word stone.", "Which is larger, 45 or 54?", "WRITE dog IN UPPER CASE"]


@pytest.mark.skipif(not NAMES, reason="this checkout has no pocket models")
def test_there_are_four():
    assert len(NAMES) == 4


@pytest.mark.parametrize("name", NAMES)
def test_a_pocket_model_answers_batched_as_alone(name, chat):
    engine = load_engine(FOLDER / name)
    requests = [chat(question, max_tokens=24) for question in QUESTIONS]
    together = engine.run(requests)
    assert engine.defaults.temperature == 0
    for request, batched in zip(requests, together, strict=True):
        assert engine.run([request])[0].text == batched.text
        prompt = engine.vocabulary.encode(engine.vocabulary.render(request.messages), special_tokens=False)
        with torch.inference_mode():
            full = engine.model.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False)
        assert engine.vocabulary.decode(full[0, len(prompt) :].tolist()) == batched.text
