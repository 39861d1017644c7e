"""``llmrouter keys``: keys made and revoked in the store itself, so that the first needs no running gateway."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from llmrouter.exceptions import ConfigError
from service import config_file, config_problems
from service.keys.manager import LARGEST_PAGE, KeyManager
from service.keys.principal import ADMIN, DEFAULT_SCOPES, PROMPTS, SCOPES
from service.keys.record import KeyRecord
from service.keys.settings import REDIS, AuthSettings
from service.keys.store import KeyStore, open_key_store
from service.keys.wanted import PERIODS, iso
from service.section import Section

_SHOWN_ONCE = "The token is shown this once and stored nowhere: only its SHA-256 is kept."
# A person waits for this, and no request.
_REDIS_TIMEOUT_S = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands of ``llmrouter keys``."""
    commands = parser.add_subparsers(required=True, metavar="ACTION")
    create = _action(commands, "create", _create, "make a key and print its token, once")
    create.add_argument("--admin", action="store_true", help="a key that may do everything, administer keys included")
    create.add_argument("--name", help="for people (default: admin or key)")
    _add_fields(create)
    update = _action(commands, "update", _update, "change a key; what is not given stays")
    update.add_argument("id", help="id of the key (12 characters)")
    update.add_argument("--name", help="for people")
    _add_fields(update)
    _action(commands, "list", _list, "list all keys; tokens are not stored and cannot be shown")
    for name, job, text in (
        ("show", _show, "show a key"),
        ("rotate", _rotate, "give a key a new token and print it, once"),
        ("revoke", _revoke, "revoke a key for good"),
    ):
        action = _action(commands, name, job, text)
        action.add_argument("id", help="id of the key (12 characters), or a whole token")
        if name == "rotate":
            action.add_argument(
                "--grace", default="1h", metavar="TIME", help="the old token holds so long (default 1h)"
            )


def run(options: argparse.Namespace) -> int:
    """Run the chosen subcommand and return the exit status.

    Raises
    ------
    LLMRouterError
        If the configuration, an argument or the store is wrong; the message says so.
    """
    job: Callable[[KeyManager, argparse.Namespace], Awaitable[Any]] = options.keys_job
    document = asyncio.run(_with_keys(options, job))
    if options.json:
        print(json.dumps(document, indent=1))
    return 0


