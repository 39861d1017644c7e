"""``llmrouter config``: check a configuration, show what is in effect, turn LiteLLM's into ours."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import SecretStr

from llmrouter.exceptions import ConfigError, LLMRouterError, MissingExtraError
from service import config_file
from service.engines import command as engines_command

if TYPE_CHECKING:
    from llmrouter.engine import RoutingEngine
    from llmrouter.pool import Backend
    from service.settings import ModelSettings, Settings

_CONNECT_S = 10.0
_HIDDEN = "(hidden)"
_SECRET_KEY = re.compile(r"key$|secret|password|token$|credential|authorization", re.IGNORECASE)
_SECRET_MAPPINGS = frozenset({"headers"})
_URL_CREDENTIALS = re.compile(r"(://)[^/@\s]+@")
_VARIABLE = re.compile(r"\$\$|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<default>:-[^}]*)?\}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands of ``llmrouter config``."""
    commands = parser.add_subparsers(required=True, metavar="ACTION")
    check = _action(commands, "check", _check, "say everything that is wrong with a configuration, or what it sets up")
    check.add_argument(
        "--connect", action="store_true", help="also ask every upstream whether it answers, and what it serves"
    )
    show = _action(commands, "show", _show, "print the configuration as it is in effect, secrets hidden")
    for command in (check, show):
        command.add_argument("--config", type=Path, metavar="FILE", help="YAML (default: the embedded pocket pool)")
    engines_command.add_arguments(_action(commands, "engines", engines_command.run, engines_command.ABOUT))
    convert = _action(commands, "from-litellm", _from_litellm, "turn a configuration of LiteLLM's proxy into ours")
    convert.add_argument("file", type=Path, metavar="FILE", help="LiteLLM's YAML, with its model_list")
    convert.add_argument("-o", "--out", type=Path, metavar="OUT", help="where to write (default: standard output)")
    convert.add_argument("--force", action="store_true", help="write even over a file that is there")


def run(options: argparse.Namespace) -> int:
    """Run the chosen subcommand and return the exit status: 1 if the configuration is wrong.

    Raises
    ------
    LLMRouterError
        If a file cannot be read or written, or is wrong.
    """
    job: Callable[[argparse.Namespace], int] = options.config_job
    return job(options)


