import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from llmrouter.encoders import StaticEncoder
from llmrouter.encoders._static import DEFAULT_FOLDER
from llmrouter.exceptions import ArtifactCorruptError, ConfigError, EncoderError


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(DEFAULT_FOLDER, tmp_path / "static")


def test_shipped_table_is_what_notice_and_config_say():
    config = json.loads((DEFAULT_FOLDER / "config.json").read_text())
    encoder = StaticEncoder()
    assert encoder.dimension == config["dimension"] == 256
    assert encoder._table.dtype == np.float16
    assert encoder._table.shape == (config["vocabulary"], 256)
    notice = (DEFAULT_FOLDER.parents[2] / "NOTICE").read_text()
    for digest in (config["source_sha256"], *config["files"].values()):
        assert digest in notice


def test_same_vectors_as_model2vec():
    """model2vec's own runtime on our table is an independent implementation."""
    model2vec = pytest.importorskip("model2vec", reason="model2vec is not installed")
    encoder = StaticEncoder()
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(DEFAULT_FOLDER / "tokenizer.json"))
    reference = model2vec.StaticModel(encoder._table.astype(np.float32), tokenizer, normalize=True)
    texts = [
        "What is the capital of France?",
        "Straße, naïve café; ÅNGSTRÖM",
        "def f(x):\n\treturn x ** 2  # square",
        "数学 and 日本語 mixed",
        "🦊",  # not in the vocabulary
        "",
        "unknown 🦊 between words",
        "one two three " * 30,
    ]
    np.testing.assert_allclose(encoder.encode(texts), reference.encode(texts), atol=1e-5)
    long = "What is the capital of France, and of Spain? " * 300  # beyond model2vec's own cut at 512 tokens
    np.testing.assert_allclose(encoder.encode([long])[0], reference.encode([long], max_length=None)[0], atol=1e-5)


def test_meaning_survives_distillation():
    vectors = StaticEncoder().encode(
        [
            "How do I sort a list in Python?",
            "python code that orders an array",
            "The weather in Norway is cold in winter.",
        ]
    )
    assert vectors[0] @ vectors[1] > 0.3
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


def test_unknown_tokens_only_give_a_zero_row():
    encoder = StaticEncoder()
    assert encoder.count_tokens("🦊") == 1
    assert not encoder.encode(["🦊"]).any()


def test_fingerprint_names_files_and_settings(copy):
    shipped = StaticEncoder().fingerprint
    assert StaticEncoder(copy).fingerprint == shipped
    assert StaticEncoder(max_windows=4).fingerprint != shipped
    assert StaticEncoder(window_tokens=256).fingerprint != shipped


@pytest.mark.parametrize("name", ["table.safetensors", "tokenizer.json"])
@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: data[:-1] + b"\x00", lambda _: None]
)
def test_damaged_file_is_named(copy, name, damage):
    content = damage((copy / name).read_bytes())
    (copy / name).unlink()
    if content is not None:
        (copy / name).write_bytes(content)
    with pytest.raises(ArtifactCorruptError, match=name):
        StaticEncoder(copy)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not JSON"),
        (b"[]", "JSON object"),
        (b'{"kind": "static"}', "hashes are missing"),
        (b'{"kind": "static", "files": {"../table.safetensors": "00"}}', "leads out of the folder"),
        (b"\xff\xfe", "not JSON"),
    ],
)
def test_damaged_config(copy, content, message):
    (copy / "config.json").write_bytes(content)
    with pytest.raises(ArtifactCorruptError, match=message):
        StaticEncoder(copy)


def test_config_must_record_every_file(copy):
    config = json.loads((copy / "config.json").read_text())
    del config["files"]["tokenizer.json"]
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactCorruptError, match=r"no hash of tokenizer\.json"):
        StaticEncoder(copy)


def test_table_and_tokenizer_must_fit(copy):
    from safetensors.numpy import save_file

    from llmrouter._files import sha256_of

    config = json.loads((copy / "config.json").read_text())
    for table, message in [
        (np.zeros((10, 4), dtype=np.float16), "10 rows"),
        (np.zeros((10, 4), dtype=np.float32), "float16"),
        (np.zeros(10, dtype=np.float16), "float16"),
    ]:
        save_file({"table": table}, copy / "table.safetensors")
        config["files"]["table.safetensors"] = sha256_of(copy / "table.safetensors")
        (copy / "config.json").write_text(json.dumps(config))
        with pytest.raises(ArtifactCorruptError, match=message):
            StaticEncoder(copy)


def test_wrong_folder(tmp_path):
    with pytest.raises(EncoderError, match=r"no folder .*training\.distill"):
        StaticEncoder(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text('{"kind": "onnx"}')
    with pytest.raises(EncoderError, match="kind is 'onnx'"):
        StaticEncoder(tmp_path)


@pytest.mark.parametrize("name", ["max_windows", "window_tokens"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "8", True, None])
def test_bad_settings(name, value):
    with pytest.raises(ConfigError, match=f"{name} must be an integer >= 1"):
        StaticEncoder(**{name: value})


def test_nothing_heavy_is_imported():
    code = (
        "import sys, llmrouter.encoders, llmrouter.index; llmrouter.encoders.load_encoder('static').encode(['x']);"
        "llmrouter.index.create_index('exact', 4);"
        "heavy = {'torch', 'transformers', 'onnxruntime', 'faiss', 'sentence_transformers', 'huggingface_hub',"
        " 'model2vec', 'sklearn', 'pyarrow', 'scipy'} & set(sys.modules); sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
