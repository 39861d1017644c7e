"""``python -m service.worker``: one of several gateway processes; started by `service.workers`."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from llmrouter.exceptions import LLMRouterError
from service.threads import pin_threads
from service.workers import READY


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM, and return the exit status."""
    # Until the configuration is watched; without a handler it would end the process.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    pin_threads()
    options = _parser().parse_args(arguments)
    from service.launch import run_worker

    try:
        with socket.socket(fileno=options.listener) as listener:
            run_worker(
                options.config,
                host=options.host,
                port=options.port,
                listener=listener,
                on_ready=lambda _: say_ready(options.ready),
            )
    except LLMRouterError as error:
        print(f"llmrouter: error: {error}", file=sys.stderr)
        return 1
    return 0


def say_ready(pipe: int) -> None:
    """Tell the supervisor that requests are answered."""
    try:
        os.write(pipe, READY)
    finally:
        os.close(pipe)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m service.worker", description="One of several gateway processes.")
    parser.add_argument("--config", type=Path, metavar="FILE")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--listener", type=int, required=True, metavar="FD", help="a bound socket")
    parser.add_argument("--ready", type=int, required=True, metavar="FD", help="a pipe")
    return parser


if __name__ == "__main__":
    sys.exit(main())
