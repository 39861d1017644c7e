"""``llmrouter eval --protocol``."""

import json

import pytest

from llmrouter.cli import main


@pytest.mark.parametrize(
    ("protocol", "options", "condition"),
    [
        ("splits", [], "test_share"),
        ("ood", [], "held_out"),
        ("missing", ["--draws", "1"], "models_per_prompt"),
        ("learning-curve", ["--draws", "1"], "train_prompts"),
        ("new-models", ["--hidden", "pocket-max", "--draws", "1", "--choose", "informative"], "scored"),
    ],
)
def test_a_table_is_printed_and_a_file_written(protocol, options, condition, tmp_path, capsys):
    arguments = ["eval", "--data", "pocket", "--routers", "mean", "--protocol", protocol, *options]
    if "--draws" not in options:
        options = ["--draws", "2"]
        arguments += options
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    document = json.loads((tmp_path / f"protocol-{protocol}.json").read_text())
    assert document["protocol"] == protocol
    assert all(condition in cell["condition"] for cell in document["cells"])
    assert "mean" in {cell["router"] for cell in document["cells"]}
    printed = capsys.readouterr().out
    assert f"protocol {protocol}" in printed
    assert "wrote " in printed
    assert not (tmp_path / "results.json").exists()


def test_new_models_needs_to_know_which(tmp_path, capsys):
    arguments = ["eval", "--data", "pocket", "--routers", "mean", "--protocol", "new-models", "--out", str(tmp_path)]
    assert main(arguments) == 1
    assert "pocket-max" in capsys.readouterr().err
