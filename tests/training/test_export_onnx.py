import json

import pytest

from llmrouter.encoders import OnnxEncoder
from llmrouter.encoders._sources import resolve_source
from llmrouter.exceptions import EncoderError
from tests.contracts.tiny_sentence_encoder import graph_of, save_tiny_bert
from training import export_onnx

for package in ("torch", "sentence_transformers", "onnxruntime", "onnxscript"):
    pytest.importorskip(package, reason="the extra [encoders] is not installed")


def test_an_export_records_that_it_is_the_original(tiny_folder, tiny_onnx_folder):
    config = json.loads((tiny_onnx_folder / "config.json").read_text())
    assert (config["precision"], config["dimension"], config["max_tokens"]) == ("fp32", 16, 32)
    assert config["cosine_with_source"]["min"] > export_onnx.MIN_COSINE_FP32
    assert config["source_sha256"] == resolve_source(tiny_folder).weights_sha256


def test_int8_export_records_what_it_costs(tiny_folder, tiny_int8_folder):
    config = json.loads((tiny_int8_folder / "config.json").read_text())
    assert (config["precision"], config["dimension"], config["max_tokens"]) == ("int8", 16, 32)
    assert 0.9 < config["cosine_with_source"]["min"] <= config["cosine_with_source"]["mean"] <= 1.00001
    assert config["cosine_with_source"]["min"] < 0.9999999, "nothing was quantised"
    assert config["source_sha256"] == resolve_source(tiny_folder).weights_sha256
    assert OnnxEncoder(tiny_int8_folder).encode(["fox"]).shape == (1, 16)
    assert {path.name for path in tiny_int8_folder.iterdir()} == {"config.json", "model.onnx", "tokenizer.json"}


def test_an_export_that_differs_is_refused_and_leaves_nothing(tiny_onnx_folder, tmp_path, monkeypatch):
    """The graph of a model of other weights in the place of the right one is such an export."""
    monkeypatch.setattr(export_onnx, "_export_graph", graph_of(tiny_onnx_folder))
    with pytest.raises(EncoderError, match="differs from the original: smallest cosine"):
        export_onnx.export(resolve_source(save_tiny_bert(tmp_path / "other", seed=1)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_mean_pooling_is_exported(tmp_path):
    source = resolve_source(save_tiny_bert(tmp_path / "cls", pooling="cls"))
    with pytest.raises(EncoderError, match="only mean pooling"):
        export_onnx.export(source, tmp_path / "out")


def test_texts_of_the_check_reach_several_windows():
    texts = export_onnx.check_texts()
    assert len(set(texts)) == len(texts)
    assert max(map(len, texts)) > 2000