def _action(
    commands: Any, name: str, job: Callable[[KeyManager, argparse.Namespace], Awaitable[Any]], text: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML configuration; its auth.store is used (default: keys.db here)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(keys_job=job)
    return parser


def _add_fields(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--team", help="whose limits apply too")
    parser.add_argument("--scopes", metavar="A,B", help=f"out of {', '.join(SCOPES)}")
    parser.add_argument("--models", metavar="A,B", help="pool names; * stands for any characters (default: all)")
    parser.add_argument("--rpm", type=int, metavar="N", help="requests a minute")
    parser.add_argument("--tpm", type=int, metavar="N", help="tokens a minute")
    parser.add_argument("--concurrency", type=int, metavar="N", help="requests at a time")
    parser.add_argument("--budget-usd", type=float, metavar="USD", help="dollars a period")
    parser.add_argument("--budget-period", choices=PERIODS, help="calendar period of the budget, in UTC")
    parser.add_argument("--no-explore", action="store_true", help="chance never chooses a model for it")
    parser.add_argument("--prompts", choices=PROMPTS, help="what the log keeps of its prompts (default: log.prompts)")
    parser.add_argument("--expires", metavar="WHEN", help="a duration (30d, 12h) or an ISO date (2027-01-31)")


# Actions: each returns what --json prints


async def _create(keys: KeyManager, options: argparse.Namespace) -> dict[str, Any]:
    record, token = await keys.create(_wanted(options))
    document = {**_document(keys, record), "token": token}
    if not options.json:
        print(f"{token}\n")
        print(_described(document))
        print(f"\n{_SHOWN_ONCE}\nUse it as any OpenAI key: Authorization: Bearer <token>.")
    return document


async def _list(keys: KeyManager, options: argparse.Namespace) -> list[dict[str, Any]]:
    records: list[KeyRecord] = []
    more = True
    while more:
        after = records[-1].id if records else None
        page, more = await keys.page(after=after, limit=LARGEST_PAGE)
        records += page
    documents = [_document(keys, record) for record in records]
    if not options.json:
        columns = ("id", "state", "name", "team", "scopes", "models", "expires", "last_used")
        rows = [columns, *(tuple(_shown(document, name) for name in columns) for document in documents)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        if not documents:
            print("(no keys; make the first with: llmrouter keys create --admin)")
    return documents


async def _show(keys: KeyManager, options: argparse.Namespace) -> dict[str, Any]:
    document = _document(keys, await keys.get(options.id))
    if not options.json:
        print(_described(document))
    return document


async def _rotate(keys: KeyManager, options: argparse.Namespace) -> dict[str, Any]:
    record, token = await keys.rotate(options.id, grace_s=options.grace)
    document = {**_document(keys, record), "token": token}
    if not options.json:
        print(f"{token}\n\nThe old token holds until {iso(record.previous_until)}. {_SHOWN_ONCE}")
    return document


async def _update(keys: KeyManager, options: argparse.Namespace) -> dict[str, Any]:
    wanted = {name: value for name, value in _fields(options).items() if value is not None}
    if not wanted:
        raise ConfigError("nothing is to be changed; give the fields to change, e.g. --prompts hash", path="update")
    document = _document(keys, await keys.update(options.id, wanted))
    if not options.json:
        print(_described(document))
    return document


async def _revoke(keys: KeyManager, options: argparse.Namespace) -> dict[str, Any]:
    document = _document(keys, await keys.revoke(options.id))
    if not options.json:
        print(
            f"{document['id']} ({document['name']}) is revoked. Running gateways refuse it as soon as they look it up "
            "again (auth.cache_s, 30 s by default)."
        )
    return document


def _wanted(options: argparse.Namespace) -> dict[str, Any]:
    fields = _fields(options)
    if options.admin:
        fields["scopes"] = [*(DEFAULT_SCOPES if fields["scopes"] is None else fields["scopes"]), ADMIN]
    fields["name"] = options.name or ("admin" if options.admin else "key")
    return fields


def _fields(options: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of a key as they are given, None for what is not."""
    limits = {
        "rpm": options.rpm,
        "tpm": options.tpm,
        "concurrency": options.concurrency,
        "budget_usd": options.budget_usd,
        "budget_period": options.budget_period,
    }
    given = {name: value for name, value in limits.items() if value is not None}
    return {
        "name": options.name,
        "team": options.team,
        "scopes": _names(options.scopes),
        "models": _names(options.models),
        "limits": given or None,
        "expires": options.expires,
        "explore": False if options.no_explore else None,
        "prompts": options.prompts,
    }


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _document(keys: KeyManager, record: KeyRecord) -> dict[str, Any]:
    document = record.document(keys.now)
    times = ("created", "expires", "revoked", "rotated", "previous_until", "last_used")
    return {**document, **{name: iso(document[name]) for name in times}}


def _cell(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(value)
    if isinstance(value, Mapping):
        return " ".join(f"{name}={item}" for name, item in value.items()) or "-"
    return "-" if value is None else str(value)


def _shown(document: Mapping[str, Any], name: str) -> str:
    return "all" if name == "models" and document[name] is None else _cell(document[name])


def _described(document: Mapping[str, Any]) -> str:
    shown = {name: _shown(document, name) for name in document if name != "token"}
    return "\n".join(f"{name:15s} {value}" for name, value in shown.items() if value != "-")


# The store


async def _with_keys(
    options: argparse.Namespace, job: Callable[[KeyManager, argparse.Namespace], Awaitable[Any]]
) -> Any:
    auth, redis = _sections(options.config)
    if auth is None:
        auth = AuthSettings()
        if options.config is not None:
            print(
                f"llmrouter: note: {options.config} has no section 'auth', so no key is asked for; write 'auth: {{}}' "
                f"into it. Keys are in {auth.store}.",
                file=sys.stderr,
            )
    store, close = _open(auth, redis)
    keys = KeyManager(store)
    try:
        return await job(keys, options)
    finally:
        await keys.aclose()
        await close()


def _open(auth: AuthSettings, redis: Any) -> tuple[KeyStore, Callable[[], Awaitable[None]]]:
    async def nothing() -> None:
        """Close nothing."""

    if auth.store != REDIS or redis is None:
        return open_key_store(auth), nothing
    from service.redis_link import RedisLink

    link = RedisLink(redis.model_copy(update={"timeout_s": _REDIS_TIMEOUT_S}))
    return open_key_store(auth, link=link), link.aclose


def _sections(path: Path | None) -> tuple[AuthSettings | None, Any]:
    """Read the two sections that matter here: the rest may need variables that only the gateway has."""
    if path is None:
        return None, None
    from service.limits.settings import RedisSettings

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from error
    tree = config_file.parse_yaml(text, source=str(path))
    auth = _section(tree, "auth", AuthSettings, source=str(path))
    return auth, _section(tree, "redis", RedisSettings, source=str(path))


def _section(tree: dict[str, Any], name: str, kind: type[Section], *, source: str) -> Any:
    if tree.get(name) is None:
        return None
    problems: dict[config_file.Path, str] = {}
    part = {name: tree[name]}
    values = config_file.substitute(part, os.environ, problems)
    try:
        section = kind.model_validate(values[name])
    except ValidationError as error:
        problems |= config_problems.of_validation(error, kind, part, prefix=(name,))
    if problems:
        raise config_problems.as_config_error(problems, source=source)
    return section
