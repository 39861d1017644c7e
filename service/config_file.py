"""From a YAML file to a plain tree: strict YAML, environment variables put in."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from typing import Any

import yaml

from llmrouter.exceptions import ConfigError

Path = tuple[str | int, ...]

_VARIABLE = re.compile(r"\$\$|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}|\$\{(?P<bad>[^}]*)\}?")


def parse_yaml(text: str, *, source: str) -> dict[str, Any]:
    """Return the mapping that a YAML document holds; an empty document is an empty mapping.

    Raises
    ------
    ConfigError
        If it is not YAML, holds a key twice, or is no mapping; the message names line and column.
    """
    tree = parse_any(text, source=source)
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{source} must hold a mapping (pool: ..., router: ...), not a {type(tree).__name__}")
    return tree


def parse_any(text: str, *, source: str) -> Any:
    """Return what a YAML document holds.

    Raises
    ------
    ConfigError
        If it is not YAML, or holds a key twice; the message names line and column.
    """
    try:
        # A subclass of SafeLoader: no Python objects are constructed.
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{source}:{where} is not valid YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not valid YAML: {error}") from error


def substitute(tree: Any, environment: Mapping[str, str], problems: dict[Path, str], path: Path = ()) -> Any:
    """Return `tree` with ``${NAME}`` and ``${NAME:-default}`` in its strings replaced; ``$$`` is a dollar sign.

    Parameters
    ----------
    tree : Any
        What `parse_yaml` returned.
    environment : mapping of str to str
        The variables. As in a shell, ``:-`` also replaces an empty one.
    problems : dict
        Gets an entry for each place whose variable is not set; the text stays as it is there.
    path : tuple
        Where `tree` is in the whole.
    """
    if isinstance(tree, dict):
        return {key: substitute(value, environment, problems, (*path, key)) for key, value in tree.items()}
    if isinstance(tree, list):
        return [substitute(value, environment, problems, (*path, i)) for i, value in enumerate(tree)]
    if not isinstance(tree, str) or "$" not in tree:
        return tree

    def replaced(match: re.Match[str]) -> str:
        name, default = match["name"], match["default"]
        if match[0] == "$$":
            return "$"
        if name is None:
            problems[path] = f"${{{match['bad']}}} is not a variable; write ${{NAME}} or ${{NAME:-default}}"
            return match[0]
        value = environment.get(name)
        if value or (value is not None and default is None):
            return value
        if default is not None:
            return default
        problems[path] = f"the environment variable {name} is not set; set it, or write ${{{name}:-default}}"
        return match[0]

    return _VARIABLE.sub(replaced, tree)


def dotted(path: Path) -> str:
    """Return ``("pool", 0, "price")`` as ``pool[0].price``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def at(tree: Any, path: Path) -> Any:
    """Return what is at `path` in `tree`, or None where there is nothing."""
    for part in path:
        try:
            tree = tree[part]
        except (KeyError, IndexError, TypeError):
            return None
    return tree


class _StrictLoader(yaml.SafeLoader):
    """YAML's safe subset, without keys that silently overwrite an earlier one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Any, yaml.Mark] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is not None and key in seen:
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"the key {key!r} is there twice (first in line {seen[key].line + 1})",
                    key_node.start_mark,
                )
            if key is not None:
                seen[key] = key_node.start_mark
        return super().construct_mapping(node, deep=deep)
