"""``llmrouter models``: list the pool, take models in, let them go, exchange them, change their price."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from llmrouter.exceptions import ConfigError
from service.models.show import list_lines, placement_lines, price_entry

if TYPE_CHECKING:
    from llmrouter.learning import ProfileProgress, ProfileResult, Scorer
    from service.models.changes import Bench
    from service.models.overlay import Overlay
    from service.models.records import Change, Prepared, Wanted
    from service.settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands of ``llmrouter models``."""
    commands = parser.add_subparsers(required=True, metavar="ACTION")
    _action(commands, "list", _list, "list the models of the pool, and what the router knows of them")
    add = _action(commands, "add", _add, "take a model in without training: score a few prompts, add its columns")
    add.add_argument("name", help="pool name; in the configuration already, or described by --entry or --base-url")
    _add_new_model(add)
    replace = _action(commands, "replace", _replace, "exchange a model for another, such as its next version")
    replace.add_argument("old", help="pool name of the model that goes")
    replace.add_argument("name", help="pool name of the model that comes")
    _add_new_model(replace)
    remove = _action(commands, "remove", _remove, "let a model go: out of the pool and out of the router")
    remove.add_argument("name", help="pool name")
    _add_yes(remove)
    reprice = _action(commands, "reprice", _reprice, "give a model another price; nothing is fitted again")
    reprice.add_argument("name", help="pool name")
    reprice.add_argument("--price", required=True, metavar="IN,OUT", help="US dollars per million tokens")
    _add_yes(reprice)


def run(options: argparse.Namespace) -> int:
    """Run the chosen subcommand and return the exit status.

    Raises
    ------
    LLMRouterError
        If the configuration, an argument or the model is wrong; the message says so.
    """
    job: Callable[[argparse.Namespace], int] = options.models_job
    return job(options)


