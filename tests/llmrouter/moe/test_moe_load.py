"""Loading: what is wrong with a checkpoint is said, and nothing is filled in silently."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoints import ARCHITECTURES, make_checkpoint

from llmrouter.exceptions import CheckpointError, MissingExtraError
from llmrouter.moe import GenerationRequest, SamplingDefaults, _load, load_engine


@pytest.fixture
def broken(checkpoints, tmp_path):
    """A copy of a good checkpoint to break."""
    return shutil.copytree(checkpoints["olmoe"], tmp_path / "checkpoint")


def refused(folder, match, **options):
    with pytest.raises(CheckpointError, match=match) as caught:
        load_engine(folder, **options)
    return str(caught.value)


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_name_window_and_architecture(checkpoints):
    engine = load_engine(checkpoints["olmoe"])
    assert (engine.name, engine.context_window) == ("olmoe", 256)
    assert load_engine(str(checkpoints["olmoe"]), "mine", context_window=64).context_window == 64
    assert not engine.alive


def test_half_precision_runs_in_float32_on_a_cpu(broken, checkpoints, chat):
    weights = load_file(broken / "model.safetensors")
    half = {name: tensor.bfloat16() for name, tensor in weights.items()}
    save_file(half, broken / "model.safetensors", metadata={"format": "pt"})
    edit_json(broken / "config.json", dtype="bfloat16")
    engine = load_engine(broken, device="cpu")
    assert engine.model.dtype == torch.float32
    assert load_engine(broken, device="cpu", dtype="bfloat16").model.dtype == torch.bfloat16
    assert engine.run([chat("hello", max_tokens=4)])[0].output_tokens <= 4


def test_a_half_precision_batch_generates(checkpoints, chat):
    engine = load_engine(checkpoints["mixtral"], device="cpu", dtype="bfloat16")
    results = engine.run([chat("hello " * size, max_tokens=5, logprobs=True) for size in (1, 5, 9)])
    assert all(entry.logprob <= 0 for result in results for entry in result.logprobs)


def test_a_dense_checkpoint_needs_leave(checkpoints, chat):
    refused(checkpoints["llama"], "not a mixture-of-experts checkpoint.*allow_dense=True")
    assert load_engine(checkpoints["llama"], allow_dense=True).run([chat("hi", max_tokens=2)])


def test_paths_that_are_no_checkpoints(tmp_path):
    refused(tmp_path / "absent", "no such folder")
    refused("./absent", "no such folder")
    refused("absent", "no such folder; give a checkpoint folder or a hub id")
    refused(tmp_path, "no config.json")
    (tmp_path / "file").touch()
    refused(tmp_path / "file", "this is a file")


def test_an_unknown_hub_id(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    refused("nobody-here/nothing", "cannot load the configuration")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model_type": "no_such_model"}'])
def test_a_broken_configuration(broken, content):
    (broken / "config.json").write_text(content)
    refused(broken, "cannot load the configuration")


def test_recurrent_layers_are_refused(broken):
    edit_json(broken / "config.json", layer_types=["linear_attention", "full_attention"])
    refused(broken, "linear_attention.*cannot batch")


def test_missing_weights(broken):
    (broken / "model.safetensors").unlink()
    refused(broken, "cannot load the weights")


def test_pickled_weights_are_never_read(broken):
    torch.save(load_file(broken / "model.safetensors"), broken / "pytorch_model.bin")
    (broken / "model.safetensors").unlink()
    refused(broken, "cannot load the weights")


@pytest.mark.parametrize("keep", [0, 100, 5000])
def test_a_truncated_weights_file(broken, keep):
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    refused(broken, "cannot load the weights")


def test_a_missing_shard(broken, tmp_path):
    engine = load_engine(broken)
    (broken / "model.safetensors").unlink()
    engine.model.save_pretrained(broken, max_shard_size="60KB")
    shards = sorted(broken.glob("model-*.safetensors"))
    assert len(shards) > 2
    load_engine(broken)
    shards[1].unlink()
    refused(broken, "cannot load the weights")


def test_a_missing_tensor_is_not_made_up(broken):
    weights = load_file(broken / "model.safetensors")
    name = next(name for name in sorted(weights) if "norm" in name)
    del weights[name]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    assert name.split(".")[-2] in refused(broken, "lacks weights")


def test_a_tensor_of_another_shape(broken):
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"] = torch.ones(7)
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    refused(broken, "weights")


@pytest.mark.parametrize("content", [None, "{", "{}"])
def test_a_broken_tokenizer(broken, content):
    path = broken / "tokenizer.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    refused(broken, "cannot load the tokenizer")


def test_a_tokenizer_of_another_model(tmp_path):
    refused(make_checkpoint(tmp_path / "m", "mixtral", vocab_size=200), "tokenizer has .* the model only 200")


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_broken_generation_config(broken, content):
    (broken / "generation_config.json").write_text(content)
    refused(broken, "generation_config")


@pytest.mark.parametrize("window", [1, 0, 257])
def test_a_context_window_the_model_does_not_have(checkpoints, window):
    refused(checkpoints["olmoe"], "context_window is", context_window=window)


def test_an_unknown_dtype(checkpoints):
    refused(checkpoints["olmoe"], "dtype is 'int3'; one of", dtype="int3")


def test_an_unknown_device(checkpoints):
    refused(checkpoints["olmoe"], "cannot load the weights", device="no_such_device")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, SamplingDefaults(1.0, 1.0, 0)),
        ({}, SamplingDefaults(0.0)),
        ({"temperature": 0.7}, SamplingDefaults(0.0)),
        ({"do_sample": False, "temperature": 0.7}, SamplingDefaults(0.0)),
        ({"do_sample": True}, SamplingDefaults(1.0, 1.0, 0)),
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20}, SamplingDefaults(0.6, 0.95, 20)),
        ({"do_sample": True, "temperature": -1, "top_p": "x", "top_k": None}, SamplingDefaults(1.0, 1.0, 0)),
    ],
)
def test_sampling_defaults(config, expected):
    assert SamplingDefaults.from_generation_config(config) == expected


def test_every_end_token_ends_a_completion(broken, chat):
    request = chat("hello", max_tokens=30)
    [plain] = load_engine(broken).run([request])
    first = load_engine(broken).run([chat("hello", max_tokens=1, logprobs=True)])[0].logprobs[0]
    engine = load_engine(broken)
    token = next(token for token in range(320) if engine.vocabulary.token_bytes(token) == first.bytes)
    edit_json(broken / "generation_config.json", eos_token_id=[2, token])
    [result] = load_engine(broken).run([request])
    assert (result.text, result.output_tokens, result.finish_reason) == ("", 1, "stop")
    assert plain.output_tokens > 1


def test_a_missing_package_names_the_extra(monkeypatch, checkpoints):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'llmrouter-service\[moe\]'"):
        load_engine(checkpoints["olmoe"])


def test_importing_the_package_imports_no_heavy_module():
    code = (
        "import sys, llmrouter.moe; "
        "heavy = {'torch', 'transformers', 'litellm', 'sklearn', 'pyarrow', 'jinja2'} & set(sys.modules); "
        "print(heavy); sys.exit(bool(heavy))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_loading_leaves_hugging_faces_logging_as_it_was(checkpoints):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_engine(checkpoints["olmoe"])
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    with pytest.raises(CheckpointError), _load._quiet_loading():
        raise CheckpointError("x")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_stats_count_what_was_generated(checkpoints, name):
    engine = load_engine(checkpoints[name])
    results = engine.run([GenerationRequest(prompt="hello", max_tokens=size) for size in (3, 4)])
    assert engine.stats().generated_tokens == sum(result.output_tokens for result in results)
