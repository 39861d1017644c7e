"""A disk that is full: requests go on, nothing is lost in silence, and the gateway says what ails it."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from contracts.misbehaving_upstream import MisbehavingUpstream
from crowd import Answer, Question, ask_all, echo, is_right
from fault_gateway import eventually, metric, pool_of, stored, write_config
from gateway_process import GatewayProcess

from service.keys.manager import KeyManager
from service.keys.sqlite_store import SQLiteKeyStore

KILOBYTE = 1024
MAX_QUEUE = 20
UNLIMITED = (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY)


@pytest.fixture
def config(tmp_path: Path, upstream: MisbehavingUpstream) -> Path:
    upstream.behaviours["alpha"] = echo
    return write_config(tmp_path, pool_of(upstream.base_url, "alpha"), log=log_in(tmp_path))


def log_in(folder: Path) -> dict[str, Any]:
    return {"store": f"sqlite:///{folder}/outcomes.db", "flush_interval_s": 0.05, "max_queue": MAX_QUEUE}


def ask_many(running: GatewayProcess, count: int, name: str) -> list[Answer]:
    questions = [Question(f"{name} {i} {'x' * 500}", stream=i % 2 == 0) for i in range(count)]
    answers = asyncio.run(ask_all(running.url, questions, at_once=8))
    assert all(is_right(answer) for answer in answers), next(answer for answer in answers if not is_right(answer))
    return answers


def log_state(running: GatewayProcess) -> dict[str, Any]:
    with running.client() as client:
        state: dict[str, Any] = client.get("/readyz").json()["log"]
    return state


def check_accounts(state: dict[str, Any], answers: list[Answer]) -> None:
    """Check that every outcome is somewhere, by the gateway's own count."""
    assert state["lost"] == state["rejected"] == 0
    assert state["written"] + state["queued"] >= len(answers) - state["spooled"]


def check_log(folder: Path, answers: list[Answer]) -> None:
    """Check that each answer has its outcome, once."""
    counted = Counter(outcome.request_id for outcome in stored(folder))
    assert set(counted.values()) == {1}
    assert set(counted) == {answer.request_id for answer in answers}


def test_files_that_may_not_grow(config: Path, tmp_path: Path) -> None:
    """Neither the store nor the spool can write; all waits in memory until they can."""
    with GatewayProcess(config) as running, running.client() as client:
        answers = ask_many(running, 20, "before")
        process = psutil.Process(running.process.pid)
        process.rlimit(psutil.RLIMIT_FSIZE, (1, psutil.RLIM_INFINITY))
        answers += ask_many(running, 3 * MAX_QUEUE, "meanwhile")
        assert eventually(lambda: log_state(running)["status"] == "failing")
        state = log_state(running)
        assert state["trouble"]
        assert state["queued"] > MAX_QUEUE
        assert metric(client, "outcome_log_failing") == 1
        assert metric(client, "outcome_log_queued") == state["queued"]
        check_accounts(state, answers)
        process.rlimit(psutil.RLIMIT_FSIZE, UNLIMITED)
        assert eventually(lambda: log_state(running)["queued"] == 0, within_s=15)
        assert log_state(running)["status"] == "ok"
        assert metric(client, "outcome_log_failing") == 0
        answers += ask_many(running, 20, "afterwards")
        assert running.stop() == 0
    check_log(tmp_path, answers)
    assert "cannot be written" in running.output
    assert "works again" in running.output


def test_outcomes_that_cannot_be_kept_in_memory_are_lost_aloud(tmp_path: Path, upstream: MisbehavingUpstream) -> None:
    upstream.behaviours["alpha"] = echo
    log = {**log_in(tmp_path), "max_queue": 3}
    with GatewayProcess(write_config(tmp_path, pool_of(upstream.base_url, "alpha"), log=log)) as running:
        psutil.Process(running.process.pid).rlimit(psutil.RLIMIT_FSIZE, (1, psutil.RLIM_INFINITY))
        answers = ask_many(running, 60, "too many")
        assert eventually(lambda: log_state(running)["lost"] > 0, within_s=15)
        with running.client() as client:
            ask_many(running, 1, "one more")
            # The writer may give up more between the two readings.
            assert eventually(lambda: metric(client, "outcome_log_lost_total") == log_state(running)["lost"])
        assert running.stop() == 0
    assert len(stored(tmp_path)) < len(answers)
    assert "outcomes are lost" in running.output


