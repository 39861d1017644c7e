"""What is wrong with the routes of a configuration: in its tree, before the settings are made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from llmrouter.exceptions import ConfigError
from llmrouter.routes import check_routes, read_labelled
from llmrouter.types import OTHER_ROUTE
from service import config_checks, config_file
from service.config_problems import nearest
from service.picking.settings import ChooserSettings, RouteSettings

Problems = dict[config_file.Path, str]

_ROUTES: config_file.Path = ("router", "routes")
_FILE: config_file.Path = ("router", "routes_file")
_CHOOSER: config_file.Path = ("router", "chooser")


def with_routes_file(tree: Any, problems: Problems, *, environment: Mapping[str, str] | None = None) -> Any:
    """Return the tree with the routes that ``router.routes_file`` holds as ``router.routes``.

    Parameters
    ----------
    tree : Any
        The configuration.
    problems : dict
        Gets what is wrong with the file.
    environment : mapping of str to str, optional
        For variables in it; None leaves them as they are written.
    """
    router = tree.get("router") if isinstance(tree, dict) else None
    name = router.get("routes_file") if isinstance(router, dict) else None
    if not isinstance(router, dict) or not isinstance(name, str):
        return tree
    if router.get("routes") is not None:
        problems[_FILE] = "cannot be beside router.routes; keep one of the two"
        return tree
    try:
        written = config_file.parse_any(Path(name).read_text(encoding="utf-8"), source=name)
    except (OSError, UnicodeDecodeError) as error:
        problems[_FILE] = f"cannot read {name!r}: {getattr(error, 'strerror', None) or error}; write a YAML file there"
        return tree
    except ConfigError as error:
        problems[_FILE] = str(error)
        return tree
    routes = written.get("routes") if isinstance(written, dict) and written.keys() == {"routes"} else written
    if not isinstance(routes, list):
        problems[_FILE] = f"{name} must hold a list of routes, alone or as the one key `routes`"
        return tree
    if environment is not None:
        routes = config_file.substitute(routes, environment, problems, _ROUTES)
    return {**tree, "router": {**router, "routes": routes}}


def check_router(tree: Any, written: Any) -> tuple[Any, Problems]:
    """Return the tree with the policies of routes converted, and what is wrong with routes and chooser.

    What pydantic sees by itself (unknown keys, wrong types) is left to it.

    Parameters
    ----------
    tree, written : Any
        The configuration, and as the user wrote it.
    """
    router = tree.get("router") if isinstance(tree, dict) else None
    if not isinstance(router, dict):
        return tree, {}
    problems: Problems = {}
    models = _answering(tree)
    listed = router.get("routes")
    if isinstance(listed, list):
        listed, problems = _check_policies(listed, written)
        tree = {**tree, "router": {**router, "routes": listed}}
        try:
            routes = [RouteSettings.model_validate(entry).route for entry in listed]
        except ValidationError:
            return tree, problems
        problems |= {(*_ROUTES, *place): said for place, said in check_routes(routes, models).items()}
    elif router.get("routes_file") is not None:
        return tree, problems  # what is wrong with the file comes first
    names = [entry.get("name") for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else None
    return tree, problems | _check_chooser(router.get("chooser"), names, tree)


def _check_policies(listed: list[Any], written: Any) -> tuple[list[Any], Problems]:
    problems: Problems = {}
    checked = list(listed)
    for i, entry in enumerate(listed):
        if isinstance(entry, dict) and isinstance(entry.get("policy"), dict):
            policy, wrong = config_checks.check_policy(entry["policy"], written, path=(*_ROUTES, i, "policy"))
            checked[i] = {**entry, "policy": policy}
            problems |= wrong
    return checked, problems


def _check_chooser(section: Any, names: list[Any] | None, tree: Any) -> Problems:
    if not isinstance(section, dict):
        return {}
    if names is None:
        return {_CHOOSER: "picks among router.routes, and there are none; write routes, or leave it out"}
    try:
        chooser = ChooserSettings.model_validate(section)
    except ValidationError:
        return {}
    problems: Problems = {(*_CHOOSER, key): said for key, said in chooser.misplaced()}
    if chooser.kind == "model":
        chats = _chats(tree)
        if chooser.model is None:
            problems[*_CHOOSER, "model"] = f"is required for kind: model; name a model of the pool: {', '.join(chats)}"
        elif chooser.model not in chats:
            problems[*_CHOOSER, "model"] = (
                f"{chooser.model!r} is no model of the pool that answers chats: {', '.join(chats)}"
                f"{nearest(chooser.model, chats)}"
            )
    if chooser.kind == "classifier" and chooser.threshold is not None and chooser.threshold < 0:
        problems[*_CHOOSER, "threshold"] = (
            f"is a probability for kind: classifier, from 0 to 1; got {chooser.threshold}"
        )
    if chooser.kind == "classifier" and chooser.examples_file is not None:
        try:
            labels = read_labelled(chooser.examples_file)
        except ConfigError as error:
            problems[*_CHOOSER, "examples_file"] = str(error)
        else:
            wrong = sorted(set(labels) - {*map(str, names), OTHER_ROUTE})
            if wrong:
                known = ", ".join([*map(str, names), OTHER_ROUTE])
                problems[*_CHOOSER, "examples_file"] = (
                    f"labels utterances {wrong[0]!r}, which is no route; there are {known}"
                )
    return problems


def _chats(tree: Any) -> list[str]:
    """Return the names of the pool's models that answer chats."""
    pool = tree.get("pool")
    entries = [entry for entry in pool if isinstance(entry, dict)] if isinstance(pool, list) else []
    serve = [entry for entry in entries if "chat" in (entry.get("endpoints") or ("chat",))]
    return [str(entry.get("name")) for entry in serve]


def _answering(tree: Any) -> list[str]:
    """Return those that may answer requests: all of them but a model that only picks routes."""
    chooser = tree["router"].get("chooser")
    picks = chooser.get("model") if isinstance(chooser, dict) and chooser.get("answers") is False else None
    return [name for name in _chats(tree) if name != picks]
