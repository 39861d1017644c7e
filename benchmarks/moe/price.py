"""Whether the price of the moment jumps, and pays for the machine: ``python -m benchmarks.moe.price --out DIR``.

A pocket model's engine under four loads, one after the other. Every request is billed at the prices that were reported
when it came; the bills of a load are compared with the seconds that the engine computed meanwhile. Beside that the
price is read twice a second, and so is the margin in the strict sense, which it replaced: a row's seconds beside
others, the whole step on an idle machine, an equal share where the batch is full. Writes ``price.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.learning._result_files import provenance, write_result
from benchmarks.moe.pocket import POCKET, prompts
from llmrouter.moe import Engine, GenerationRequest, LoadReport, load_engine

MAX_BATCH = 16
ANSWER_TOKENS = (20, 100)
LEAD_S = 30.0
"""Of the same load before it is measured: of the load before it the company then holds a twentieth."""
_READ_EVERY_S = 0.5
_WARM_UP = 60  # requests, so that batches of all sizes were seen


class Till:
    """Sends requests to an engine and adds up what they cost at the prices of their arrival.

    Parameters
    ----------
    engine : Engine
        Started.
    texts : sequence of str
        What is asked, over and over.
    seed : int
        Of the order and of the lengths of answers.
    """

    def __init__(self, engine: Engine, texts: Sequence[str], *, seed: int) -> None:
        self._engine = engine
        self._texts = texts
        self._random = random.Random(seed)
        self._end = engine.vocabulary.encode("<|end|>", special_tokens=False)
        self.billed_s = 0.0
        self.requests = 0

    def send(self) -> Callable[[], None]:
        """Submit a request; the function returned waits for it and adds its bill."""
        report = self._engine.load_report()
        request = GenerationRequest(
            messages=[{"role": "user", "content": self._random.choice(self._texts)}],
            max_tokens=self._random.randint(*ANSWER_TOKENS),
            seed=self.requests,
            logit_bias=dict.fromkeys(self._end, -100.0),  # answers as long as they may be
        )
        handle = self._engine.submit(request)
        self.requests += 1

        def wait() -> None:
            result = handle.wait()
            if report.input is not None and report.output is not None:
                self.billed_s += report.input.machine_s * result.input_tokens
                # The first token comes with the prompt.
                self.billed_s += report.output.machine_s * (result.output_tokens - 1)

        return wait


def closed(clients: int) -> Callable[[Till, float, random.Random], None]:
    """Return a load of some clients, each of which asks again when it has its answer."""

    def load(till: Till, seconds: float, _: random.Random) -> None:
        end = time.monotonic() + seconds
        waiting = [till.send() for _ in range(clients)]
        while waiting:
            waiting.pop(0)()
            if time.monotonic() < end:
                waiting.append(till.send())

    return load


def arrivals(every_s: float, at_once: int) -> Callable[[Till, float, random.Random], None]:
    """Return a load of requests at random times, some at once; nobody waits for another."""

    def load(till: Till, seconds: float, draw: random.Random) -> None:
        end, waiting = time.monotonic() + seconds, []
        while time.monotonic() < end:
            waiting += [till.send() for _ in range(at_once)]
            time.sleep(draw.expovariate(1 / every_s))  # the time to the next arrivals is part of the load
        for wait in waiting:
            wait()

    return load


def strict_margin(report: LoadReport) -> float:
    """Return the seconds of an output token by the rule that was replaced."""
    if report.step is None:
        return math.nan
    rows = min(report.running + 1, MAX_BATCH)
    shared = report.running in (0, MAX_BATCH)
    return report.step.of(rows) / rows if shared else report.step.row_s


def measured(engine: Engine, texts: Sequence[str], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield one row a load."""
    warm = Till(engine, texts, seed=options.seed)
    for number in range(_WARM_UP):
        for wait in [warm.send() for _ in range(1 + number % MAX_BATCH)]:
            wait()
    step = engine.load_report().step
    alone_s = (ANSWER_TOKENS[0] + ANSWER_TOKENS[1]) / 2 * (step.of(1) if step else 1.0)
    loads = {
        "one client": closed(1),
        "six clients": closed(6),
        "random arrivals": arrivals(alone_s / 3, 1),
        "ten at once, now and then": arrivals(10 * alone_s, 10),
    }
    for name, load in loads.items():
        load(Till(engine, texts, seed=options.seed + 1), LEAD_S, random.Random(options.seed + 1))
        till, over = Till(engine, texts, seed=options.seed), threading.Event()
        readings: list[tuple[int, float, float]] = []
        reader = threading.Thread(target=_read, args=(engine, readings, over))
        busy = engine.meter.busy_s
        reader.start()
        load(till, options.seconds, random.Random(options.seed))
        over.set()
        reader.join()
        row = {"load": name, "requests": till.requests, "busy_s": engine.meter.busy_s - busy, "billed_s": till.billed_s}
        row["billed_to_busy"] = till.billed_s / (engine.meter.busy_s - busy)
        row["running"] = statistics.mean(running for running, _, _ in readings)
        for place, rule in ((1, "price"), (2, "strict")):
            values = [reading[place] for reading in readings]
            ratios = [_ratio(before, after) for before, after in itertools.pairwise(values)]
            row[f"{rule}_us"] = [1e6 * min(values), 1e6 * statistics.median(values), 1e6 * max(values)]
            row[f"{rule}_largest_change"] = max(ratios, default=1.0)
        yield row


