"""The ``llmrouter`` command: the composition root.

The one place of the library that may import `service`, `training` and `benchmarks`, and it does so inside the command
that needs them, so that ``llmrouter --help`` stays quick.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmrouter import __version__
from llmrouter.exceptions import ConfigError, LLMRouterError

if TYPE_CHECKING:
    from llmrouter.engine import RoutingEngine
    from llmrouter.outcomes import ImportedLog, OutcomeTable
    from llmrouter.routes import BatchEngine
    from llmrouter.types import Decision, FloatArray, Price

_LOG_FORMATS = ("openai", "litellm", "csv", "jsonl")
# As llmrouter.outcomes.BENCHMARK_FORMATS, which would have to be imported for --help.
_BENCHMARK_FORMATS = ("routerbench", "routerdc", "embedllm", "sprout", "llmrouterbench")
_ENCODERS = "form (static with the prompt's form), static, minilm, a hub id or a path"
_OF_THE_GATEWAY = {
    "config": ("service.config_commands", "check, show or convert a configuration"),
    "models": ("service.models.command", "list, add, remove, replace and reprice the models of the pool"),
    "audit": ("service.audit_command", "show which logged outcomes drive a decision, and whose they are"),
    "gate": ("service.gate_command", "compare a new artifact with the live one on logged requests"),
    "artifacts": ("service.artifacts_command", "list artifacts, promote one, go back to the one before"),
    "keys": ("service.keys.command", "make, list, change and revoke virtual keys"),
    "prices": ("service.price_command", "show what is known of a model's price"),
    "outcomes": ("service.outcomes_command", "export and prune the outcome log, compute its costs again"),
}
_WITH_ACTION = {
    "prices": ("show", "show the price of a model, and where it comes from"),
}
_EXIT_ERROR = 1
_EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 done, 1 an error that was explained, 130 interrupted."""
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser(given).parse_args(given)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except LLMRouterError as error:
        print(f"llmrouter: error: {error}", file=sys.stderr)
        return _EXIT_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output (head, less) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _EXIT_ERROR


