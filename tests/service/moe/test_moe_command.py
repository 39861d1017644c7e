"""Options of ``python -m service.moe``."""

import pytest

from service.moe.__main__ import _load, _parser, main


def load(folder, *words):
    return _load("tiny", folder, _parser().parse_args([*words, "--device", "cpu"]))


def implementation(engine):
    return engine.model.config._experts_implementation


def test_how_experts_are_computed_is_an_option(tiny_models):
    folder = tiny_models["tiny-mixtral"]
    assert implementation(load(folder)) == "llmrouter"
    assert implementation(load(folder, "--experts", "eager")) == "eager"
    assert implementation(load(folder, "--deterministic")) == "llmrouter_deterministic"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--experts", "fastest"], "fastest"),
        (["--experts", "eager", "--deterministic"], "with deterministic leave it out"),
    ],
)
def test_a_wrong_choice_is_named(tiny_models, capsys, words, message):
    folder = tiny_models["tiny-mixtral"]
    assert main(["--model", f"tiny={folder}", "--port", "0", "--device", "cpu", *words]) == 1
    assert message in capsys.readouterr().err
