"""Load the gateway and its peers: ``python -m benchmarks.gateway --out benchmarks/results/gateway``.

One upstream, one load generator, every peer in turn, in interleaved rounds; closed and open loop, whole and streamed
answers, each answer checked. Writes ``results.json`` (every round's raw figures), ``results.md`` and plots.
``--quick`` takes about a minute and needs nothing installed; ``--memory N`` watches the memory over N requests instead.
Peers that are missing are installed into ``--cache``, each in an environment of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gateway.memory import watch_memory
from benchmarks.gateway.peers import PEERS
from benchmarks.gateway.plan import cells
from benchmarks.gateway.report import write_report
from benchmarks.gateway.run import Options, run

_QUICK_PEERS = "direct,bare,llmrouter-fixed,llmrouter"
_ROOT = Path(__file__).parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = _parser().parse_args(arguments)
    known = {peer.name: peer for peer in PEERS}
    names = (options.peers or (_QUICK_PEERS if options.quick else ",".join(known))).split(",")
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"unknown peers: {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    plan = Options(
        peers=tuple(peer for name, peer in known.items() if name in names),
        cells=tuple(cells(options.seconds or (2.0 if options.quick else 4.0), quick=options.quick)),
        rounds=options.rounds or (2 if options.quick else 5),
        cache=options.cache.expanduser(),
        source=options.source.resolve(),
        pin=options.pin,
        install=options.install,
    )
    if options.memory:
        document = watch_memory(plan, known["llmrouter"], requests=options.memory, say=_say)
        (options.out / "memory.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    elif not options.render_only:
        document = run(plan, say=_say)
        (options.out / "results.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    for path in write_report(options.out):
        print(f"wrote {path}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gateway",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=_ROOT / "benchmarks" / "results" / "gateway")
    parser.add_argument("--peers", metavar="A,B", help=f"of {', '.join(peer.name for peer in PEERS)} (default: all)")
    parser.add_argument("--rounds", type=int, metavar="N", help="default: 5; 2 with --quick")
    parser.add_argument("--seconds", type=float, metavar="S", help="of each measurement (default: 4; 2 with --quick)")
    parser.add_argument("--quick", action="store_true", help="about a minute: no peers of others, four measurements")
    parser.add_argument("--memory", type=int, metavar="N", help="watch the memory over N requests instead")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/llmrouter-bench"), metavar="DIR")
    parser.add_argument(
        "--source", type=Path, default=_ROOT, metavar="DIR", help="measure the gateway of that checkout"
    )
    parser.add_argument("--render-only", action="store_true", help="write tables and plots from the results there")
    parser.add_argument("--pin", action=argparse.BooleanOptionalAction, default=True, help="to cores, with taskset")
    parser.add_argument("--install", action=argparse.BooleanOptionalAction, default=True, help="of missing peers")
    return parser


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
