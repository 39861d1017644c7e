"""The official openai client against a server process; its start, its stop, and its complaints."""

import importlib.resources
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import openai
import pytest
from tiny_checkpoints import make_checkpoint

from service.moe import __main__

ROOT = Path(__file__).parents[3]
MESSAGES = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
POOL = Path(str(importlib.resources.files("llmrouter"))) / "assets" / "pocket" / "pool.json"


def launch(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "service.moe", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def url_of(process):
    line = process.stdout.readline()
    assert line.startswith("serving "), line + process.stderr.read()
    return line.split()[-1]


def stop_with_open_stream(process, url):
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        body = {"model": "tiny-mixtral", "messages": MESSAGES, "temperature": 1.0, "n": 4, "seed": 0}
        stream = client.chat.completions.create(**body, stream=True)
        next(stream)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    log = process.stderr.read()
    assert not log or log.splitlines() == ["a stream broke off: the engine of 'tiny-mixtral' was stopped"]


@pytest.fixture(scope="module")
def server(tiny_models):
    models = [argument for name, folder in tiny_models.items() for argument in ("--model", f"{name}={folder}")]
    process = launch(*models, "--port", "0")
    try:
        url = url_of(process)
        yield url
        stop_with_open_stream(process, url)
    finally:
        process.kill()


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=server, api_key="none", max_retries=0) as client:
        yield client


def test_sync_client(client):
    answer = client.chat.completions.create(
        model="tiny-mixtral", messages=MESSAGES, max_tokens=12, n=2, logprobs=True, top_logprobs=3
    )
    assert len(answer.choices) == 2
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == answer.choices[1].message.content
    assert answer.choices[0].finish_reason in {"stop", "length"}
    assert answer.usage.completion_tokens > 0
    for entry in answer.choices[0].logprobs.content:
        assert entry.logprob <= 0
        assert entry.top_logprobs[0].logprob == pytest.approx(entry.logprob, abs=1e-6)  # greedy


def test_sync_stream(client):
    options = {"model": "tiny-mixtral", "messages": MESSAGES, "max_tokens": 20}
    whole = client.chat.completions.create(**options)
    chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage


async def test_async_client_and_stream(server):
    async with openai.AsyncOpenAI(base_url=server, api_key="none") as client:
        options = {"model": "org/tiny-olmoe", "messages": MESSAGES, "max_tokens": 20, "temperature": 0.8, "seed": 3}
        whole = await client.chat.completions.create(**options)
        pieces = [
            chunk.choices[0].delta.content or ""
            async for chunk in await client.chat.completions.create(**options, stream=True)
        ]
        assert "".join(pieces) == whole.choices[0].message.content
        models = await client.models.list()
        assert [model.id for model in models.data] == ["tiny-mixtral", "org/tiny-olmoe"]
        assert (await client.models.retrieve("tiny-mixtral")).owned_by == "llmrouter"


def test_errors_arrive_as_the_clients_own(client):
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="nothing", messages=MESSAGES)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    assert missing.value.request_id.startswith("req_")
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(
            model="tiny-mixtral", messages=[{"role": "user", "content": "fox " * 3000}], stream=True
        )
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as unsupported:
        client.chat.completions.create(model="tiny-mixtral", messages=MESSAGES, functions=[{"name": "f"}])
    assert unsupported.value.param == "functions"


@pytest.fixture
def refusal(monkeypatch, capsys):
    """Run the command in this process and return its one line of complaint."""
    monkeypatch.setattr(__main__, "exit_on_signals", lambda: None)

    def run(*arguments):
        assert __main__.main(arguments) == 1
        complaint = capsys.readouterr().err
        assert complaint.count("\n") == 1, complaint
        return complaint

    return run


def test_a_busy_port_is_one_line_and_exit_code_1(refusal):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        complaint = refusal("--model", "m=never/loaded", "--port", str(port))
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use; choose another" in complaint


def test_exit_code_1_leaves_the_process():
    process = launch("--model", "m=/no/such/folder", "--port", "0")
    try:
        _, complaint = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1
    assert complaint.startswith("service.moe: /no/such/folder: no such folder")
    assert complaint.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "nothing to serve"),
        (["--model", "m"], "write NAME=PATH_OR_ID"),
        (["--model", "m=a/b", "--model", "m=c/d"], "given twice"),
        (["--model", "m=a/b", "--host", "no.such.host.invalid"], "cannot listen on"),
        (["--model", "m=a/b", "--port", "99999"], "--port 99999: it must be from 0"),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_code_1(refusal, arguments, expected):
    assert expected in refusal(*arguments)


def test_a_dense_model_is_refused_by_name(refusal, capsys, tmp_path):
    folder = make_checkpoint(tmp_path / "dense", "llama")
    capsys.readouterr()
    assert "not a mixture-of-experts" in refusal("--model", f"m={folder}", "--port", "0")


@pytest.mark.skipif(not POOL.is_file(), reason="this checkout has no pocket models")
def test_the_pocket_pool_is_served():
    process = launch("--pocket", "--port", "0")
    try:
        names = [model["name"] for model in json.loads(POOL.read_text())["models"]]
        with openai.OpenAI(base_url=url_of(process), api_key="none") as client:
            assert [model.id for model in client.models.list().data] == names
            for name in names:
                answer = client.chat.completions.create(model=name, messages=MESSAGES, max_tokens=8)
                assert answer.usage.completion_tokens > 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
