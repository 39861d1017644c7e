"""A projection head behind a frozen encoder: what it computes, what it refuses."""

import json

import numpy as np
import pytest

from llmrouter.encoders import HeadEncoder, ProjectionHead, StaticEncoder, load_encoder, save_head
from llmrouter.exceptions import ArtifactCorruptError, ConfigError, DataError, EncoderError, FingerprintError
from tests.contracts.encoder_kit import check_encoder


def a_head(*sizes, seed=0):
    return ProjectionHead.first(sizes, np.random.default_rng(seed))


@pytest.fixture
def folder(tmp_path):
    save_head(
        tmp_path / "head", a_head(256, 32, 24), base="static", base_fingerprint=StaticEncoder().fingerprint, about={}
    )
    return tmp_path / "head"


def test_the_kit(folder):
    check_encoder(load_encoder(folder), load_encoder(f"head:folder={folder}"))


def test_it_is_relu_between_layers_and_unit_length_behind_them(folder):
    X = StaticEncoder().encode(["a fox", "a house"]).astype(np.float64)
    first, second = a_head(256, 32, 24).layers
    hidden = X @ first
    expected = np.where(hidden > 0, hidden, 0.0) @ second
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(HeadEncoder(folder).encode(["a fox", "a house"]), expected, atol=1e-6)


def test_no_layer_is_the_identity():
    X = np.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(ProjectionHead(()).project(X), [[0.6, 0.8], [0.0, 0.0]])
    with pytest.raises(DataError, match="0 layers"):
        save_head(None, ProjectionHead(()), base="static", base_fingerprint="x", about={})


def test_another_encoder_is_refused(folder):
    with pytest.raises(
        FingerprintError, match=r"trained on the encoder static-.*'form' is form-.*training\.contrastive"
    ):
        HeadEncoder(folder, base="form")


def test_weights_are_part_of_the_fingerprint(folder, tmp_path):
    save_head(
        tmp_path / "other", a_head(256, 32, 24, seed=1), base="static",
        base_fingerprint=StaticEncoder().fingerprint, about={},
    )  # fmt: skip
    assert HeadEncoder(folder).fingerprint != HeadEncoder(tmp_path / "other").fingerprint


def test_broken_folders(folder, tmp_path):
    with pytest.raises(EncoderError, match=r"no folder.*training\.contrastive"):
        HeadEncoder(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="folder"):
        load_encoder("head")
    weights = folder / "head.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ArtifactCorruptError, match=r"head\.safetensors"):
        HeadEncoder(folder)
    weights.write_bytes(whole)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"shape": [256, 8]}))
    with pytest.raises(ArtifactCorruptError, match="shape"):
        HeadEncoder(folder)
    (folder / "config.json").write_text(json.dumps(config | {"kind": "static"}))
    with pytest.raises(EncoderError, match="kind is 'static'"):
        HeadEncoder(folder)
