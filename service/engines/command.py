"""``llmrouter config engines``: what answers at the addresses of a pool, or at any others."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from llmrouter.exceptions import ConfigError
from service.engines.compare import notes_on

if TYPE_CHECKING:
    from service.engines.look import Found
    from service.resilience.settings import DeploymentSettings
    from service.settings import ModelSettings, Settings

ABOUT = "ask the engines of a pool, or any base URL, which models they serve and how they are"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML (default: the embedded pocket pool)")
    parser.add_argument(
        "--url", action="append", default=[], help="a base URL to ask instead, e.g. http://host:8000/v1"
    )
    parser.add_argument("--key-from", metavar="VARIABLE", help="environment variable with the key for --url")
    parser.add_argument("--strict", action="store_true", help="exit with 1 on warnings, too")


def run(options: argparse.Namespace) -> int:
    """Ask, print, and return the exit status: 1 if an address does not answer, or with ``--strict`` on any warning.

    Raises
    ------
    ConfigError
        If the configuration is wrong, or the variable of the key is not set.
    """
    if options.url:
        return _urls(options.url, options.key_from)
    if options.key_from:
        raise ConfigError("is for --url; entries of a configuration have api_key", path="--key-from")
    from service.settings import load_settings

    lines, warnings, problems = asyncio.run(survey(load_settings(options.config)))
    for line in lines:
        print(line)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    return int(bool(problems) or (options.strict and bool(warnings)))


async def survey(settings: Settings) -> tuple[list[str], list[str], list[str]]:
    """Ask the address of every model of a pool that speaks OpenAI's protocol.

    Returns
    -------
    lines, warnings, problems : list of str
        What was found, what is amiss, and which addresses do not answer.
    """
    from llmrouter.pool import HTTPSessions
    from service.engines.look import look

    places = list(_places(settings.pool))
    sessions = HTTPSessions()
    asked: dict[tuple[str, tuple[tuple[str, str], ...]], asyncio.Task[Found]] = {}
    try:
        for _, _, _, url, headers in places:
            key = (url, tuple(sorted(headers.items())))
            if key not in asked:
                asked[key] = asyncio.create_task(look(url, sessions, headers=headers))
        await asyncio.gather(*asked.values())
    finally:
        await sessions.aclose()
    lines, warnings, problems = [], [], []
    for label, model, wanted, url, headers in places:
        found = asked[url, tuple(sorted(headers.items()))].result()
        lines.append(f"engine     {label}: {described(found)}")
        if found.trouble:
            problems.append(f"{label}: {found.trouble}")
        warnings += [f"{label}: {note}" for note in notes_on(model, found, wanted=wanted) if found.models is not None]
    return lines, warnings, problems


def described(found: Found) -> str:
    """Return what was found, in a line."""
    engine = "an unknown engine" if found.kind is None else f"{found.kind.name} {found.version}".strip()
    if found.models is None:
        return found.trouble or "answers, and lists no models"
    count = "1 model" if len(found.models) == 1 else f"{len(found.models)} models"
    load = ", reports its load" if found.reports_load else ""
    return f"{engine}, serves {count}{load}" + (f"; {found.trouble}" if found.trouble else "")


def _places(
    pool: Iterable[ModelSettings],
) -> Iterator[tuple[str, ModelSettings, str, str, dict[str, str]]]:
    """Yield label, entry, upstream's name, base URL and headers of every place that can be asked."""
    for model in pool:
        places: tuple[ModelSettings | DeploymentSettings, ...] = model.deployments or (model,)
        for i, place in enumerate(places):
            url = place.base_url or model.base_url
            if url is None or (place.backend or model.backend) != "openai":
                continue
            key, own = place.api_key or model.api_key, place.headers or model.headers
            headers = {} if key is None else {"authorization": f"Bearer {key.get_secret_value()}"}
            headers |= {name.lower(): value.get_secret_value() for name, value in own.items()}
            label = model.name if len(places) == 1 else f"{model.name} (deployment {i + 1})"
            yield label, model, place.model or model.model or model.name, url, headers


def _urls(urls: Iterable[str], variable: str | None) -> int:
    headers = _key(variable)
    failed = False
    pool = []
    for found in asyncio.run(_look_at(urls, headers)):
        print(f"# {found.base_url}: {described(found)}")
        failed = failed or bool(found.trouble)
        pool += list(_as_entries(found, variable))
    if pool:
        print("# an entry for each model; price: US dollars per million tokens, 0 until you know better")
        print(yaml.safe_dump({"pool": pool}, sort_keys=False, allow_unicode=True), end="")
    return int(failed)


async def _look_at(urls: Iterable[str], headers: Mapping[str, str]) -> list[Found]:
    from llmrouter.pool import HTTPSessions
    from service.engines.look import look

    sessions = HTTPSessions()
    try:
        return await asyncio.gather(*(look(url, sessions, headers=headers) for url in urls))
    finally:
        await sessions.aclose()


def _as_entries(found: Found, variable: str | None) -> Iterator[dict[str, object]]:
    for model in found.models or ():
        entry: dict[str, object] = {"name": model.name, "base_url": found.base_url}
        if variable:
            entry["api_key"] = f"${{{variable}}}"
        if model.context_window is not None:
            entry["context_window"] = model.context_window
        if found.reports_load:
            entry["load"] = True
        yield entry | {"price": {"input": 0, "output": 0}}


def _key(variable: str | None) -> dict[str, str]:
    if variable is None:
        return {}
    value = os.environ.get(variable)
    if not value:
        raise ConfigError(f"the environment variable {variable} is not set, or empty", path="--key-from")
    return {"authorization": f"Bearer {value}"}
