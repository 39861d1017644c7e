"""What a GPU is good for here: ``python -m benchmarks.gpu moe|index|encoders --out DIR``.

Each takes less than eight minutes on one data-centre GPU, makes its own data, and imports nothing beyond numpy, torch,
triton, transformers and llmrouter, so that a machine with no more than those can run it. Writes ``NAME.json`` and
``NAME.md``.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu.device import Device, write_results

# A part is a module with `HELP`, `add_arguments`, `measure` and `page`; only the one that runs is imported.
_PARTS = ("moe", "index", "encoders")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 1 if an answer was wrong."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="PART --help tells what a part is asked",
    )
    parser.add_argument("part", choices=_PARTS)
    name = parser.parse_args(words[:1]).part
    part = importlib.import_module(f"benchmarks.gpu.{name}")
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.gpu {name}", description=part.HELP)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--budget-s", type=float, default=420.0, help="begin nothing new after so many seconds")
    parser.add_argument("--seed", type=int, default=0)
    part.add_arguments(parser)
    options = parser.parse_args(words[1:])
    device = Device(options.device, budget_s=options.budget_s)
    if device.fallback:
        print(f"measuring the CPU, since {device.fallback}", flush=True)
    measured = part.measure(device, options)
    document = {"command": " ".join(["python -m benchmarks.gpu", *words]), **device.facts(), **measured}
    write_results(options.out, name, document, part.page(document))
    return 1 if document["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
