"""The server of local models beside ``transformers serve``: ``python -m benchmarks.moe.serving --out DIR``.

The same model, the same prompts, greedy, whole answers, a closed loop of some clients; both servers on one core with
one thread, the clients on another, in rounds of random order with the one that is not measured stopped. Tokens are
those that each server counts. ``transformers serve`` runs with continuous batching; it needs the package accelerate,
which ``--peer-path`` may name a folder with. Writes ``serving.json`` and ``serving.md``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.gateway.processes import ManagedProcess, free_port
from benchmarks.learning._result_files import provenance, write_result
from benchmarks.moe.pocket import ANSWER_TOKENS, POCKET, prompts

OURS, THEIRS = "service.moe", "transformers serve"
CLIENTS = (1, 8, 32)
_START_S = 180.0
_QUESTIONS = 200


@dataclass(frozen=True)
class Server:
    """A server that is up.

    Attributes
    ----------
    name : str
        `OURS` or `THEIRS`.
    url : str
        Of its chats.
    model : str
        What it calls the model.
    process : ManagedProcess
        To be measured and stopped.
    """

    name: str
    url: str
    model: str
    process: ManagedProcess


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.moe.serving",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--model", default="pocket-max", help="a pocket model, or a folder (default: pocket-max)")
    parser.add_argument("--clients", type=int, nargs="+", default=list(CLIENTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a measurement")
    parser.add_argument("--peer-path", type=Path, help="folder with accelerate, where it is not installed")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    folder = POCKET / options.model if (POCKET / options.model).is_dir() else Path(options.model)
    questions = [prompt.text for prompt in prompts("test", folder.name, _QUESTIONS, seed=options.seed)]
    cores = sorted(os.sched_getaffinity(0))
    rng = random.Random(options.seed)
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="moe-serving-")))
        servers = [
            stack.enter_context(_started(name, folder, place, cores[0], options.peer_path)) for name in (OURS, THEIRS)
        ]
        if len(cores) > 1:
            os.sched_setaffinity(0, cores[1:])
        texts = {server.name: asyncio.run(_answers(server, questions[:20])) for server in servers}
        for server in servers:
            server.process.pause()
        for number in range(options.rounds):
            for clients in options.clients:
                for one in rng.sample(servers, len(servers)):
                    one.process.resume()
                    asyncio.run(_load(one, questions, clients, 0.5))
                    before = one.process.usage()
                    found = asyncio.run(_load(one, questions, clients, options.seconds))
                    used = one.process.usage()
                    one.process.pause()
                    row = {"server": one.name, "round": number, "clients": clients, **found}
                    row |= {"cpu_s": used.cpu_s - before.cpu_s, "rss_mib": used.rss_bytes / 2**20}
                    rows.append(row)
                    print(row, flush=True)
    same = statistics.mean(ours == theirs for ours, theirs in zip(texts[OURS], texts[THEIRS], strict=True))
    words = sys.argv[1:] if arguments is None else arguments
    document = {
        **provenance(" ".join(["python -m benchmarks.moe.serving", *words])),
        "model": folder.name,
        "same_answers": same,
        "rows": rows,
    }
    write_result(options.out, "serving", document, page(document))
    return 0


def page(document: Mapping[str, Any]) -> str:
    """Return the results as Markdown: medians over rounds, ratios within a round and then their median."""
    rows = document["rows"]
    method = (
        f"`{document['model']}`, greedy, whole answers to prompts of its test split, at most {ANSWER_TOKENS} tokens, a "
        "closed loop; each server alone on one core with one thread, clients on another. Medians over rounds; the "
        f"ratio is taken within a round. {document['same_answers']:.0%} of 20 answers are the same text from both."
    )
    heads = ["clients", "server", "tokens/s", "answers/s", "p50 of an answer, ms", "CPU-ms a token", "memory, MiB"]
    heads += ["ours over theirs, tokens/s"]
    lines = ["# The server of local models beside `transformers serve`", "", method, "", f"| {' | '.join(heads)} |"]
    lines += ["|---" * len(heads) + "|"]
    for clients in dict.fromkeys(row["clients"] for row in rows):
        for name in (OURS, THEIRS):
            chosen = [row for row in rows if (row["clients"], row["server"]) == (clients, name)]
            ratio = f"{ratio_of(rows, clients):.2f}" if name == OURS else ""
            middle = {key: statistics.median(row[key] for row in chosen) for key in ("p50_ms", "rss_mib")}
            rate = statistics.median(row["tokens"] / row["seconds"] for row in chosen)
            answered = statistics.median(row["answers"] / row["seconds"] for row in chosen)
            cpu = statistics.median(1e3 * row["cpu_s"] / max(row["tokens"], 1) for row in chosen)
            lines.append(
                f"| {clients} | `{name}` | {rate:,.0f} | {answered:,.1f} | {middle['p50_ms']:,.0f} | {cpu:.2f} "
                f"| {middle['rss_mib']:,.0f} | {ratio} |"
            )
    return "\n".join(lines)


def ratio_of(rows: Sequence[Mapping[str, Any]], clients: int) -> float:
    """Return the median over rounds of our tokens a second over theirs."""
    rate = {(row["round"], row["server"]): row["tokens"] / row["seconds"] for row in rows if row["clients"] == clients}
    rounds = sorted({number for number, _ in rate})
    return float(statistics.median(rate[number, OURS] / rate[number, THEIRS] for number in rounds))


@contextmanager
def _started(name: str, folder: Path, place: Path, core: int, peer_path: Path | None) -> Iterator[Server]:
    """Start a server and wait until it answers; stop it at the end."""
    port = free_port()
    model, ready, log = folder.name, "readyz", "ours.txt"
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "service.moe", "--model", f"{model}={folder}", "--port", str(port)]
    if name == THEIRS:
        model, ready, log = str(folder), "health", "theirs.txt"
        command = [str(Path(sys.executable).with_name("transformers")), "serve", model, "--continuous-batching"]
        command += ["--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
        if peer_path is not None:
            earlier = os.environ.get("PYTHONPATH")
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(peer_path), earlier]))
    base = f"http://127.0.0.1:{port}"
    with ManagedProcess(command, log=place / log, core=core, environment=environment) as process:
        process.wait_ready(f"{base}/{ready}", timeout_s=_START_S)
        yield Server(name, f"{base}/v1/chat/completions", model, process)


async def _answers(server: Server, questions: Sequence[str]) -> list[str]:
    """Return the answers to some questions, one after the other; also what warms the server up."""
    timeout = aiohttp.ClientTimeout(total=_START_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        return [str((await _ask(session, server, question))["text"]) for question in questions]


async def _load(server: Server, questions: Sequence[str], clients: int, seconds: float) -> dict[str, Any]:
    """Ask with so many clients at a time for so long; answers under way at the end are waited for and counted."""
    started = time.perf_counter()
    answered: list[dict[str, Any]] = []

    async def client(session: aiohttp.ClientSession, number: int) -> None:
        turn = number
        while time.perf_counter() - started < seconds:
            answered.append(await _ask(session, server, questions[turn % len(questions)]))
            turn += clients

    timeout = aiohttp.ClientTimeout(total=_START_S)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(client(session, number) for number in range(clients)))
    return {
        "seconds": time.perf_counter() - started,
        "answers": len(answered),
        "tokens": sum(one["tokens"] for one in answered),
        "p50_ms": 1e3 * statistics.median(one["seconds"] for one in answered),
    }


async def _ask(session: aiohttp.ClientSession, server: Server, question: str) -> dict[str, Any]:
    body = {
        "model": server.model,
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": ANSWER_TOKENS,
    }
    started = time.perf_counter()
    async with session.post(server.url, json=body) as answer:
        answer.raise_for_status()
        found = await answer.json()
    return {
        "seconds": time.perf_counter() - started,
        "tokens": int(found["usage"]["completion_tokens"]),
        "text": found["choices"][0]["message"]["content"],
    }


if __name__ == "__main__":
    sys.exit(main())
