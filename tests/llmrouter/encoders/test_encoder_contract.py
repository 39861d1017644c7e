"""Every encoder that loads without a network passes the kit. Small windows keep the networks' work small."""

import pytest

from llmrouter.encoders import CachedEncoder, FormEncoder, OnnxEncoder, SentenceTransformersEncoder, StaticEncoder
from tests.contracts.encoder_kit import check_encoder

SMALL = {"max_windows": 2, "window_tokens": 24}


def test_static():
    check_encoder(StaticEncoder(), StaticEncoder())


def test_static_with_few_windows():
    check_encoder(StaticEncoder(**SMALL), StaticEncoder(**SMALL))


def test_cached():
    check_encoder(CachedEncoder(StaticEncoder(), capacity=5), StaticEncoder())


def test_sentence_transformers(minilm_folder):
    check_encoder(
        SentenceTransformersEncoder("minilm", device="cpu", **SMALL),
        SentenceTransformersEncoder(minilm_folder, device="cpu", batch_size=1, **SMALL),
    )


@pytest.mark.slow
def test_onnx_int8(tiny_int8_folder):
    check_encoder(OnnxEncoder(tiny_int8_folder, **SMALL), OnnxEncoder(tiny_int8_folder, threads=2, **SMALL))


@pytest.mark.soak
def test_the_packaged_minilm_in_int8(minilm_folder, tmp_path):
    """The export of the real weights takes a minute; what it costs in likeness is in its configuration."""
    from training.export_onnx import main

    main(["--source", "minilm", "--out", str(tmp_path / "int8"), "--int8"])
    check_encoder(OnnxEncoder(tmp_path / "int8", **SMALL), OnnxEncoder(tmp_path / "int8", threads=2, **SMALL))


def test_form():
    check_encoder(FormEncoder(), FormEncoder(base="static", weight=0.12))
