import json

import numpy as np
import pytest

from llmrouter.encoders import StaticEncoder
from llmrouter.encoders._sources import resolve_source
from llmrouter.exceptions import ConfigError, EncoderError
from tests.contracts.tiny_sentence_encoder import save_tiny_bert
from training import distill

pytest.importorskip("model2vec", reason="the extra [encoders] is not installed")
pytest.importorskip("torch", reason="the extra [encoders] is not installed")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return resolve_source(save_tiny_bert(tmp_path_factory.mktemp("tiny") / "tiny-bert"))


def test_table_loads_and_gives_model2vecs_vectors(source, tmp_path):
    model = distill.distill(source, 8)
    config = distill.write_table(model, source, tmp_path)
    encoder = StaticEncoder(tmp_path)
    assert encoder.dimension == config["dimension"] == 8
    assert config["source_sha256"] == source.weights_sha256
    texts = ["hello the quick fox", "house", "abc fox house hello"]
    np.testing.assert_allclose(encoder.encode(texts), model.encode(texts), atol=2e-3)  # fp16 against fp32


def test_twice_gives_the_same_bytes(source, tmp_path):
    for folder in ("one", "two"):
        distill.main(["--source", str(source.folder), "--dimension", "8", "--out", str(tmp_path / folder)])
    for name in ("table.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_padding_of_the_source_is_not_averaged(source, tmp_path):
    """The source's tokenizer pads every text to a fixed length, as MiniLM's does."""
    assert json.loads((source.folder / "tokenizer.json").read_text())["padding"] is not None
    distill.write_table(distill.distill(source, 8), source, tmp_path)
    assert json.loads((tmp_path / "tokenizer.json").read_text())["padding"] is None
    assert StaticEncoder(tmp_path).count_tokens("fox") == 1


@pytest.mark.parametrize("dimension", [0, 17, -1])
def test_bad_dimension(source, dimension):
    with pytest.raises(ConfigError, match="dimension must be 1 to 16"):
        distill.distill(source, dimension)


def test_missing_source(tmp_path):
    with pytest.raises(EncoderError, match="no folder"):
        distill.main(["--source", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
