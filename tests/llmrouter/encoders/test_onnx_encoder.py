import json
import shutil

import numpy as np
import pytest

from llmrouter._files import sha256_of
from llmrouter.encoders import OnnxEncoder, SentenceTransformersEncoder
from llmrouter.exceptions import ArtifactCorruptError, ConfigError, EncoderError


@pytest.fixture
def copy(tiny_onnx_folder, tmp_path):
    return shutil.copytree(tiny_onnx_folder, tmp_path / "onnx")


def test_same_vectors_as_the_original_at_every_length(tiny_folder, tiny_onnx_folder):
    original = SentenceTransformersEncoder(tiny_folder, device="cpu")
    exported = OnnxEncoder(tiny_onnx_folder)
    assert exported.dimension == original.dimension
    texts = ["fox " * count for count in (0, 1, 2, 29, 30, 31, 60, 61, 500)]
    np.testing.assert_allclose(exported.encode(texts), original.encode(texts), atol=1e-5)
    for text in texts[1:]:
        np.testing.assert_allclose(exported.encode([text]), original.encode([text]), atol=1e-5)


def test_fingerprint_names_files_and_settings(copy, tiny_onnx_folder):
    original = OnnxEncoder(tiny_onnx_folder).fingerprint
    assert OnnxEncoder(copy, threads=2, batch_size=3).fingerprint == original
    assert OnnxEncoder(copy, max_windows=2).fingerprint != original
    assert OnnxEncoder(copy, window_tokens=9).fingerprint != original


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threads": 0}, "threads"),
        ({"batch_size": 0}, "batch_size"),
        ({"window_tokens": 31}, "1 to 30"),
        ({"max_windows": 1.5}, "max_windows"),
    ],
)
def test_bad_settings(tiny_onnx_folder, settings, message):
    with pytest.raises(ConfigError, match=message):
        OnnxEncoder(tiny_onnx_folder, **settings)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "config.json"])
def test_damaged_file_is_named(copy, name):
    content = (copy / name).read_bytes()
    for damaged in (content[: len(content) // 2], b"", None):
        (copy / name).unlink()
        if damaged is not None:
            (copy / name).write_bytes(damaged)
        with pytest.raises(ArtifactCorruptError, match=name):
            OnnxEncoder(copy)
        (copy / name).write_bytes(content)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_a_file_that_was_never_right_is_named(copy, name):
    """The hash fits, what is in the file does not."""
    (copy / name).write_bytes(b"rubbish")
    config = json.loads((copy / "config.json").read_text())
    config["files"][name] = sha256_of(copy / name)
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactCorruptError, match=name):
        OnnxEncoder(copy)


@pytest.mark.parametrize("change", [{"dimension": "16"}, {"max_tokens": None}, {"precision": 8}, {"files": {}}])
def test_incomplete_config(copy, change):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ArtifactCorruptError):
        OnnxEncoder(copy)


def test_another_kind_of_folder(copy):
    (copy / "config.json").write_text('{"kind": "static"}')
    with pytest.raises(EncoderError, match="kind is 'static'"):
        OnnxEncoder(copy)
