"""``python -m service.moe --model NAME=PATH_OR_ID ... --host 127.0.0.1 --port 8090``."""

from __future__ import annotations

import argparse
import importlib.resources
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmrouter.exceptions import ConfigError, LLMRouterError
from llmrouter.moe import Engine, MachinePrice, load_engine
from service.moe._expert_options import add_expert_options, expert_options
from service.moe._server import bind, exit_on_signals, serve
from service.moe.app import create_app


def main(arguments: Sequence[str] | None = None) -> int:
    """Load the models and serve them; return the exit code."""
    options = _parser().parse_args(arguments)
    exit_on_signals()
    try:
        models = _models(options.model, pocket=options.pocket)
        settings = {**expert_options(options), "price": _price(options)}
        listener = bind(options.host, options.port)
        with listener:
            engines = [_load(name, source, options, **settings) for name, source in models.items()]
            app = create_app(engines, threads=options.threads)
            host, port = listener.getsockname()[:2]
            serve(app, listener, engines=engines, ready=f"serving {', '.join(models)} on http://{host}:{port}/v1")
    except LLMRouterError as error:
        print(f"service.moe: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m service.moe", description="Serve local mixture-of-experts models with OpenAI's API."
    )
    parser.add_argument(
        "--model", action="append", default=[], metavar="NAME=PATH_OR_ID", help="a checkpoint to serve; repeatable"
    )
    parser.add_argument("--pocket", action="store_true", help="serve the shipped pocket models")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8090, help="0 takes a free one (default: 8090)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: 1)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... (default: the GPU if there is one)")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"])
    parser.add_argument("--max-batch", type=int, default=32, help="sequences generated at once (default: 32)")
    parser.add_argument(
        "--max-queue", type=int, default=256, help="requests that may wait; more get 429 (default: 256)"
    )
    parser.add_argument("--allow-dense", action="store_true", help="also take checkpoints without experts")
    parser.add_argument(
        "--experts",
        default="auto",
        metavar="NAME",
        help="how experts are computed: auto (ours), eager, grouped_mm, ...",
    )
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="the same bits for a request whatever runs beside it; several times as slow",
    )
    add_expert_options(parser)
    _add_price_options(parser)
    return parser


def _add_price_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("cost", "What the machine costs, for /v1/load and /metrics (default: nothing)")
    group.add_argument("--usd-per-hour", type=float, default=0.0, help="rent or write-off of the machine")
    group.add_argument("--watts", type=float, default=0.0, help="power drawn while computing")
    group.add_argument("--idle-watts", type=float, default=0.0, help="power drawn while waiting")
    group.add_argument("--usd-per-kwh", type=float, default=0.0, help="electricity, where the hour does not hold it")


def _price(options: argparse.Namespace) -> MachinePrice:
    return MachinePrice(options.usd_per_hour, options.watts, options.idle_watts, options.usd_per_kwh)


def _models(specs: Sequence[str], *, pocket: bool) -> dict[str, str | Path]:
    """Return name -> folder or hub id for the pocket pool and the ``NAME=PATH_OR_ID`` given."""
    models: dict[str, str | Path] = dict(_pocket_folders()) if pocket else {}
    for spec in specs:
        name, separator, source = spec.partition("=")
        if not (name and separator and source):
            raise ConfigError(f"--model {spec!r}: write NAME=PATH_OR_ID, e.g. --model olmoe=allenai/OLMoE-1B-7B-0924")
        if name in models:
            raise ConfigError(f"--model {spec!r}: the name {name!r} is given twice")
        models[name] = source
    if not models:
        raise ConfigError("nothing to serve; give --pocket or --model NAME=PATH_OR_ID")
    return models


def _pocket_folders() -> dict[str, Path]:
    folder = Path(str(importlib.resources.files("llmrouter"))) / "assets" / "pocket"
    pool = folder / "pool.json"
    if not pool.is_file():
        raise ConfigError("--pocket: this installation has no pocket models (llmrouter/assets/pocket/pool.json)")
    return {model["name"]: folder / model["name"] for model in json.loads(pool.read_text(encoding="utf-8"))["models"]}


def _load(name: str, source: str | Path, options: argparse.Namespace, **settings: Any) -> Engine:
    return load_engine(
        source,
        name,
        device=options.device,
        dtype=options.dtype,
        max_batch=options.max_batch,
        max_queue=options.max_queue,
        allow_dense=options.allow_dense,
        experts=options.experts,
        deterministic=options.deterministic,
        **settings,
    )


if __name__ == "__main__":
    sys.exit(main())
