"""Measure the learning loop: ``python -m benchmarks.learning COMMAND --out DIR``.

Each command is a module of this package with ``main(arguments) -> int``; ``COMMAND --help`` says what it needs.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "simulate": "the loop over a full-information table played back as one-armed traffic",
    "gate": "how often the gate promotes a worse and a better router",
    "off-policy": "coverage, bias and error of the off-policy estimates",
    "missing-arms": "training on logs in which one answer was seen: what to do about the others",
    "new-model": "a fifth model joins the pocket pool while traffic runs",
    "replicas": "two gateways on one stream answer alike",
    "drift": "a model's quality drops; with and without online adaptation",
    "poisoning": "attacks through prompts and feedback, with and without defences",
}
"""Command -> what it measures; the module has the same name with underscores."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] not in COMMANDS:
        lines = [f"  {name:12} {what}" for name, what in COMMANDS.items()]
        print("\n".join(["usage: python -m benchmarks.learning COMMAND [options]", *lines]), file=sys.stderr)
        return 0 if given[:1] in (["-h"], ["--help"]) else 2
    module = importlib.import_module(f"benchmarks.learning.{given[0].replace('-', '_')}")
    return int(module.main(given[1:]))


if __name__ == "__main__":
    sys.exit(main())
