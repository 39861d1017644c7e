import json
import shutil

import numpy as np
import pytest

from llmrouter.encoders import SentenceTransformersEncoder, load_encoder
from llmrouter.exceptions import ConfigError, EncoderError

TEXTS = ["What is the capital of France?", "hello", "Wo wohnt der Fuchs, 狐狸? 🦊", "def f():\n    pass", "fox " * 200]


def test_minilm_gives_the_librarys_own_vectors(minilm, minilm_folder):
    from sentence_transformers import SentenceTransformer

    library = SentenceTransformer(str(minilm_folder), device="cpu")
    assert minilm.max_tokens == library.max_seq_length == 256
    assert minilm.dimension == 384
    assert minilm.count_tokens(TEXTS[-1]) == 200
    np.testing.assert_allclose(minilm.encode(TEXTS), library.encode(TEXTS), atol=1e-6)


def test_models_that_do_not_normalise_get_unit_length(tiny_folder):
    from sentence_transformers import SentenceTransformer

    texts = ["hello", "the quick fox", "abc house"]
    raw = SentenceTransformer(str(tiny_folder), device="cpu").encode(texts)
    assert not np.allclose(np.linalg.norm(raw, axis=1), 1.0)
    encoder = SentenceTransformersEncoder(tiny_folder, device="cpu")
    np.testing.assert_allclose(encoder.encode(texts), raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-6)


def test_long_texts_are_averaged_over_windows_by_their_tokens(tiny_folder):
    encoder = SentenceTransformersEncoder(tiny_folder, device="cpu", max_windows=3)
    assert encoder.max_tokens == 32
    first, second = "fox house " * 15, "hello the quick " * 3  # 30 tokens fill a window, 9 are left for the next
    a, b = encoder.encode([first, second])
    expected = 30 * a + 9 * b
    np.testing.assert_allclose(encoder.encode([first + second])[0], expected / np.linalg.norm(expected), atol=1e-6)


