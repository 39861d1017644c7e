import socket
import sys
import threading
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "llmrouter" / "moe"))

pytest.importorskip("torch", reason="local models need the extra [moe]")

import httpx
import uvicorn
from tiny_checkpoints import make_checkpoint

from llmrouter.moe import load_engine
from service.moe import create_app


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    return {
        "tiny-mixtral": make_checkpoint(folder / "mixtral", "mixtral", max_position_embeddings=1024),
        "org/tiny-olmoe": make_checkpoint(folder / "olmoe", "olmoe"),
    }


class Running:
    """A server in a thread of this process, so that tests can look at its engines."""

    def __init__(self, engines):
        self.engines = {engine.name: engine for engine in engines}
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(create_app(engines), log_level="warning"))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]})

    def __enter__(self):
        self._thread.start()
        wait_until(lambda: self._server.started)
        return self

    def __exit__(self, *_):
        self._server.should_exit = True
        self._thread.join(60)
        assert not self._thread.is_alive()


def wait_until(condition):
    for _ in range(12000):
        if condition():
            return
        time.sleep(0.005)
    pytest.fail("the condition did not come true")


@pytest.fixture(scope="session")
def running(tiny_models):
    engines = [load_engine(folder, name, max_batch=8, max_queue=6) for name, folder in tiny_models.items()]
    with Running(engines) as server:
        yield server
    assert not any(engine.alive for engine in engines)


@pytest.fixture
def http(running):
    with httpx.Client(base_url=running.url, timeout=30) as client:
        yield client


@pytest.fixture
def ask(http):
    """POST a chat body, defaults filled in."""

    def post(**body):
        return http.post(
            "/v1/chat/completions",
            json={"model": "tiny-mixtral", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8} | body,
        )

    return post


@pytest.fixture(name="wait_until")
def wait_until_fixture():
    return wait_until
