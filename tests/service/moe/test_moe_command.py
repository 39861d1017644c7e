"""Options of ``python -m service.moe``."""

import pytest

from llmrouter.moe.compression import moe_layers
from service.moe.__main__ import _load, _parser, main
from service.moe._expert_options import expert_options


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


def test_options_on_experts_reach_the_models(tiny_models, tmp_path):
    folder = tiny_models["tiny-mixtral"]
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("hello\n\nwhat is two plus two?\n")
    words = ["--prune", "0.25", "--calibration", str(prompts), "--quantize", "int4:16", "--self-contrast", "0.5"]
    options = _parser().parse_args([*words, "--device", "cpu"])
    engine = _load("tiny", folder, options, **expert_options(options))
    assert [layer.count for layer in moe_layers(engine.model)] == [3, 3]
    assert type(engine._batch).__name__ == "ContrastBatch"
    options = _parser().parse_args(["--active-experts", "1", "--device", "cpu"])
    assert implementation(_load("tiny", folder, options, **expert_options(options))) == "llmrouter[active=1]"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prune", "0.5"], "--prune needs --calibration FILE"),
        (["--calibration", "x"], "read by --prune only"),
        (["--prune", "1.5", "--calibration", "{prompts}"], "the pruning rate is 1.5; it must be above 0 and below 1"),
        (["--prune", "0.9", "--calibration", "{prompts}"], "a layer keeps at least the 2 that a token uses"),
        (["--prune", "0.5", "--calibration", "/absent"], "--calibration /absent: cannot be read"),
        (["--active-experts", "0"], "active is 0; it must be at least 1"),
        (["--expert-top-p", "1.5"], "top_p is 1.5"),
        (["--active-experts", "1", "--deterministic"], "leave it (and deterministic) out"),
        (["--quantize", "int5"], "write int8, int4"),
        (["--quantize", "int4"], "experts of hidden size 32 and inner size 48 cannot be cut into groups of 32"),
        (["--self-contrast", "0"], "strength of the self-contrast is 0"),
        (["--usd-per-hour", "-1"], "usd_per_hour is -1"),
        (["--idle-watts", "10"], "above busy_watts"),
    ],
)
def test_a_wrong_option_on_experts_or_cost_is_named(tiny_models, tmp_path, capsys, words, message):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("hello\n")
    words = [word.format(prompts=prompts) for word in words]
    model = f"tiny={tiny_models['tiny-mixtral']}"
    assert main(["--model", model, "--port", "0", "--device", "cpu", *words]) == 1
    assert message in capsys.readouterr().err
