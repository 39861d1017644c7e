"""How often the gate is right: ``python -m benchmarks.learning gate --data DIR --out DIR``.

Draws logs from full-information tables, on which the true gain of a router is known, and counts what the gate
promotes. Writes ``gate.json``, and from that file alone ``gate.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from benchmarks.learning._gate_page import write_gate_page
from benchmarks.learning._gate_trials import DESIGNS, Design, contests, trials
from benchmarks.learning._population import COSTS, Population, load_population
from benchmarks.learning.simulate import COST_WEIGHTS, ROUTER, rounded
from llmrouter.evaluation._provenance import git_commit
from llmrouter.exceptions import ConfigError

GAINS = (-0.02, -0.005, 0.02)
_ALL_TRIALS_UP_TO, _FEWER = 20_000, 4
"""Longer logs get a quarter of the trials."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = _parser().parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "gate.json"
    if not options.render_only:
        kept = json.loads(path.read_text(encoding="utf-8")) if options.resume and path.exists() else None
        path.write_text(json.dumps(rounded(measure(options, kept)), allow_nan=False) + "\n", encoding="utf-8")
    print(f"wrote {write_gate_page(path)}")
    return 0


def measure(options: argparse.Namespace, kept: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Run the trials of all data sets that an earlier document does not hold, and return that of all.

    Raises
    ------
    ConfigError
        If the earlier one was made by another command.
    """
    started = time.time()
    command = (
        f"python -m benchmarks.learning gate --data DIR --out DIR --trials {options.trials} "
        f"--requests {' '.join(map(str, options.requests))} --seed {options.seed}"
    )
    settings = {name: getattr(options, name) for name in ("router", "share", "confidence", "trials", "seed")}
    if kept is not None and (kept["command"], kept["settings"]) != (command, settings):
        raise ConfigError(
            f"the results that are there are of {kept['command']!r}, {kept['settings']}; give the same arguments, or "
            "no --resume"
        )
    sets = {} if kept is None else dict(kept["sets"])
    for name in options.sets:
        if name in sets:
            continue
        population = load_population(options.data, name, encoder=options.encoder)
        rows = measure_set(population, COST_WEIGHTS[name], options)
        about = {key: value for key, value in population.about.items() if not key.startswith("scored")}
        sets[name] = {"about": about, "cost_weight": COST_WEIGHTS[name], "rows": rows}
    return {
        "command": command,
        "started": started,
        "took_s": time.time() - started + (0.0 if kept is None else kept["took_s"]),
        "machine": {
            "architecture": platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "load_average": os.getloadavg()[0],
        },
        "commit": git_commit(),
        "settings": settings,
        "designs": {name: text.format(share=options.share, half=options.share / 2) for name, text in DESIGNS.items()},
        "sets": sets,
    }


def measure_set(population: Population, cost_weight: float, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the trials of every design, gain and length of log on one data set."""
    made = contests(population, GAINS, router=options.router, cost_weight=cost_weight, seed=options.seed)
    designs: tuple[Design, ...] = get_args(Design)
    rows = []
    for design in designs:
        for wanted, contest in made.items():
            for n in options.requests:
                figures = trials(
                    contest,
                    design,
                    n,
                    count=options.trials if n <= _ALL_TRIALS_UP_TO else max(options.trials // _FEWER, 1),
                    share=options.share,
                    population=population,
                    cost_weight=cost_weight,
                    confidence=options.confidence,
                    seed=options.seed,
                )
                rows.append({"wanted_gain": wanted, "live_prompts": contest.live_prompts, **figures})
                print(
                    f"{population.name}, {design}, gain {contest.true_gain:+.4f}, {n:,} requests: "
                    f"{figures['promoted']} of {figures['trials']} promoted",
                    flush=True,
                )
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.learning gate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--sets", nargs="*", default=list(COSTS), choices=list(COSTS))
    parser.add_argument("--encoder", default="form")
    parser.add_argument("--router", default=ROUTER)
    parser.add_argument("--share", type=float, default=0.05, help="of the requests that are explored")
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--requests", nargs="*", type=int, default=[3_000, 10_000, 20_000, 50_000])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="keep the data sets that the results there already hold")
    parser.add_argument("--render-only", action="store_true", help="write the page from the results that are there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
