"""The embedded default: pocket pool, shipped artifact, no configuration, nothing faked."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
import psutil
import pytest

from llmrouter.artifact import default_artifact
from llmrouter.outcomes import SQLiteOutcomeStore
from service.config_checks import pocket_cards
from service.demo import QUESTIONS, Question, is_right
from service.pocket import PORT_VARIABLE, free_port

HEAVY = {"torch", "litellm", "transformers", "sentence_transformers", "sklearn", "pyarrow", "faiss", "openai"}
MAX_RESIDENT_MB = 300
START_S = 240.0

pytestmark = pytest.mark.skipif(
    not (default_artifact() / "manifest.json").is_file() or not pocket_cards(),
    reason="the shipped artifact or the pocket models are not in this checkout",
)


def test_modules_memory_and_time_to_ready(tmp_path: Path) -> None:
    script = """
import sys, time
started = time.perf_counter()
from service.threads import pin_threads
pin_threads()
from service.app import create_app
from service.server import GatewayThread
from service.settings import load_settings
import http.client, json, re
with GatewayThread(create_app(load_settings())) as gateway:
    connection = http.client.HTTPConnection("127.0.0.1", int(gateway.url.rpartition(":")[2]))
    connection.request("GET", "/readyz")
    assert connection.getresponse().read()
    ready = time.perf_counter() - started
    body = {"model": "auto", "messages": [{"role": "user", "content": "What is 1 plus 4?"}]}
    connection.request("POST", "/v1/route", json.dumps(body))
    assert json.loads(connection.getresponse().read())["neighbours"]
# Not ru_maxrss: that is inherited from the process that started this one.
resident = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
print(json.dumps({"modules": sorted(sys.modules), "ready_s": ready, "resident_mb": resident}))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    print(f"\ndefault gateway: ready after {facts['ready_s']:.2f} s, {facts['resident_mb']:.0f} MB resident at most")
    assert set(facts["modules"]) & HEAVY == set()
    assert facts["resident_mb"] < MAX_RESIDENT_MB


@contextmanager
def serving(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    """Run ``llmrouter serve`` in `folder`; yield process, URL and what it says."""
    environment = {**os.environ, PORT_VARIABLE: str(free_port())}
    process = subprocess.Popen(
        [sys.executable, "-m", "llmrouter.cli", "serve", "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment,
    )
    lines: list[str] = []
    ready = threading.Event()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line.rstrip())
            if "Ctrl-C" in line:
                ready.set()
        ready.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert ready.wait(START_S)
        found = re.search(r"listens on (http://\S+)", "\n".join(lines))
        assert found, "\n".join(lines)
        yield process, found[1], lines
    finally:
        process.kill()
        process.wait()
        reader.join(10)


@pytest.mark.slow
def test_serve_without_a_configuration(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, url, lines):
        assert any("curl" in line for line in lines)
        (child,) = psutil.Process(process.pid).children()
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=60) as client:
            models = set()
            for question in QUESTIONS:
                raw = client.chat.completions.with_raw_response.create(
                    model="auto", messages=[{"role": "user", "content": question.prompt}]
                )
                models.add(raw.headers["x-llmrouter-model"])
                assert float(raw.headers["x-llmrouter-cost"]) > 0
                assert raw.parse().choices[0].message.content
            stream = client.chat.completions.create(
                model="auto", stream=True, messages=[{"role": "user", "content": "Write cat in upper case"}]
            )
            assert "".join(chunk.choices[0].delta.content or "" for chunk in stream)
            schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
            schema["additionalProperties"] = False  # left free, so small a model goes on with properties of its own
            held = client.chat.completions.create(
                model="auto",
                messages=[{"role": "user", "content": "What is 12 plus 7?"}],
                response_format={"type": "json_schema", "json_schema": {"name": "number", "schema": schema}},
                max_tokens=60,
            )
            assert isinstance(json.loads(held.choices[0].message.content or "")["n"], int)
            assert len(client.embeddings.create(model="pocket-words", input="cat").data[0].embedding) > 1
        assert len(models) >= 2, "prompts of different kinds go to different models"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert not psutil.pid_exists(child.pid), "the pocket pool is stopped too"
    outcomes = list(SQLiteOutcomeStore(tmp_path / "outcomes.db").scan())
    assert [outcome.status for outcome in outcomes] == ["ok"] * (len(QUESTIONS) + 3)
    assert all(outcome.cost_usd for outcome in outcomes)
    assert all(outcome.output_tokens for outcome in outcomes[:-1]), "an embedding has none"


@pytest.mark.slow
def test_the_demonstration(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llmrouter.cli", "demo"],
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    print(f"\n{done.stdout}")
    assert all(question.prompt in done.stdout for question in QUESTIONS)
    assert "pocket-max alone" in done.stdout
    assert list(tmp_path.iterdir()) == [], "nothing stays behind"


@pytest.mark.parametrize(
    ("answer", "right"), [("7 22 31", True), (" 7, 22, 31. ", True), ("7 22 31 31", False), ("", False)]
)
def test_answers_are_checked_fairly(answer: str, right: bool) -> None:
    assert is_right(Question("Sort", "7 22 31"), answer) is right