def _action(commands: Any, name: str, job: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(config_job=job)
    return parser


# check


def _check(options: argparse.Namespace) -> int:
    from service.settings import DEFAULT_CONFIG, load_settings

    source = DEFAULT_CONFIG if options.config is None else options.config
    try:
        settings = load_settings(options.config)
    except ConfigError as error:
        print(f"llmrouter: {error}", file=sys.stderr)
        return 1
    engine, problems = check_beyond(settings)
    variables = list(variables_in(source.read_text(encoding="utf-8"), str(source)))
    for line in summary(settings, engine, variables, os.environ):
        print(line)
    warnings: list[str] = []
    if options.connect:
        problems += asyncio.run(check_connections(settings))
        found, warnings, _ = asyncio.run(engines_command.survey(settings))
        for line in found:
            print(line)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    print(f"{source} is right" if not problems else f"{source} cannot be put into effect", file=sys.stderr)
    return 1 if problems else 0


def check_beyond(settings: Settings) -> tuple[RoutingEngine | None, list[str]]:
    """Return the engine and what is wrong beyond the file itself: packages, artifact, exposure, limits."""
    from service.learning.signals import check_signals
    from service.limits import check_workers
    from service.server import check_exposure
    from service.settings import build_engine

    problems = [str(error) for error in _missing_extras(settings)]
    engine = None
    redis, keys = settings.redis is not None, settings.auth is not None
    checks: list[Callable[[], None]] = [
        lambda: check_exposure(settings),
        lambda: check_workers(settings.limits, workers=settings.server.workers, redis=redis, keys=keys),
        lambda: check_signals(settings),
    ]
    for check in checks:
        try:
            check()
        except LLMRouterError as error:
            problems.append(str(error))
    try:
        engine = build_engine(settings)
    except LLMRouterError as error:
        problems.append(f"router.artifact: {error}")
    if settings.router.routes is not None:
        from service.picking.picker import RoutePicker

        try:
            RoutePicker(settings)
        except LLMRouterError as error:
            problems.append(f"router.chooser: {error}")
    if engine is not None and (settings.learning.canary or settings.learning.shadow):
        from service.learning.canary_lanes import problems_of

        problems += problems_of(settings, engine)
    return engine, problems


def _missing_extras(settings: Settings) -> Iterator[MissingExtraError]:
    needed = [("litellm", "litellm", "a model with backend: litellm")]
    wanted = [any(model.backend == "litellm" for model in settings.pool)]
    needed.append(("redis", "redis", "the section redis"))
    wanted.append(settings.redis is not None)
    needed.append(("opentelemetry", "otel", "telemetry.traces.otlp_endpoint"))
    wanted.append(settings.telemetry.traces.otlp_endpoint is not None)
    for (package, extra, purpose), is_wanted in zip(needed, wanted, strict=True):
        if is_wanted and importlib.util.find_spec(package) is None:
            yield MissingExtraError(package, extra=extra, purpose=purpose)


@dataclass(frozen=True, slots=True)
class Variable:
    """An environment variable that a configuration names.

    Attributes
    ----------
    name : str
        Its name.
    has_default : bool
        Whether the configuration says what holds without it.
    """

    name: str
    has_default: bool


def variables_in(text: str, source: str) -> Iterator[Variable]:
    """Yield the variables that a configuration names, each once, in their order."""
    seen = set()
    for value in _strings(config_file.parse_yaml(text, source=source)):
        for match in _VARIABLE.finditer(value):
            name = match["name"]
            if name is not None and name not in seen:
                seen.add(name)
                yield Variable(name, match["default"] is not None)


def _strings(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict | list):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from _strings(value)


def summary(
    settings: Settings, engine: RoutingEngine | None, variables: list[Variable], environment: Mapping[str, str]
) -> Iterator[str]:
    """Yield lines that say what a configuration sets up; no value of a variable is in them."""
    for model in settings.pool:
        price = model.card.price
        cached = "" if price.cached_input is None else f" (cached {price.cached_input:g})"
        dated = f", {price.as_of}" if price.as_of else ""
        places = f", {len(model.deployments)} deployments" if model.deployments else ""
        yield (
            f"model      {model.name}: {model.backend}{places}, {price.input:g}{cached} in and {price.output:g} out "
            f"USD per million tokens ({price.source}{dated}){_load(model)}"
        )
    if engine is not None:
        known = sum(card.name in engine.trained.models for card in engine.cards)
        place = settings.router.artifact or "shipped with the package"
        yield f"artifact   {engine.artifact_id} ({place}), knows {known} of {len(engine.cards)} models"
    parameters = ", ".join(f"{key}: {value}" for key, value in (settings.policy.model_extra or {}).items())
    yield f"policy     {settings.policy.kind}" + (f" ({parameters})" if parameters else "")
    routes = settings.router.routes
    if routes is not None:
        chooser = settings.router.picks_by
        by = f"{chooser.model}, a model" if chooser.kind == "model" else chooser.kind
        yield f"routes     {', '.join(route.name for route in routes)}; picked by {by}"
    server = settings.server
    keys = "no keys" if settings.auth is None else "keys required" if settings.auth.required else "keys optional"
    yield f"server     {server.host}:{server.port}, workers: {server.workers}, {keys}"
    yield f"log        {_masked(settings.log.store)}, prompts: {settings.log.prompts}"
    yield f"redis      {'configured' if settings.redis is not None else 'none'}"
    yield f"cache      {'on' if settings.cache is not None else 'off'}"
    for variable in variables:
        is_set = bool(environment.get(variable.name))
        state = "set" if is_set else "not set, the default holds" if variable.has_default else "empty"
        yield f"variable   {variable.name}: {state}"


def _load(model: ModelSettings) -> str:
    if model.load is None:
        return ""
    url = model.load.url or f"{(model.base_url or '').rstrip('/')}/load"
    return f"; decided about by {_masked(url)}, read every {model.load.every_s:g} s"


async def check_connections(settings: Settings) -> list[str]:
    """Ask every upstream whether it answers, print how it went, and return what is wrong."""
    from llmrouter.pool import HTTPSessions

    sessions = HTTPSessions()
    places = [(label, build) for model in settings.pool for label, build in _places(model, sessions)]
    try:
        answers = await asyncio.gather(*(_is_healthy(build) for _, build in places))
    finally:
        await sessions.aclose()
    for (label, _), trouble in zip(places, answers, strict=True):
        print(f"upstream   {label}: {trouble or 'answers'}")
    return [f"{label}: {trouble}" for (label, _), trouble in zip(places, answers, strict=True) if trouble]


def _places(model: ModelSettings, sessions: Any) -> Iterator[tuple[str, Callable[[], Backend]]]:
    from llmrouter import registry

    shared = {"model": model.model or model.name}
    shared |= {key: getattr(model, key) for key in ("base_url", "api_key", "headers") if getattr(model, key)}
    deployments = [deployment.model_dump() for deployment in model.deployments] or [{}]
    for i, deployment in enumerate(deployments):
        own = {key: deployment[key] for key in ("base_url", "api_key", "headers", "model") if deployment.get(key)}
        parameters = {key: _revealed(value) for key, value in {**shared, **own}.items()}
        parameters |= {**model.options, **deployment.get("options", {})}
        if model.backend == "openai":
            parameters["sessions"] = sessions
        label = model.name if len(deployments) == 1 else f"{model.name} (deployment {i + 1})"
        yield (
            label,
            partial(registry.create, "backend", model.backend, name=model.name, **parameters),
        )


async def _is_healthy(build: Callable[[], Backend]) -> str:
    """Return "" for a backend that answers, else what ails it."""
    try:
        backend = build()
        try:
            async with asyncio.timeout(_CONNECT_S):
                return "" if await backend.healthy() else "does not answer"
        finally:
            await backend.aclose()
    except TimeoutError:
        return f"no answer within {_CONNECT_S:g} s"
    except LLMRouterError as error:
        return str(error)


def _revealed(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return {key: _revealed(each) for key, each in value.items()} if isinstance(value, dict) else value


# show


def _show(options: argparse.Namespace) -> int:
    from service.settings import load_settings

    tree = hidden(load_settings(options.config).model_dump())
    if tree["router"]["routes"] is not None:
        tree["router"]["routes_file"] = None  # what it holds is there
    print(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), end="")
    return 0


def hidden(tree: Any, path: tuple[str, ...] = ()) -> Any:
    """Return a tree of settings as plain values that may be shown: whatever is or may be a secret is hidden."""
    if isinstance(tree, Mapping):
        return {str(key): hidden(value, (*path, str(key))) for key, value in tree.items()}
    if isinstance(tree, frozenset | set):
        return sorted(hidden(value, path) for value in tree)
    if isinstance(tree, list | tuple):
        return [hidden(value, path) for value in tree]
    if isinstance(tree, SecretStr):
        return _HIDDEN
    if isinstance(tree, Enum):
        return tree.value
    if isinstance(tree, str | Path):
        secret = path and (_SECRET_KEY.search(path[-1]) or not _SECRET_MAPPINGS.isdisjoint(path))
        return _HIDDEN if secret else _masked(str(tree))
    return tree


def _masked(text: str) -> str:
    return _URL_CREDENTIALS.sub(rf"\1{_HIDDEN}@", text)


# from-litellm


def _from_litellm(options: argparse.Namespace) -> int:
    from service.from_litellm import convert

    try:
        text = options.file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {options.file}: {getattr(error, 'strerror', None) or error}") from error
    converted = convert(text, source=str(options.file))
    if options.out is None:
        print(converted.text, end="")
    else:
        _write(options.out, converted.text, force=options.force)
        print(f"wrote {options.out}; check it with: llmrouter config check --config {options.out}", file=sys.stderr)
    for note in converted.notes:
        print(f"note: {note}", file=sys.stderr)
    return 0


def _write(out: Path, text: str, *, force: bool) -> None:
    try:
        # The converted file may hold keys that the original held.
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if force else os.O_EXCL), 0o600)
    except FileExistsError as error:
        raise ConfigError(f"{out} is there already; give --force to write over it", path="--out") from error
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror or error}", path="--out") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