def test_a_default_prompt_precedes_the_text(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "prompted")
    settings = {"prompts": {"query": "house house "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    plain, prompted = (SentenceTransformersEncoder(path, device="cpu") for path in (tiny_folder, folder))
    np.testing.assert_allclose(prompted.encode(["fox"]), plain.encode(["house house fox"]), atol=1e-6)
    assert not prompted.encode([""]).any()
    assert prompted.fingerprint != plain.fingerprint


def test_fingerprint_names_weights_and_settings_but_not_the_place(tiny_folder, tmp_path):
    from tests.contracts.tiny_sentence_encoder import save_tiny_bert

    def fingerprint(folder, **settings):
        return SentenceTransformersEncoder(folder, device="cpu", **settings).fingerprint

    original = fingerprint(tiny_folder)
    assert fingerprint(shutil.copytree(tiny_folder, tmp_path / "copy"), batch_size=3) == original
    others = {
        fingerprint(tiny_folder, max_windows=2),
        fingerprint(tiny_folder, window_tokens=9),
        fingerprint(save_tiny_bert(tmp_path / "weights", seed=1)),
        fingerprint(save_tiny_bert(tmp_path / "pooling", pooling="cls")),
    }
    assert len(others | {original}) == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window_tokens": 31}, "window_tokens must be 1 to 30"),
        ({"window_tokens": 0}, "window_tokens must be an integer"),
        ({"max_windows": 0}, "max_windows"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_bad_settings(tiny_folder, settings, message):
    with pytest.raises(ConfigError, match=message):
        SentenceTransformersEncoder(tiny_folder, device="cpu", **settings)


def test_a_folder_that_is_no_model(tmp_path, tiny_folder):
    broken = shutil.copytree(tiny_folder, tmp_path / "broken")
    (broken / "config.json").write_text("{")
    with pytest.raises(EncoderError, match="as a sentence encoder"):
        SentenceTransformersEncoder(broken, device="cpu")
    truncated = shutil.copytree(tiny_folder, tmp_path / "truncated")
    weights = truncated / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(EncoderError, match="as a sentence encoder"):
        SentenceTransformersEncoder(truncated, device="cpu")


@pytest.mark.slow
def test_real_prompts_give_the_stored_vectors(minilm, shared_data):
    pyarrow = pytest.importorskip("pyarrow.parquet", reason="the extra [train] is not installed")
    folder = shared_data / "routerbench_subset"
    table = pyarrow.read_table(folder / "prompts.parquet", columns=["prompt", "query"]).to_pydict()
    texts = [query if query is not None else prompt for prompt, query in zip(table["prompt"], table["query"])]
    stored = np.load(folder / "embeddings_minilm.npy", allow_pickle=False).astype(np.float32)
    assert len(stored) == len(texts)
    short = [row for row, text in enumerate(texts) if minilm.count_tokens(text) <= minilm.max_tokens - 2]
    assert len(short) > 0.9 * len(texts)
    chosen = short[:: len(short) // 150]
    cosines = (minilm.encode([texts[row] for row in chosen]) * stored[chosen]).sum(axis=1)
    cosines /= np.linalg.norm(stored[chosen], axis=1)
    assert cosines.min() > 0.999


def test_a_prompt_may_be_given(tiny_folder):
    plain = SentenceTransformersEncoder(tiny_folder, device="cpu")
    prompted = load_encoder(f"{tiny_folder}", device="cpu", prompt="house")
    assert prompted.fingerprint == load_encoder(tiny_folder, device="cpu", prompt="house ").fingerprint
    np.testing.assert_allclose(prompted.encode(["fox"]), plain.encode(["house fox"]), atol=1e-6)
    assert prompted.fingerprint != plain.fingerprint


def test_bfloat16_is_near_and_another_encoder(minilm_folder, minilm):
    halved = SentenceTransformersEncoder("minilm", device="cpu", precision="bfloat16")
    assert halved.fingerprint != minilm.fingerprint
    same = SentenceTransformersEncoder("minilm", device="cpu", precision="float32")
    assert same.fingerprint == minilm.fingerprint
    cosines = (halved.encode(TEXTS) * minilm.encode(TEXTS)).sum(axis=1)
    assert cosines.min() > 0.999
    np.testing.assert_allclose(np.linalg.norm(halved.encode(TEXTS), axis=1), 1.0, atol=1e-6)


def test_compiled_is_true_or_false(tiny_folder):
    with pytest.raises(ConfigError, match="compiled must be true or false, not 'maybe'"):
        SentenceTransformersEncoder(tiny_folder, device="cpu", compiled="maybe")


def test_a_compiled_network_sees_few_lengths_and_gives_the_same(tiny_folder, monkeypatch):
    seen = []

    def recorded(model):
        def network(features):
            seen.append(tuple(features["input_ids"].shape))
            return model(features)

        return network

    monkeypatch.setattr("llmrouter.encoders._sentence_transformers._compiled", recorded)
    texts = ["fox " * count for count in (1, 3, 9, 14, 15, 20, 30, 31, 50)]
    compiled = SentenceTransformersEncoder(tiny_folder, device="cpu", compiled=True, batch_size=4)
    plain = SentenceTransformersEncoder(tiny_folder, device="cpu")
    assert compiled.fingerprint == plain.fingerprint
    np.testing.assert_allclose(compiled.encode(texts), plain.encode(texts), atol=1e-6)
    assert {length for _, length in seen} == {16, 32}
    assert max(rows for rows, _ in seen) == 4


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"precision": "fp8"}, "precision must be float32 or bfloat16, not 'fp8'"),
        ({"prompt": 3}, "prompt must be text, not 3"),
        ({"batch_size": 0}, "batch_size must be an integer >= 1"),
    ],
)
def test_settings_out_of_range_are_named(settings, match):
    with pytest.raises(ConfigError, match=match):
        SentenceTransformersEncoder("minilm", device="cpu", **settings)