def _parser(given: Sequence[str] = ()) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="llmrouter",
        description="Route each prompt to the model of the pool that gives the wanted quality for the least money.",
    )
    parser.add_argument("--version", action="version", version=f"llmrouter {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_serve(commands)
    _add_demo(commands)
    _add_route(commands)
    _add_train(commands, given=given)
    _add_eval(commands)
    _add_import(commands)
    for name, (module, text) in _OF_THE_GATEWAY.items():
        _add_module(commands, name, module, text, given=given)
    return parser


def _command(commands: Any, name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(command=run)
    return parser


def _config_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML configuration (default: the embedded pocket pool)"
    )


def _add_module(commands: Any, name: str, module: str, text: str, *, given: Sequence[str]) -> None:
    """Add a command that a module of the gateway describes; the module is imported if the command is asked for."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    if name not in given[:1]:
        return
    loaded = importlib.import_module(module)
    if name in _WITH_ACTION:
        actions = parser.add_subparsers(required=True, metavar="ACTION")
        action, action_text = _WITH_ACTION[name]
        parser = actions.add_parser(action, help=action_text, description=action_text)
    loaded.add_arguments(parser)
    parser.set_defaults(command=loaded.run)


# serve, demo


def _add_serve(commands: Any) -> None:
    parser = _command(
        commands, "serve", _serve, "start the gateway; without --config also the pocket pool of local models"
    )
    _config_option(parser)
    parser.add_argument("--host", help="overrides server.host")
    parser.add_argument("--port", type=int, help="overrides server.port")


def _serve(options: argparse.Namespace) -> int:
    from service.launch import run_gateway

    return run_gateway(options.config, host=options.host, port=options.port)


def _add_demo(commands: Any) -> None:
    _command(commands, "demo", _demo, 'ask the pocket pool checkable questions through model="auto", and stop')


def _demo(options: argparse.Namespace) -> int:
    del options
    from service.demo import run_demo

    return run_demo()


# route


def _add_route(commands: Any) -> None:
    parser = _command(commands, "route", _route, "show how a prompt would be routed; no model is called")
    parser.add_argument("prompt")
    _config_option(parser)
    parser.add_argument("--cost-weight", type=float, metavar="W", help="overrides the policy's weight of cost")
    parser.add_argument("--neighbours", type=int, default=5, metavar="N", help="nearest training prompts to show")
    parser.add_argument("--json", action="store_true", help="print the decision as JSON")


def _engine(config: Path | None) -> RoutingEngine:
    from service.settings import build_engine, load_settings

    return build_engine(load_settings(config))


def _routed(engine: RoutingEngine, config: Path | None) -> BatchEngine:
    """Return the engine behind the configured chooser of routes; a model that picks is not asked here."""
    from llmrouter.routes import RoutedEngine
    from service.picking.picker import RoutePicker
    from service.settings import load_settings

    settings = load_settings(config)
    if settings.router.routes is None:
        return engine
    picker = RoutePicker(settings)
    if picker.chooser is None:
        name = settings.router.picks_by.model
        print(f"note: {name} picks the routes, and no model is asked here; POST /v1/route asks it", file=sys.stderr)
        return engine
    return RoutedEngine(lambda: engine, picker.chooser)


def _route(options: argparse.Namespace) -> int:
    from llmrouter.types import Preference, RoutingRequest, estimate_tokens

    engine = _engine(options.config)
    if options.cost_weight is not None and not options.cost_weight >= 0:
        raise ConfigError(f"must be a number >= 0; got {options.cost_weight}", path="--cost-weight")
    request = RoutingRequest(
        text=options.prompt,
        prompt_tokens=estimate_tokens(options.prompt),
        preference=Preference(cost_weight=options.cost_weight),
    )
    (decision,) = _routed(engine, options.config).route_many([request], neighbours=max(options.neighbours, 0))
    if isinstance(decision, LLMRouterError):
        raise decision
    if options.json:
        print(json.dumps(decision.document(), indent=1))
    else:
        _print_decision(decision)
    return 0


def _print_decision(decision: Decision) -> None:
    print(f"model     {decision.model}")
    if decision.route is not None:
        print(f"route     {decision.route.name}: {decision.route.reason}")
    print(f"policy    {decision.policy}   router {decision.router}   artifact {decision.artifact_id}")
    rows = [("rank", "model", "quality", "+-", "cost (USD)", "")]
    for rank, entry in enumerate(decision.ranking, start=1):
        quality, error = f"{entry.expected_quality:.3f}", f"{entry.standard_error:.3f}"
        rows.append((str(rank), entry.model, quality, error, f"{entry.expected_cost_usd:.3g}", entry.reason))
    _print_table(rows)
    if decision.neighbours:
        print("\nnearest training prompts")
        for neighbour in decision.neighbours:
            print(f"  {neighbour.similarity:.3f}  {neighbour.prompt_id}")
    for warning in decision.warnings:
        print(f"warning: {warning}")


# train, eval, import


def _add_train(commands: Any, *, given: Sequence[str]) -> None:
    parser = _command(commands, "train", _train, "train a router on outcomes and write an artifact")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", metavar="DIR", help="folder of outcomes, or 'pocket' for the shipped one")
    source.add_argument(
        "--from-log",
        metavar="URL|FILE",
        help="the gateway's log: sqlite:///outcomes.db, redis://..., or a file of `llmrouter outcomes export`",
    )
    parser.add_argument(
        "--router",
        metavar="SPEC",
        help="e.g. knn (tuned) or knn:k=40 (default: stack; from a log, where one answer is seen, linear-bandit)",
    )
    parser.add_argument(
        "--encoder", metavar="NAME", help=f"{_ENCODERS}; default: form, from a log that of the live artifact"
    )
    parser.add_argument("--out", type=Path, default=Path("artifacts"), metavar="DIR")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-promote", action="store_true", help="leave the link `current` where it is")
    if given[:1] == ["train"]:
        importlib.import_module("training.from_log_command").add_arguments(parser)


def _train(options: argparse.Namespace) -> int:
    if options.from_log is not None:
        return _train_from_log(options)
    from llmrouter.evaluation import format_result
    from llmrouter.outcomes import load_table
    from training.train import train

    trained = train(
        load_table(_data_folder(options.data)),
        options.out,
        router=options.router or "stack",
        encoder=options.encoder or "form",
        seed=options.seed,
        promote=not options.no_promote,
    )
    if trained.evaluation is not None:
        print(format_result(trained.evaluation))
    return 0


def _train_from_log(options: argparse.Namespace) -> int:
    from llmrouter import artifact
    from service.gate_command import pool_and_policy
    from service.reprice_command import read_time
    from training.from_log_command import run

    current = options.out / artifact.CURRENT
    live = current if options.live is None and current.exists() else options.live
    cards, policy = pool_and_policy(options.config, [] if live is None else [artifact.read_manifest(live)])
    return run(options, cards=cards, policy=policy, read_time=read_time)


def _data_folder(name: str) -> Path:
    return Path(__file__).parent / "assets" / "pocket" / "outcomes" if name == "pocket" else Path(name)


def _add_eval(commands: Any) -> None:
    parser = _command(commands, "eval", _eval, "score routers on a full-information table of outcomes")
    parser.add_argument(
        "--data", required=True, metavar="DIR", help="folder of outcomes, or 'pocket' for the shipped one"
    )
    parser.add_argument(
        "--routers", default="stack,knn", metavar="A,B", help="e.g. 'knn;knn:k=40,shrinkage=5'; all: every learned one"
    )
    parser.add_argument("--policies", default="", metavar="A;B", help="replayed over a router's estimates")
    parser.add_argument("--flows", default="", metavar="A;B", help="replayed over a router's estimates, e.g. cascade")
    parser.add_argument("--below", metavar="ROUTER", help="the router they stand on (default: the first)")
    parser.add_argument("--encoder", default="form", metavar="NAME", help=_ENCODERS)
    parser.add_argument("--cost", default="usd", choices=["usd", "list_price", "calls"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resamples", type=int, default=1000, help="of the paired bootstrap; 0 for no intervals")
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR")
    parser.add_argument("--look-log", type=Path, metavar="FILE", help="append this look at the test split to FILE")
    parser.add_argument(
        "--protocol",
        choices=["splits", "new-models", "ood", "learning-curve", "missing"],
        help="repeat the evaluation: random splits, models hidden and added, tasks held out, fewer train prompts, "
        "outcomes missing; writes protocol-NAME.json in place of the report",
    )
    parser.add_argument(
        "--include", type=Path, nargs="*", default=[], metavar="FILE", help="protocol-*.json to show in report.html"
    )
    parser.add_argument("--draws", type=int, default=5, metavar="N", help="of the protocol, for each condition")
    parser.add_argument("--hidden", default="", metavar="A,B", help="new-models: models to hide in training")
    parser.add_argument(
        "--choose", default="random", choices=["random", "informative"], help="new-models: which prompts are scored"
    )


def _eval(options: argparse.Namespace) -> int:
    from llmrouter.encoders import encode_cached, load_encoder
    from llmrouter.evaluation import evaluate, format_result, read_protocol, write_report
    from llmrouter.outcomes import load_table

    table = load_table(_data_folder(options.data))
    routers = _learned_routers() if options.routers == "all" else split_specs(options.routers)
    encoder = load_encoder(options.encoder)
    if any(text is not None for text in table.texts):
        embeddings = encode_cached(encoder, table.router_texts())
    else:
        print("the table has no prompt texts: baselines and bounds only")
        embeddings, routers = None, []
    if options.protocol is not None:
        return _run_protocol(options, table, embeddings, routers)
    result = evaluate(
        table,
        embeddings,
        routers=routers,
        policies=split_specs(options.policies),
        flows=split_specs(options.flows),
        below=options.below,
        cost=options.cost,
        seed=options.seed,
        resamples=options.resamples,
        context={"encoder": options.encoder, "encoder_fingerprint": encoder.fingerprint},
        look_log=options.look_log,
    )
    print(format_result(result))
    for path in write_report(result, options.out, protocols=[read_protocol(path) for path in options.include]):
        print(f"wrote {path}")
    return 0


def _learned_routers() -> list[str]:
    from llmrouter.registry import available, resolve
    from llmrouter.routers import BaselineRouter

    return [name for name in available("router") if not issubclass(resolve("router", name), BaselineRouter)]


def _run_protocol(
    options: argparse.Namespace, table: OutcomeTable, embeddings: FloatArray | None, routers: list[str]
) -> int:
    from llmrouter.evaluation import format_protocol, run_protocol, write_protocol

    if embeddings is None:
        raise ConfigError("needs a table with prompt texts, which routers read", path="--protocol")
    result = run_protocol(
        options.protocol,
        table,
        X=embeddings,
        routers=routers,
        cost=options.cost,
        seed=options.seed,
        draws=options.draws,
        hidden=[name for name in (part.strip() for part in options.hidden.split(",")) if name],
        choose=options.choose,
        look_log=options.look_log,
    )
    print(format_protocol(result))
    print(f"wrote {write_protocol(result, options.out)}")
    return 0


def split_specs(text: str) -> list[str]:
    """Split a list of router specs at commas, but not at the commas between the parameters of one.

    ``"knn,knn:k=40,shrinkage=5,random"`` is ``["knn", "knn:k=40,shrinkage=5", "random"]``; ``;`` separates too.
    """
    specs: list[str] = []
    for group in text.split(";"):
        start = len(specs)
        for part in filter(None, (piece.strip() for piece in group.split(","))):
            is_parameter = "=" in part and ":" not in part and len(specs) > start and ":" in specs[-1]
            if is_parameter:
                specs[-1] += f",{part}"
            else:
                specs.append(part)
    return specs


def _add_import(commands: Any) -> None:
    parser = _command(
        commands, "import", _import, "turn your own logs, or another project's benchmark, into a table of outcomes"
    )
    parser.add_argument("path", help="file or folder; for a benchmark also hub:ORG/NAME[/FILE][@REVISION]")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--format",
        default="auto",
        choices=["auto", *_LOG_FORMATS, *_BENCHMARK_FORMATS],
        help="auto: a benchmark where the files are certainly one, else a log",
    )
    parser.add_argument(
        "--columns",
        default="",
        metavar="OURS=THEIRS,...",
        help="CSV columns, e.g. prompt=question,model=llm,quality=score",
    )
    parser.add_argument(
        "--prices", type=Path, metavar="FILE", help='JSON {"model": {"input": 0.15, "output": 0.6}}, $/M'
    )
    parser.add_argument("--strict", action="store_true", help="logs: refuse the file if any row is bad")
    parser.add_argument("--skip-bad", action="store_true", help="benchmarks: leave bad cells out, do not refuse them")
    parser.add_argument(
        "--quality-range",
        metavar="WORST,BEST",
        type=_range,
        default=(0.0, 1.0),
        help="logs: the scale of their qualities, e.g. 1,5; mapped to 0 to 1",
    )
    parser.add_argument("--default-model", metavar="NAME", help="logs: model of rows that name none")
    parser.add_argument(
        "--likelihoods",
        default="binary",
        choices=["binary", "source"],
        help="routerdc: probabilities of the right option as 1 where above 0, or as they are",
    )
    parser.add_argument(
        "--keep-shared-prefix", action="store_true", help="routerbench: keep the worked examples before every prompt"
    )
    parser.add_argument("--test-share", type=float, default=0.3, help="share of the prompts assigned to the test split")
    parser.add_argument("--as", dest="written", default="parquet", choices=["parquet", "jsonl"])


def _import(options: argparse.Namespace) -> int:
    from llmrouter.outcomes import save_table

    kind = _benchmark_format(options)
    table, report = _import_log(options) if kind is None else _import_benchmark(options, kind)
    print(report)
    save_table(table, options.out, format=options.written, provenance={"imported_as": report.format})
    print(f"wrote {options.out}: {len(table)} prompts, {len(table.models)} models")
    return 0


def _benchmark_format(options: argparse.Namespace) -> str | None:
    """Return the benchmark format to read, None for a log; refuse options that the other kind alone has."""
    from llmrouter.outcomes import detect_benchmark

    names_log_options = bool(options.columns or options.default_model) or options.quality_range != (0.0, 1.0)
    is_hub = options.path.startswith("hub:")
    if options.format in _BENCHMARK_FORMATS:
        if names_log_options:
            raise ConfigError(
                "these are options for logs; leave them out", path="--columns, --default-model, --quality-range"
            )
        return str(options.format)
    if is_hub and options.format in _LOG_FORMATS:
        raise ConfigError(
            f"{options.format} is a format of logs; give one of {', '.join(_BENCHMARK_FORMATS)}", path="--format"
        )
    kind = detect_benchmark(options.path) if options.format == "auto" and not names_log_options else None
    if kind is None and is_hub:
        raise ConfigError(f"{options.path} is not known; give one of {', '.join(_BENCHMARK_FORMATS)}", path="--format")
    return kind


def _import_log(options: argparse.Namespace) -> ImportedLog:
    from llmrouter.outcomes import import_logs

    return import_logs(
        options.path,
        format=options.format,
        columns=_columns(options.columns),
        prices=_prices(options.prices),
        strict=options.strict,
        default_model=options.default_model,
        quality_range=options.quality_range,
        test_share=options.test_share,
    )


def _import_benchmark(options: argparse.Namespace, kind: Any) -> ImportedLog:
    from llmrouter.outcomes import import_benchmark

    return import_benchmark(
        options.path,
        format=kind,
        prices=_prices(options.prices),
        strict=not options.skip_bad,
        test_share=options.test_share,
        likelihood_scores=options.likelihoods,
        strip_shared_prefix=not options.keep_shared_prefix,
    )


def _columns(text: str) -> dict[str, str] | None:
    pairs = [item.partition("=") for item in text.split(",") if item.strip()]
    bad = [ours for ours, separator, theirs in pairs if not (separator and theirs.strip())]
    if bad:
        raise ConfigError(f"write OURS=THEIRS; {bad[0]!r} has no '='", path="--columns")
    return {ours.strip(): theirs.strip() for ours, _, theirs in pairs} or None


def _prices(path: Path | None) -> dict[str, Price] | None:
    from llmrouter.types import Price

    if path is None:
        return None
    expected = 'expected {"model": {"input": 0.15, "output": 0.6}}, US dollars per million tokens'
    try:
        listed = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}; {expected}", path="--prices") from error
    if not isinstance(listed, dict):
        raise ConfigError(f"{path} holds {type(listed).__name__}, no object; {expected}", path="--prices")
    found = {}
    for model, price in listed.items():
        if not isinstance(price, dict):
            raise ConfigError(f"{path}: the price of {model!r} is {price!r}; {expected}", path="--prices")
        for name, value in price.items():
            if name not in ("tiers", "as_of", "source") and not _is_price(value):
                raise ConfigError(
                    f"{path}: {name!r} of {model!r} must be a number >= 0, not {value!r}; {expected}", path="--prices"
                )
        try:
            found[model] = Price(**price)
        except TypeError as error:
            raise ConfigError(f"{path}: the price of {model!r}: {error}; {expected}", path="--prices") from error
    return found


def _range(text: str) -> tuple[float, float]:
    try:
        worst, best = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"write WORST,BEST as in 1,5, not {text!r}") from None
    return worst, best


def _is_price(value: object) -> bool:
    if value is None or isinstance(value, bool) or not isinstance(value, int | float):
        return value is None
    return math.isfinite(value) and value >= 0


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    sys.exit(main())
