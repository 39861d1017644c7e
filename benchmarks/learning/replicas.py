"""Two gateways on one Redis stream answer alike: ``python -m benchmarks.learning replicas --out DIR``.

Two gateways with online adaptation run as processes over one outcome log in Redis. Requests go to both in turn, and
their answers are judged at the other one: one model has become bad at a part of the prompts. Then each decides the same
prompts as dry runs, and the answers are compared as they come, byte by byte: estimates, standard errors, propensities,
ranking. Afterwards one of them is killed, the other one learns on, the killed one is started again (from its snapshot,
or from the whole log), a third is started that has seen nothing but the log; and all are compared once more.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.gateway.processes import ManagedProcess, StartError, free_port
from benchmarks.learning._pocket_gateway import POCKET, exercises
from benchmarks.learning._result_files import provenance, write_result

NAME = "replicas"
_READY_S, _SETTLE_S = 120.0, 120.0
_REQUEST_ID = "x-request-id"
_AT_ONCE = 8


@dataclass(frozen=True)
class Plan:
    """How much is done.

    Attributes
    ----------
    outcomes : int
        Requests that are answered and judged, two thirds of them before the kill.
    prompts : int
        Dry runs that are compared.
    interval_s : float
        See ``learning.online.interval_s``.
    """

    outcomes: int = 600
    prompts: int = 1000
    interval_s: float = 0.25


class Replica:
    """A gateway process with a client."""

    def __init__(self, name: str, folder: Path, store: str, interval_s: float) -> None:
        self.name = name
        self.url = f"http://127.0.0.1:{free_port()}"
        place = folder / name
        place.mkdir()
        self._place = place
        tree = {
            "pool": [
                {"name": model, "backend": "scripted", "options": {"reply": "done"}, "price": _PRICES[model]}
                for model in POCKET
            ],
            "log": {"store": store, "spool": str(place / "spool.jsonl"), "flush_interval_s": 0.05},
            "server": {"port": int(self.url.rpartition(":")[2]), "watch_s": 0},
            "policy": {"kind": "utility", "cost_weight": 0.2},
            "learning": {"online": {"interval_s": interval_s, "snapshot": str(place / "learned.online")}, "drift": {}},
        }
        self.config = place / "config.yaml"
        self.config.write_text(yaml.safe_dump(tree, sort_keys=False))
        self.process: ManagedProcess | None = None

    def start(self) -> Replica:
        """Start the process and wait until it serves."""
        command = [sys.executable, "-m", "llmrouter.cli", "serve", "--config", str(self.config)]
        self.process = ManagedProcess(command, log=self._place / f"{time.time_ns()}.log", folder=self._place)
        self.process.wait_ready(f"{self.url}/readyz", timeout_s=_READY_S)
        return self

    def kill(self) -> None:
        """End it at once, with nothing saved."""
        if self.process is not None:
            self.process.kill()

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.stop()


_PRICES = {
    "pocket-mini": {"input": 0.1, "output": 0.4},
    "pocket-numbers": {"input": 0.4, "output": 1.6},
    "pocket-words": {"input": 0.4, "output": 1.6},
    "pocket-max": {"input": 1.0, "output": 4.0},
}


def run(plan: Plan, folder: Path) -> dict[str, Any]:
    """Run the benchmark in a folder and return its figures.

    Raises
    ------
    StartError
        If a process does not start, or the replicas do not come to the end of the log in time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return asyncio.run(_run(plan, folder))