def _action(commands: Any, name: str, job: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML configuration (default: the embedded pocket pool)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(models_job=job)
    return parser


def _add_yes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yes", action="store_true", help="put it into effect; without it it is only shown")
    parser.add_argument("--data", metavar="DIR", help="folder of outcomes in place of the log; 'pocket' is the shipped")


def _add_new_model(parser: argparse.ArgumentParser) -> None:
    entry = parser.add_argument_group("the model, where the configuration lacks it")
    entry.add_argument("--entry", type=Path, metavar="FILE", help="YAML entry of the pool")
    entry.add_argument("--base-url", metavar="URL", help="of an OpenAI-compatible API")
    entry.add_argument("--upstream", metavar="MODEL", help="the upstream's name of it (default: the pool name)")
    entry.add_argument("--api-key", metavar="${NAME}", help="environment variable that holds the key, as ${NAME}")
    entry.add_argument("--price", metavar="IN,OUT", help="US dollars per million tokens (default: the known one)")
    ways = parser.add_argument_group("how it becomes known").add_mutually_exclusive_group()
    ways.add_argument("--profile", type=int, metavar="N", help="ask it N prompts and score them (default: 50)")
    ways.add_argument("--zero-shot", action="store_true", help="ask nothing: expect what --card and price say")
    ways.add_argument("--from", dest="scores", type=Path, metavar="FILE", help="scored prompts, JSONL; asks nothing")
    ways.add_argument("--from-log", action="store_true", help="judged outcomes that the log has of it; asks nothing")
    profile = parser.add_argument_group("the profile")
    profile.add_argument("--max-usd", type=float, default=1.0, metavar="USD", help="spend at most (default: 1)")
    profile.add_argument("--max-output-tokens", type=int, default=1024, metavar="N", help="an answer (default: 1024)")
    profile.add_argument("--concurrency", type=int, default=4, metavar="N", help="calls at a time (default: 4)")
    profile.add_argument(
        "--scorer",
        default="reference",
        metavar="WHICH",
        help="reference (right answers of --references or --data), judge:MODEL of the pool, or package.module:function",
    )
    profile.add_argument(
        "--references", type=Path, metavar="FILE", help="right answers, JSONL: prompt or prompt_id, answer"
    )
    profile.add_argument("--seed", type=int, default=0, help="of the choice of prompts")
    card = parser.add_argument_group("what is known beforehand")
    card.add_argument("--card", type=Path, metavar="FILE", help="YAML: family, siblings, scores, known_scores, quality")
    card.add_argument("--siblings", default="", metavar="A,B", help="pool models of its family")
    card.add_argument("--descriptor", metavar="DIR", help="what it says to probes (training.contrastive.describe)")
    card.add_argument(
        "--known", action="append", metavar="NAME=DIR", help="the same of a pool model; twice or more, if not cscr"
    )
    card.add_argument("--expect", type=float, metavar="Q", help="mean quality that you expect, in [0, 1]")
    _add_yes(parser)


# list


def _list(options: argparse.Namespace) -> int:
    from service.settings import build_engine, load_settings

    engine = build_engine(load_settings(options.config))
    if options.json:
        print(json.dumps([price_entry(card, engine) for card in engine.cards], indent=1))
    else:
        print("\n".join(list_lines(engine)))
    return 0


# add, replace, remove, reprice


def _add(options: argparse.Namespace) -> int:
    return _new(options, "add", options.name)


def _replace(options: argparse.Namespace) -> int:
    return _new(options, "replace", options.old)


def _remove(options: argparse.Namespace) -> int:
    from service.models.records import Wanted

    return _carry_out(options, Wanted("remove", options.name))


def _reprice(options: argparse.Namespace) -> int:
    from service.models.records import Wanted

    return _carry_out(options, Wanted("reprice", options.name, price=_price(options.price)))


def _new(options: argparse.Namespace, action: str, name: str) -> int:
    from llmrouter.learning import ProfileSettings, read_lines
    from service.models.described import read_descriptors
    from service.models.records import Wanted
    from service.models.wanted import card_of

    how = "profile"
    if options.zero_shot:
        how = "zero-shot"
    elif options.scores is not None:
        how = "scores"
    elif options.from_log:
        how = "log"
    described = _yaml(options.card, "--card") if options.card is not None else {}
    siblings = [one for one in (part.strip() for part in options.siblings.split(",")) if one]
    if siblings:
        described["siblings"] = siblings
    if options.expect is not None:
        described["quality"] = options.expect
    if options.descriptor is not None and action == "replace":
        raise ConfigError("is for add; replace --zero-shot expects what the old model did", path="--descriptor")
    descriptor, known = read_descriptors(options.descriptor, options.known, zero_shot=how == "zero-shot")
    wanted = Wanted(
        action,
        name,
        entry=_entry(options, action),
        how=how,
        profile=ProfileSettings(
            prompts=50 if options.profile is None else options.profile,
            max_usd=options.max_usd,
            max_output_tokens=options.max_output_tokens,
            concurrency=options.concurrency,
            seed=options.seed,
        ),
        card=card_of(described) if described else None,
        rows=read_lines(options.scores) if options.scores is not None else (),
        descriptor=descriptor,
        known=known,
    )
    return _carry_out(options, wanted)


def _carry_out(options: argparse.Namespace, wanted: Wanted) -> int:
    """Prepare, ask, work out, show and, where it was confirmed, apply."""
    bench, scorer = _bench(options, wanted)
    say = _teller(options)
    prepared = bench.prepare(wanted, only_referenced=scorer is not None and scorer.name == "reference")
    result = None
    if prepared.plan is not None:
        if scorer is None:
            raise ConfigError("nobody is there to score the answers", path="--scorer")
        result = _ask(bench, prepared, scorer, say)
    change = bench.work_out(prepared, result)
    document = _shown(prepared, change, applied=False)
    for line in placement_lines(change):
        say(line)
    if not options.yes:
        say(_not_yet(prepared, change))
    else:
        change = bench.apply(prepared, change, result)
        document = _shown(prepared, change, applied=True)
        say("in effect; running gateways that watch the file follow" if _overlay_of(prepared.before) else "in effect")
    if options.json:
        print(json.dumps(document, indent=1))
    return 0


def _ask(bench: Bench, prepared: Prepared, scorer: Scorer, say: Callable[[str], None]) -> ProfileResult:
    plan, wanted = prepared.plan, prepared.wanted
    assert plan is not None  # noqa: S101 - for the type checker; the caller has looked
    say(
        f"{len(plan.questions)} prompts for {wanted.new_name}: about {plan.expected_usd:.2g} USD, at most "
        f"{min(plan.most_usd, wanted.profile.max_usd):.2g} USD (--max-usd {wanted.profile.max_usd:g}), scored by "
        f"{scorer.name}"
    )
    last = 0

    def progress(state: ProfileProgress) -> None:
        nonlocal last
        if state.done == state.total or state.done - last >= max(state.total // 10, 1):
            last = state.done
            say(f"  {state.done} of {state.total}, {state.failed} failed, {state.spent_usd:.2g} USD")

    result = asyncio.run(bench.ask(prepared, scorer, progress=progress))
    if result.over_budget:
        say(f"  {result.over_budget} prompts were left out: the budget of {wanted.profile.max_usd:g} USD is used up")
    for line in result.failures[:3]:
        say(f"  failed: {line}")
    return result


def _bench(options: argparse.Namespace, wanted: Wanted) -> tuple[Bench, Scorer | None]:
    from llmrouter.learning import read_references
    from service.models import sources
    from service.models.changes import Bench
    from service.models.scorers import make_scorer
    from service.settings import load_settings

    def load(overlay: Overlay | None) -> Settings:
        return load_settings(options.config, overlay=overlay)

    data = options.data
    references = None
    asks = wanted.action in ("add", "replace") and wanted.how == "profile"
    if asks and options.references is not None:
        references = read_references(options.references)
    elif asks and data is not None:
        references = sources.references_of_folder(data)
    bench = Bench(
        load,
        table=sources.table_of_log if data is None else lambda _: sources.table_of_folder(data),
        references=references,
    )
    if not asks:
        return bench, None
    return bench, make_scorer(options.scorer, load(None), references=references)


def _entry(options: argparse.Namespace, action: str) -> Mapping[str, Any] | None:
    if options.entry is not None:
        entry = _yaml(options.entry, "--entry")
    elif options.base_url is None:
        if action == "replace":
            raise ConfigError("say how the new model is reached: --entry FILE, or --base-url and --price", path="name")
        return None
    else:
        entry = {"base_url": options.base_url}
    entry = {**entry, "name": options.name}
    for key, value in (("base_url", options.base_url), ("model", options.upstream), ("api_key", options.api_key)):
        if value is not None:
            entry[key] = value
    if options.price is not None:
        entry["price"] = _price(options.price)
    return entry


def _price(text: str) -> dict[str, float]:
    try:
        read, written = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(
            f"must be two numbers, US dollars per million tokens, e.g. 0.5,1.5; got {text!r}", path="--price"
        ) from error
    return {"input": read, "output": written}


def _yaml(path: Path, option: str) -> dict[str, Any]:
    from service.config_file import parse_yaml

    try:
        return parse_yaml(path.read_text(encoding="utf-8"), source=str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}", path=option) from error


def _overlay_of(settings: Settings) -> Path | None:
    return None if settings.learning.models is None else settings.learning.models.overlay


def _not_yet(prepared: Prepared, change: Change) -> str:
    lines = ["nothing is in effect yet; --yes does it, and costs nothing more: answers are kept"]
    if _overlay_of(prepared.before) is None and prepared.overlay.text().count("\n") > 1:
        entry = {"learning": {"models": {"overlay": "models.yaml"}}}
        lines.append(f"without an overlay the configuration is yours to change:\n{prepared.overlay.text()}")
        lines.append(f"with one, --yes writes it:\n{yaml.safe_dump(entry, sort_keys=False).rstrip()}")
    if change.folder is not None:
        lines.append(f"artifact: {change.folder}")
    return "\n".join(lines)


def _shown(prepared: Prepared, change: Change, *, applied: bool) -> dict[str, Any]:
    from service.models.show import change_document

    return {**change_document(prepared, change), "applied": applied}


def _teller(options: argparse.Namespace) -> Callable[[str], None]:
    # Beside JSON on stdout, words go to stderr.
    stream = sys.stderr if options.json else sys.stdout
    return lambda line: print(line, file=stream, flush=True)
