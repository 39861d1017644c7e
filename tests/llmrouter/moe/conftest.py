import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

pytest.importorskip("torch", reason="local models need the extra [moe]")

import torch

if not torch.cuda.is_available():
    # Kernels run in Triton's interpreter, which is chosen when triton is imported (before any test).
    os.environ["TRITON_INTERPRET"] = "1"

from tiny_checkpoints import ARCHITECTURES, make_checkpoint

from llmrouter.moe import GenerationRequest, load_engine


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    return {name: make_checkpoint(folder / name, name) for name in (*ARCHITECTURES, "llama")}


@pytest.fixture(scope="session")
def engines(checkpoints):
    return {name: load_engine(checkpoints[name]) for name in ARCHITECTURES}


@pytest.fixture(params=ARCHITECTURES)
def engine(request, engines):
    return engines[request.param]


@pytest.fixture
def mixtral(checkpoints):
    """An engine of the test's own, which it may start, stop and break."""
    engine = load_engine(checkpoints["mixtral"], max_batch=4, max_queue=3)
    yield engine
    engine.stop()


@pytest.fixture(scope="session")
def chat():
    def build(text, **values):
        return GenerationRequest(messages=[{"role": "user", "content": text}], **values)

    return build
