"""Upstream, load generator and the bare pass-through, run for real: counts and bytes, never speed."""

import asyncio
import json
import socket
import sys
from dataclasses import asdict

import orjson
import pytest

from benchmarks.gateway import answers
from benchmarks.gateway.__main__ import main
from benchmarks.gateway.connection import wrong
from benchmarks.gateway.load import LoadRun, LoadSpec
from benchmarks.gateway.measure import EchoProcess, LoadProcess, measure
from benchmarks.gateway.peers import PEERS, PeerAbsentError, PeerPlace, RunningPeer
from benchmarks.gateway.plan import Cell
from benchmarks.gateway.processes import ManagedProcess, StartError, fetch
from benchmarks.gateway.prompts import BodyMaker

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmark uses timerfd and /proc")

BARE = next(peer for peer in PEERS if peer.name == "bare")


@pytest.fixture(scope="module")
def echo(tmp_path_factory):
    with EchoProcess(tmp_path_factory.mktemp("echo")) as running:
        yield running


@pytest.fixture(scope="module")
def load():
    with LoadProcess() as running:
        yield running


@pytest.fixture(scope="module")
def bare(echo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bare")
    running = BARE.start(PeerPlace(upstream_port=echo.port, folder=folder, cache=folder, source=folder))
    yield running
    running.process.stop()


def counted(echo, before):
    after = echo.stats()
    return {name: after[name] - before[name] for name in ("whole", "streamed", "finished", "disconnects")}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("through_gateway", [False, True])
def test_a_closed_loop_gets_every_answer_byte_by_byte(echo, load, bare, stream, through_gateway):
    echo.behave({})
    before = echo.stats()
    port = bare.port if through_gateway else echo.port
    result = load.run(LoadSpec(port=port, model="m", stream=stream, concurrency=4, requests=60))
    kind, other = ("streamed", "whole") if stream else ("whole", "streamed")
    assert (result["sent"], result["completed"], result["errors"]) == (60, 60, 0)
    assert counted(echo, before) == {kind: 60, other: 0, "finished": 60, "disconnects": 0}
    assert result["latency_ms"]["count"] == result["first_byte_ms"]["count"] == 60


def test_an_open_loop_sends_what_its_schedule_says(echo, load):
    echo.behave({"delay_s": 0.02, "first_token_s": 0.02, "token_gap_s": 0.0005})
    before = echo.stats()
    whole = load.run(LoadSpec(port=echo.port, model="m", rate=100.0, seconds=0.5))
    streamed = load.run(LoadSpec(port=echo.port, model="m", rate=20.0, seconds=0.5, stream=True))
    assert (whole["sent"], whole["completed"], whole["errors"]) == (50, 50, 0)
    assert (streamed["sent"], streamed["completed"], streamed["errors"]) == (10, 10, 0)
    assert counted(echo, before) == {"whole": 50, "streamed": 10, "finished": 60, "disconnects": 0}
    # The upstream's own delays are in there: a generator that stopped its clock early would miss them.
    assert whole["latency_ms"]["p50"] >= 20
    assert streamed["latency_ms"]["p50"] >= streamed["first_byte_ms"]["p50"] + 0.5 * answers.TOKENS >= 45


def test_a_measurement_holds_the_peers_cpu_and_memory(echo, load, bare):
    row = measure(bare, Cell(concurrency=2, seconds=0.3), load=load, echo=echo, seed=1)
    assert row["completed"] > 0
    assert row["errors"] == 0
    assert row["cpu_s"] > 0
    assert row["rss_after_bytes"] > 10 * 2**20
    assert row["stages_ms"] == {}
    assert row["other_cores"] >= 0
    direct = measure(RunningPeer(echo.port, "m", None, ""), Cell(rate=50.0, seconds=0.2), load=load, echo=echo, seed=1)
    assert direct["completed"] == 10
    assert "cpu_s" not in direct


def test_clients_that_hang_up_are_counted(echo):
    echo.behave({"first_token_s": 0.0, "token_gap_s": 0.05, "delay_s": 0.0})
    before = echo.stats()
    body = BodyMaker("m", stream=True, seed=0).body(b"7")
    with socket.create_connection(("127.0.0.1", echo.port)) as client:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
        client.sendall(head + body)
        assert b"text/event-stream" in client.recv(4096)
    for _ in range(100):
        if counted(echo, before)["disconnects"]:
            break
    assert counted(echo, before) == {"whole": 0, "streamed": 1, "finished": 0, "disconnects": 1}


def test_the_usage_chunk_comes_when_it_is_asked_for(echo):
    echo.behave({})
    body = BodyMaker("m", stream=True, seed=0, extra={"stream_options": {"include_usage": True}}).body(b"12")
    content = fetch(f"http://127.0.0.1:{echo.port}/v1/chat/completions", body=body)
    assert content == b"".join(answers.events(b"12", usage=True))
    assert content == answers.stream(b"12", usage=True)
    assert content.count(b'"usage"') == 1
    assert wrong(content, b"12", streamed=True, exact=False) == ""
    assert "wrong bytes" in wrong(content, b"12", streamed=True, exact=True)


def test_wrong_answers_are_noticed():
    whole, stream = answers.completion(b"5"), answers.stream(b"5", usage=False)
    for exact in (True, False):
        assert wrong(whole, b"5", streamed=False, exact=exact) == ""
        assert wrong(stream, b"5", streamed=True, exact=exact) == ""
        # another client's answer, lost bytes, a lost event, a lost end
        assert wrong(whole, b"6", streamed=False, exact=exact)
        assert wrong(whole[:-1], b"5", streamed=False, exact=exact)
        assert wrong(stream.replace(b'" about"', b'""', 1), b"5", streamed=True, exact=exact)
        assert wrong(stream.removesuffix(b"data: [DONE]\n\n"), b"5", streamed=True, exact=exact)
    # a gateway may write the same content anew
    rewritten = json.dumps({**json.loads(whole), "model": "alias"}).encode()
    assert wrong(rewritten, b"5", streamed=False, exact=False) == ""
    assert wrong(rewritten, b"5", streamed=False, exact=True)


async def misbehave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, served: list[int]) -> None:
    """Refuse the first request, hang up on the second, answer all others with an answer to another."""
    while await reader.readuntil(b"\r\n\r\n"):
        served.append(1)
        if len(served) == 1:
            writer.write(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy")
        elif len(served) == 2:
            break
        else:
            body = answers.completion(b"999999999")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        await reader.read(65536)
    writer.close()


async def test_failures_are_counted_by_kind_and_the_loop_goes_on():
    served: list[int] = []

    async def serve(reader, writer):
        try:
            await misbehave(reader, writer, served)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    result = await LoadRun(LoadSpec(port=port, model="m", concurrency=1, seconds=0.3)).run()
    server.close()
    assert result["completed"] == 0
    assert result["latency_ms"] == {"count": 0}
    assert result["troubles"]["status 503: busy"] == 1
    assert result["troubles"]["the connection broke off"] == 1
    assert result["troubles"]["wrong bytes"] >= 1
    assert sum(result["troubles"].values()) == result["errors"]


async def test_what_never_comes_is_unfinished_not_forgotten():
    class Silent(asyncio.Protocol):
        """Takes requests and never answers."""

    server = await asyncio.get_running_loop().create_server(Silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    result = await LoadRun(LoadSpec(port=port, model="m", rate=50.0, seconds=0.1, patience_s=0.2)).run()
    server.close()
    assert result["sent"] == 5
    assert result["troubles"] == {"unfinished": 5}
    nobody = await LoadRun(LoadSpec(port=1, model="m", rate=50.0, seconds=0.1, patience_s=0.5)).run()
    assert nobody["completed"] == 0
    assert nobody["errors"] == 5


def test_prompts_differ_and_bodies_are_json():
    maker = BodyMaker("auto", stream=False, seed=3)
    bodies = [orjson.loads(maker.body(b"%d" % i)) for i in range(300)]
    assert [body["seed"] for body in bodies] == list(range(300))
    assert len({body["messages"][1]["content"] for body in bodies}) > 250
    assert all(answers.mark_of(orjson.dumps(body)) == b"%d" % body["seed"] for body in bodies)
    again = BodyMaker("auto", stream=False, seed=3)
    assert orjson.loads(again.body(b"0")) == bodies[0]
    assert 600 < len(orjson.dumps(bodies[0])) < 1500


def test_a_process_that_does_not_start_says_why(tmp_path):
    command = [sys.executable, "-c", "raise SystemExit('no such port')"]
    process = ManagedProcess(command, log=tmp_path / "log.txt")
    with pytest.raises(StartError, match="no such port"):
        process.wait_ready("http://127.0.0.1:1/", timeout_s=20)
    process.stop()


def test_a_peer_that_cannot_be_installed_is_absent_with_its_reason(tmp_path):
    place = PeerPlace(upstream_port=1, folder=tmp_path, cache=tmp_path, source=tmp_path, install=False)
    litellm = next(peer for peer in PEERS if peer.name == "litellm")
    with pytest.raises(PeerAbsentError, match="--no-install"):
        litellm.start(place)


@pytest.mark.slow
def test_the_command_writes_results_page_and_plots(tmp_path):
    arguments = ["--out", str(tmp_path), "--cache", str(tmp_path / "none"), "--no-install", "--no-pin", "--quick"]
    assert main([*arguments, "--peers", "direct,bare,litellm", "--rounds", "1", "--seconds", "0.3"]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    page = (tmp_path / "results.md").read_text()
    assert "--no-install" in results["peers"]["litellm"]["absent"]
    assert "**absent**" in page
    assert {(row["peer"], row["cell"]) for row in results["rows"]} == {
        (peer, cell["name"]) for peer in ("direct", "bare") for cell in results["cells"]
    }
    assert all(row["errors"] == 0 and row["completed"] > 0 for row in results["rows"])
    assert {"cpu", "cores", "kernel", "python"} <= results["machine"].keys()
    assert (tmp_path / "cpu.svg").stat().st_size > 1000
    assert (tmp_path / "latency.svg").stat().st_size > 1000
    assert main(["--peers", "nobody", "--out", str(tmp_path)]) == 2


def test_specifications_travel_as_json():
    spec = LoadSpec(port=1, model="m", headers={"authorization": "Bearer x"}, rate=5.0)
    assert LoadSpec(**json.loads(json.dumps(asdict(spec)))) == spec
