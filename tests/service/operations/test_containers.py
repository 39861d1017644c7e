"""docker-compose.yml and its files: what they promise, and the same topology at work as processes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from contracts.misbehaving_upstream import Exchange, MisbehavingUpstream, completion, ordinary_stream
from topology import DEPLOY, GATEWAYS, ROOT, START_S, Topology, composition, entrypoint

from llmrouter.outcomes import SQLiteOutcomeStore
from service.settings import ServerSettings, Settings, load_settings

MODELS = ("pocket-mini", "pocket-numbers", "pocket-words", "pocket-max")
CONFIG = "/etc/llmrouter/gateway.yaml"


def settings() -> Settings:
    return load_settings(DEPLOY / "gateway.yaml", environment={})


# The files


def test_docker_compose_takes_the_file() -> None:
    found = [
        command
        for command in (["docker", "compose"], ["docker-compose"])
        if shutil.which(command[0])
        and subprocess.run([*command, "version"], capture_output=True, check=False).returncode == 0
    ]
    if not found:
        pytest.skip("neither `docker compose` nor docker-compose is here to judge the file")
    for profile in ([], ["--profile", "gpu"]):
        command = [*found[0], *profile, "-f", str(ROOT / "docker-compose.yml"), "config"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert set(yaml.safe_load(done.stdout)["services"]) >= {*GATEWAYS, "balancer", "redis", "trainer", "pocket"}


def test_every_container_is_bounded_watched_and_without_rights() -> None:
    services = composition()["services"]
    assert set(services) == {*GATEWAYS, "balancer", "redis", "trainer", "pocket", "prometheus", "vllm"}
    for name, service in services.items():
        assert service["healthcheck"]["test"], name
        assert service["mem_limit"], name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert ":" in service["image"] or service["image"].startswith("llmrouter"), f"{name}: no version"
        if name != "vllm":  # its image runs as it runs
            assert service["read_only"] is True, name
            assert service["cpus"], name
            own_image = service["image"].startswith("llmrouter")
            assert own_image or not str(service["user"]).startswith("0"), name
    assert services["vllm"]["profiles"] == ["gpu"]


def test_only_the_balancer_and_prometheus_can_be_reached_and_from_this_machine_alone() -> None:
    tree = composition()
    published = {name: service["ports"] for name, service in tree["services"].items() if "ports" in service}
    assert published == {"balancer": ["127.0.0.1:8080:8080"], "prometheus": ["127.0.0.1:9090:9090"]}
    assert tree["networks"]["inside"]["internal"] is True
    assert all(tree["services"][name]["networks"] == ["inside"] for name in ("redis", "trainer", "pocket"))


def test_the_gateways_get_time_to_end() -> None:
    for name in GATEWAYS:
        grace = composition()["services"][name]["stop_grace_period"]
        assert int(grace.removesuffix("s")) > settings().server.drain_s


def test_images_run_as_somebody_and_hold_no_torch_for_the_gateway() -> None:
    text = (ROOT / "Dockerfile").read_text()
    stages = re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]
    last = stages[-1]
    assert last.startswith("base AS gateway"), "the default"
    base = next(stage for stage in stages if " AS base" in stage.splitlines()[0])
    assert re.search(r"^USER (?!0)\d+", base, re.MULTILINE)
    assert "USER" not in last
    assert "HEALTHCHECK" in last
    assert "--from=build " in last
    assert "torch" not in next(stage for stage in stages if " AS build\n" in stage)
    assert entrypoint() == ["llmrouter"]


def test_no_secret_can_get_into_an_image() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    assert {"service/deploy/secrets", "**/*.env"} <= set(lines)
    assert not re.search(r"(?i)(api_key|password|secret)[ \t]*[=:][ \t]*\S", (DEPLOY / "example.env").read_text())


def test_the_balancer_refuses_what_the_gateways_refuse() -> None:
    text = (DEPLOY / "nginx.conf").read_text()
    server = settings().server
    assert server.max_body_bytes == ServerSettings().max_body_bytes == 32 * 1024 * 1024
    assert "client_max_body_size 32m;" in text
    assert f"client_body_timeout {server.body_timeout_s:g}s;" in text
    assert f"client_header_timeout {server.header_timeout_s:g}s;" in text
    read_s = int(re.findall(r"proxy_read_timeout (\d+)s;", text)[0])
    assert read_s > max(model.timeouts.total_s for model in settings().pool)
    code = "\n".join(line.partition("#")[0] for line in text.splitlines())
    assert re.findall(r"proxy_next_upstream ([^;]*);", code) == ["error timeout"]
    assert set(re.findall(r"server (gateway-\d):8080", code)) == set(GATEWAYS)


def test_prometheus_asks_both_gateways() -> None:
    tree = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    (job,) = tree["scrape_configs"]
    assert {target for group in job["static_configs"] for target in group["targets"]} == {
        f"{name}:8080" for name in GATEWAYS
    }
    mounted = [volume for volume in composition()["services"]["prometheus"]["volumes"] if ":/run/llmrouter" in volume]
    assert mounted, "where it finds its key"
    if promtool := shutil.which("promtool"):
        subprocess.run([promtool, "check", "config", "--syntax-only", str(DEPLOY / "prometheus.yml")], check=True)


def test_gateways_share_a_log_but_not_the_place_beside_it() -> None:
    spools = {
        load_settings(DEPLOY / "gateway.yaml", environment=service["environment"]).log.spool
        for name, service in composition()["services"].items()
        if name in GATEWAYS
    }
    assert len(spools) == 2


def test_the_trainer_starts_with_the_shipped_artifact(tmp_path: Path) -> None:
    """The script with a program in place of `llmrouter` that only says how it was called."""
    program = tmp_path / "bin" / "llmrouter"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nexit 1\n')
    program.chmod(0o755)
    out = tmp_path / "artifacts"
    out.mkdir()
    environment = {
        "PATH": f"{program.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "LLMROUTER_TRAIN_OUT": str(out),
        "LLMROUTER_TRAIN_EVERY_S": "0.1",
    }
    process = subprocess.Popen(["/bin/sh", str(DEPLOY / "train.sh")], env=environment, stderr=subprocess.DEVNULL)
    try:
        calls = tmp_path / "calls"
        for _ in range(400):
            if calls.exists() and len(calls.read_text().splitlines()) >= 2:
                break
            threading.Event().wait(0.05)
        assert calls.read_text().splitlines()[:2] == [f"train --data pocket --out {out}"] * 2, "a failure is no end"
    finally:
        process.kill()
        process.wait()
    assert (out / "current" / "manifest.json").is_file()
    assert not (out / "current").readlink().is_absolute()


# At work


async def answers(exchange: Exchange) -> None:
    """Answer as an upstream should, one request a connection: under load nothing may fail but what is tested."""
    await exchange.pause(0.01)
    if exchange.body.get("stream"):
        await exchange.event_stream(ordinary_stream())
    else:
        await exchange.answer(completion(), connection="close")
    raise ConnectionResetError("answered")


@pytest.fixture(scope="module")
def scripted_pool() -> Iterator[MisbehavingUpstream]:
    with MisbehavingUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def topology(tmp_path_factory: pytest.TempPathFactory, scripted_pool: MisbehavingUpstream) -> Iterator[Topology]:
    for program in ("nginx", "redis-server"):
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/usr/bin") is None:
            pytest.skip(f"{program} is not installed")
    scripted_pool.behaviours.update(dict.fromkeys(MODELS, answers))
    with Topology(tmp_path_factory.mktemp("topology"), scripted_pool.base_url) as running:
        yield running


@pytest.fixture(scope="module")
def key(topology: Topology) -> str:
    """Return the first key, made as docs/operate.md says."""
    made = topology.in_gateway("llmrouter", "keys", "create", "--admin", "--json", "--config", CONFIG)
    return json.loads(made)["token"]


@pytest.fixture(autouse=True)
def _well_behaved(scripted_pool: MisbehavingUpstream) -> None:
    scripted_pool.renew()
    scripted_pool.behaviours.update(dict.fromkeys(MODELS, answers))


def question(**more: Any) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": "What is 17 + 25?"}], **more}


def ask(url: str, key: str, **more: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(
        f"{url}/v1/chat/completions", json=question(**more), headers=headers, trust_env=False, timeout=START_S
    )


def test_a_key_that_was_made_once_holds_at_both_gateways(topology: Topology, key: str) -> None:
    for name in GATEWAYS:
        assert ask(topology.gateway_url(name), key).status_code == 200
        assert ask(topology.gateway_url(name), "llmr-wrong").status_code == 401
    assert ask(topology.url, key).status_code == 200
    assert httpx.get(f"{topology.url}/metrics", trust_env=False).status_code == 404, "not from outside"


async def test_requests_spread_over_both_gateways(topology: Topology, key: str) -> None:
    async def serve(count: int) -> list[httpx.Response]:
        headers = {"authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(trust_env=False, headers=headers, timeout=START_S) as client:
            url = f"{topology.url}/v1/chat/completions"
            return await asyncio.gather(*(client.post(url, json=question()) for _ in range(count)))

    counts = {name: served(topology, name, key) for name in GATEWAYS}
    assert {answer.status_code for answer in await serve(40)} == {200}
    shares = {name: served(topology, name, key) - counts[name] for name in GATEWAYS}
    assert sum(shares.values()) == 40, shares
    assert min(shares.values()) >= 10, shares


def served(topology: Topology, name: str, key: str) -> int:
    url = f"{topology.gateway_url(name)}/metrics"
    text = httpx.get(url, headers={"authorization": f"Bearer {key}"}, trust_env=False).text
    return int(sum(float(value) for value in re.findall(r"^llmrouter_requests_total\{[^}]*\} (\S+)$", text, re.M)))


def wait_until_it_serves(topology: Topology, name: str, key: str) -> None:
    """Wait until the balancer sends requests to that gateway (again)."""
    before, deadline = served(topology, name, key), time.monotonic() + START_S
    while served(topology, name, key) < before + 10:
        assert time.monotonic() < deadline, f"the balancer does not send to {name}:\n{topology.output(name)}"
        time.sleep(0.1)


def test_a_stream_passes_piece_by_piece(topology: Topology, scripted_pool: MisbehavingUpstream, key: str) -> None:
    seen = threading.Event()
    pieces = ordinary_stream()

    async def gated(exchange: Exchange) -> None:
        await exchange.event_stream(pieces[:2], end=False)
        await asyncio.to_thread(seen.wait, START_S)
        await exchange.chunks(pieces[2:])

    scripted_pool.behaviours.update(dict.fromkeys(MODELS, gated))
    headers = {"authorization": f"Bearer {key}"}
    with httpx.stream(
        "POST",
        f"{topology.url}/v1/chat/completions",
        json=question(stream=True),
        headers=headers,
        trust_env=False,
        timeout=15,
    ) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("data:"), "while the rest is not even written"
        seen.set()
        assert [line for line in lines if line][-1] == "data: [DONE]"


def test_a_client_that_hangs_up_cancels_the_call(
    topology: Topology, scripted_pool: MisbehavingUpstream, key: str
) -> None:
    async def silent(exchange: Exchange) -> None:
        await exchange.pause(START_S)

    scripted_pool.behaviours.update(dict.fromkeys(MODELS, silent))
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{topology.url}/v1/chat/completions",
            json=question(),
            headers={"authorization": f"Bearer {key}"},
            trust_env=False,
            timeout=1.0,
        )
    assert scripted_pool.hung_up.wait(10)


def test_a_body_over_the_limit_is_refused_in_the_clients_words(topology: Topology, key: str) -> None:
    answer = httpx.post(
        f"{topology.url}/v1/chat/completions",
        content=b"x" * (33 * 1024 * 1024),
        headers={"authorization": f"Bearer {key}"},
        trust_env=False,
        timeout=START_S,
    )
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"


async def test_no_request_is_lost_when_a_gateway_ends_under_load(topology: Topology, key: str) -> None:
    statuses: Counter[int] = Counter()
    refusals: set[str] = set()
    done = asyncio.Event()
    url = f"{topology.url}/v1/chat/completions"

    async def keep_asking(client: httpx.AsyncClient) -> None:
        while not done.is_set():
            answer = await client.post(url, json=question())
            statuses[answer.status_code] += 1
            if answer.status_code != 200:
                refusals.add(answer.text)
            await asyncio.sleep(0.05)

    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(trust_env=False, headers=headers, timeout=START_S) as client:
        clients = [asyncio.create_task(keep_asking(client)) for _ in range(24)]
        for name in GATEWAYS:
            await asyncio.sleep(0.5)
            assert await asyncio.to_thread(topology.stop_gateway, name) == 0
            await asyncio.sleep(0.5)
            topology.start_gateway(name)
            await asyncio.to_thread(topology.wait_for, f"{topology.gateway_url(name)}/readyz", name)
            # The other, which ends next, is not to be the only one that the balancer knows.
            await asyncio.to_thread(wait_until_it_serves, topology, name, key)
        done.set()
        await asyncio.gather(*clients)
    assert set(statuses) == {200}, (statuses, refusals)
    assert statuses[200] > 100
    stored = list(SQLiteOutcomeStore(topology.folder / "outcomes.db").scan())
    assert len({outcome.request_id for outcome in stored}) == len(stored) >= statuses[200] - 24, "and each is logged"


def test_without_a_gateway_clients_are_told_to_try_again(topology: Topology, key: str) -> None:
    for name in GATEWAYS:
        assert topology.stop_gateway(name) == 0
    answer = ask(topology.url, key)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["error"]["code"] == "unavailable"