async def _run(plan: Plan, folder: Path) -> dict[str, Any]:
    texts = [exercise.prompt for split in ("test", "train") for exercise in exercises(split)]
    texts = list(dict.fromkeys(texts))
    judged, compared = texts[: plan.outcomes], texts[-plan.prompts :]
    before_kill = judged[: 2 * len(judged) // 3]
    with ExitStack() as stack:
        store = _start_redis(stack, folder)
        one, two, three = (Replica(name, folder, store, plan.interval_s) for name in ("one", "two", "three"))
        for replica in (one, two):
            stack.callback(replica.stop)
            replica.start()
        async with AsyncExitStack() as clients:
            ask = await clients.enter_async_context(httpx.AsyncClient(timeout=60.0, trust_env=False))
            untrained = await _dry_runs(ask, one, compared)
            await _traffic(ask, (one, two), before_kill)
            settled_s = await _settled(ask, (one, two), len(before_kill))
            live = await _compare(ask, (one, two), compared)
            one.kill()
            await _traffic(ask, (two,), judged[len(before_kill) :])
            one.start()
            stack.callback(three.stop)
            three.start()
            await _settled(ask, (one, two, three), len(judged))
            after = await _compare(ask, (one, two, three), compared)
            states = {replica.name: await _online(ask, replica) for replica in (one, two, three)}
            adapted = await _dry_runs(ask, two, compared)
    changed = sum(a != b for a, b in zip(untrained, adapted, strict=True))
    rerouted = sum(_model(a) != _model(b) for a, b in zip(untrained, adapted, strict=True))
    return {
        "prompts": len(compared),
        "outcomes": len(judged),
        "different_live": live,
        "different_after_kill": after,
        "settled_s": settled_s,
        "answers_changed_by_learning": changed,
        "models_changed_by_learning": rerouted,
        "events": {name: state["events"] for name, state in states.items()},
        "met": live == 0 and after == 0 and changed > 0,
    }


def _start_redis(stack: ExitStack, folder: Path) -> str:
    binary = shutil.which("redis-server")
    if binary is None:
        raise StartError("redis-server is not installed; it holds the log that the replicas share")
    port = free_port()
    command = [binary, "--port", str(port), "--appendonly", "yes", "--dir", str(folder), "--save", ""]
    stack.enter_context(ManagedProcess(command, log=folder / "redis.log"))
    return f"redis://127.0.0.1:{port}/0"


async def _traffic(ask: httpx.AsyncClient, replicas: Sequence[Replica], texts: Sequence[str]) -> None:
    """Ask at one replica and judge at the next: pocket-numbers has become bad at what it was for."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(number: int, text: str) -> None:
        async with gate:
            here, there = replicas[number % len(replicas)], replicas[(number + 1) % len(replicas)]
            body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
            answer = await ask.post(f"{here.url}/v1/chat/completions", json=body)
            answer.raise_for_status()
            bad = any(letter.isdigit() for letter in text) and answer.headers["x-llmrouter-model"] == "pocket-numbers"
            judgement = {"request_id": answer.headers[_REQUEST_ID], "quality": 0.0 if bad else 0.9}
            (await ask.post(f"{there.url}/v1/feedback", json=judgement)).raise_for_status()

    await asyncio.gather(*(one(number, text) for number, text in enumerate(texts)))


async def _settled(ask: httpx.AsyncClient, replicas: Sequence[Replica], judged: int) -> float:
    """Wait until all replicas decide with everything that was judged; return after how many seconds."""
    began = time.monotonic()
    while time.monotonic() < began + _SETTLE_S:
        states = [await _online(ask, replica) for replica in replicas]
        # A judgement that is quicker than its outcome is an event when that is stored: not by the acknowledgement.
        if all(state["status"] == "ok" and state["events"] == judged for state in states):
            return time.monotonic() - began
        await asyncio.sleep(0.05)
    raise StartError(f"the replicas did not come to the end of the log within {_SETTLE_S:g} s: {states}")


async def _online(ask: httpx.AsyncClient, replica: Replica) -> dict[str, Any]:
    state: dict[str, Any] = (await ask.get(f"{replica.url}/readyz")).json()["learning"]["online"]
    return state


async def _compare(ask: httpx.AsyncClient, replicas: Sequence[Replica], texts: Sequence[str]) -> int:
    """Return for how many prompts not all replicas answer the same bytes."""
    answers = [await _dry_runs(ask, replica, texts) for replica in replicas]
    return sum(len(set(found)) > 1 for found in zip(*answers, strict=True))


async def _dry_runs(ask: httpx.AsyncClient, replica: Replica, texts: Sequence[str]) -> list[bytes]:
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(text: str) -> bytes:
        async with gate:
            body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
            answer = await ask.post(f"{replica.url}/v1/route", json=body)
            answer.raise_for_status()
            return answer.content

    return list(await asyncio.gather(*(one(text) for text in texts)))


def _model(answer: bytes) -> str:
    model: str = json.loads(answer)["model"]
    return model


def page(result: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    verdict = "met" if result["met"] else "**missed**"
    return "\n".join(
        [
            "# Replicas on one stream",
            "",
            f"Target: two replicas given the same stream answer {result['prompts']:,} dry runs identically: {verdict}.",
            "",
            "| | |",
            "|---|---|",
            f"| judged outcomes, asked at one replica and judged at another | {result['outcomes']} |",
            f"| prompts on which two replicas differ in any byte | {result['different_live']} |",
            f"| the same of three, one killed and started again, one new | {result['different_after_kill']} |",
            f"| prompts whose estimates learning changed | {result['answers_changed_by_learning']} |",
            f"| prompts whose model learning changed | {result['models_changed_by_learning']} |",
            f"| seconds from the last judgement until both stood at the end of the log | {result['settled_s']:.1f} |",
            "",
        ]
    )


def main(arguments: Sequence[str]) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning replicas", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for replicas.json and replicas.md")
    parser.add_argument("--outcomes", type=int, default=Plan.outcomes)
    parser.add_argument("--prompts", type=int, default=Plan.prompts)
    options = parser.parse_args(arguments)
    plan = Plan(outcomes=options.outcomes, prompts=options.prompts)
    with tempfile.TemporaryDirectory(prefix="llmrouter-replicas-") as folder:
        result = run(plan, Path(folder))
    command = f"python -m benchmarks.learning replicas --outcomes {plan.outcomes} --prompts {plan.prompts} --out DIR"
    write_result(options.out, NAME, {**provenance(command), "plan": asdict(plan), **result}, page(result))
    return 0 if result["met"] else 1