def test_an_end_with_a_full_disk_says_what_is_lost(config: Path, tmp_path: Path) -> None:
    with GatewayProcess(config) as running:
        answers = ask_many(running, 10, "before")
        assert eventually(lambda: log_state(running)["written"] == len(answers))
        psutil.Process(running.process.pid).rlimit(psutil.RLIMIT_FSIZE, (1, psutil.RLIM_INFINITY))
        ask_many(running, 10, "lost")
        assert running.stop() == 0
    check_log(tmp_path, answers)
    assert "10 outcomes are lost" in running.output


def test_keys_and_budgets_go_on(tmp_path: Path, upstream: MisbehavingUpstream) -> None:
    """What was spent is still counted, and a key that is known is still one, where neither can be written down."""
    upstream.behaviours["alpha"] = echo
    keys = f"sqlite:///{tmp_path}/keys.db"

    async def make() -> str:
        manager = KeyManager(SQLiteKeyStore(tmp_path / "keys.db"))
        _, token = await manager.create({"name": "one", "scopes": ["inference"]})
        await manager.aclose()
        return token

    headers = {"authorization": f"Bearer {asyncio.run(make())}"}
    cost = 12 * 1e-6 + 5 * 2e-6
    limits = {"state": f"sqlite:///{tmp_path}/limits.db", "key_default": {"budget_usd": 30.5 * cost}}
    config = write_config(
        tmp_path,
        pool_of(upstream.base_url, "alpha"),
        log=log_in(tmp_path),
        limits=limits,
        auth={"store": keys, "cache_s": 0.1},
    )
    with GatewayProcess(config) as running:
        psutil.Process(running.process.pid).rlimit(psutil.RLIMIT_FSIZE, (1, psutil.RLIM_INFINITY))
        questions = [Question(f"costly {i}", headers=headers) for i in range(60)]
        answers = asyncio.run(ask_all(running.url, questions, at_once=1))
        assert Counter(answer.status for answer in answers) == {200: 30, 429: 30}
        assert running.stop() == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return the folder of a file system of 512 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here (it takes an administrator)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def test_a_disk_that_is_full(small_disk: Path, tmp_path: Path, upstream: MisbehavingUpstream) -> None:
    upstream.behaviours["alpha"] = echo
    config = write_config(tmp_path, pool_of(upstream.base_url, "alpha"), log=log_in(small_disk))
    ballast = small_disk / "ballast"
    with GatewayProcess(config) as running:
        answers = ask_many(running, 20, "before")
        fill(ballast)
        answers += ask_many(running, 3 * MAX_QUEUE, "meanwhile")
        assert eventually(lambda: log_state(running)["status"] == "failing", within_s=15)
        check_accounts(log_state(running), answers)
        ballast.unlink()
        assert eventually(lambda: log_state(running)["queued"] == 0, within_s=15)
        assert running.stop() == 0
    check_log(small_disk, answers)


def test_a_gateway_that_ends_on_a_full_disk_and_starts_on_an_empty_one(
    small_disk: Path, tmp_path: Path, upstream: MisbehavingUpstream
) -> None:
    """What went into the spool on another disk is in the log after the next start."""
    upstream.behaviours["alpha"] = echo
    log = {**log_in(small_disk), "spool": str(tmp_path / "spool.jsonl")}
    config = write_config(tmp_path, pool_of(upstream.base_url, "alpha"), log=log)
    ballast = small_disk / "ballast"
    with GatewayProcess(config) as running:
        answers = ask_many(running, 10, "before")
        fill(ballast)
        answers += ask_many(running, 2 * MAX_QUEUE, "meanwhile")
        assert running.stop() == 0
    assert (tmp_path / "spool.jsonl").exists()
    ballast.unlink()
    with GatewayProcess(config) as running:
        answers += ask_many(running, 5, "afterwards")
        assert running.stop() == 0
    check_log(small_disk, answers)
    assert not (tmp_path / "spool.jsonl").exists()


def fill(ballast: Path) -> None:
    """Leave no room on a file system."""
    descriptor = os.open(ballast, os.O_WRONLY | os.O_CREAT)
    try:
        for size in (64 * KILOBYTE, KILOBYTE, 1):
            try:
                while True:
                    os.write(descriptor, b"x" * size)
            except OSError:
                continue
    finally:
        os.close(descriptor)