def _read(engine: Engine, readings: list[tuple[int, float, float]], over: threading.Event) -> None:
    last = False
    while not last:  # once after the end, too: a machine that is busy otherwise may give no turn before it
        last = over.wait(_READ_EVERY_S)
        report = engine.load_report()
        if report.output is not None:
            readings.append((report.running, report.output.machine_s, strict_margin(report)))


def _ratio(before: float, after: float) -> float:
    """Return by how much a price changed, a factor of at least 1; 1e9 where it fell to nothing or rose from there."""
    low, high = sorted((before, after))
    return high / low if low > 0 else 1.0 if high == 0 else 1e9


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.moe.price",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--model", default="pocket-max", help="a pocket model (default: pocket-max)")
    parser.add_argument("--seconds", type=float, default=40.0, help="of each load (default: 40)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    engine = load_engine(POCKET / options.model, device="cpu", max_batch=MAX_BATCH, max_queue=10_000)
    engine.start()
    rows = []
    try:
        texts = [prompt.text for prompt in prompts("train", options.model, 200, seed=options.seed)]
        for row in measured(engine, texts, options):
            rows.append(row)
            print(row, flush=True)
    finally:
        engine.stop()
    words = ["--model", options.model, "--seconds", f"{options.seconds:g}", "--seed", str(options.seed)]
    document = {**provenance(" ".join(["python -m benchmarks.moe.price --out DIR", *words])), "rows": rows}
    write_result(options.out, "price", document, page(document))
    return 0


def page(document: Mapping[str, Any]) -> str:
    """Return the results as Markdown."""
    method = (
        f"Answers of {ANSWER_TOKENS[0]} to {ANSWER_TOKENS[1]} tokens, batches of up to {MAX_BATCH}. Each load ran for "
        f"{LEAD_S:g} s before it was measured. Billed: the requests at the prices of their arrival. Microseconds of "
        f"the machine for an output token, lowest, median and highest of readings every {_READ_EVERY_S:g} s, and "
        "the largest change between two readings as a factor."
    )
    titles = (
        "load",
        "requests",
        "generating",
        "billed / computed",
        "price",
        "largest change",
        "strict margin",
        "change",
    )
    lines = ["# The price of the moment of a local model", "", method, ""]
    lines += [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in document["rows"]:
        cells = [row["load"], str(row["requests"]), f"{row['running']:.1f}", f"{row['billed_to_busy']:.2f}"]
        for rule in ("price", "strict"):
            change = row[f"{rule}_largest_change"]
            cells.append(" / ".join(f"{value:,.0f}" for value in row[f"{rule}_us"]))
            cells.append(f"{change:.2f}" if change < 1e9 else "from nothing")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
