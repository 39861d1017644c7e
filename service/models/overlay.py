"""The overlay: changes of the pool in a file of their own, merged over the configuration."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from llmrouter.exceptions import ConfigError
from service import config_file

_HEADER = "# Changes of the pool, merged over the configuration. Written by `llmrouter models` and /admin/models.\n"
_KEYS = ("pool", "remove", "prices", "artifact")


@dataclass(frozen=True)
class Overlay:
    """What is changed.

    Attributes
    ----------
    pool : tuple of mapping
        Entries that are added; one with the name of a configured entry stands in its place.
    remove : tuple of str
        Configured entries that are left out.
    prices : mapping of str to mapping
        Prices that stand in place of the entries' own.
    artifact : str or None
        In place of `router.artifact`.
    """

    pool: tuple[Mapping[str, Any], ...] = ()
    remove: tuple[str, ...] = ()
    prices: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    artifact: str | None = None

    def with_entry(self, entry: Mapping[str, Any]) -> Overlay:
        """Return the overlay with one more entry."""
        name = entry.get("name")
        others = tuple(one for one in self.pool if one.get("name") != name)
        return replace(
            self,
            pool=(*others, entry),
            remove=tuple(one for one in self.remove if one != name),
            prices={model: price for model, price in self.prices.items() if model != name},
        )

    def without(self, name: str) -> Overlay:
        """Return the overlay without a model, whether it is the overlay's or the configuration's."""
        return replace(
            self,
            pool=tuple(one for one in self.pool if one.get("name") != name),
            remove=(*(one for one in self.remove if one != name), name),
            prices={model: price for model, price in self.prices.items() if model != name},
        )

    def with_price(self, name: str, price: Mapping[str, Any]) -> Overlay:
        """Return the overlay with another price of a model."""
        return replace(self, prices={**self.prices, name: dict(price)})

    def merged(self, tree: Mapping[str, Any]) -> dict[str, Any]:
        """Return a configuration's tree with the changes made to it."""
        pool = tree.get("pool")
        configured = list(pool) if isinstance(pool, list) else []
        own = {entry.get("name") for entry in self.pool}
        gone = own | set(self.remove)
        entries = [entry for entry in configured if not (isinstance(entry, dict) and entry.get("name") in gone)]
        entries += [dict(entry) for entry in self.pool]
        entries = [
            {**entry, "price": dict(self.prices[entry["name"]])}
            if isinstance(entry, dict) and entry.get("name") in self.prices
            else entry
            for entry in entries
        ]
        changed = {**tree, "pool": entries}
        if self.artifact is not None:
            router = tree.get("router")
            changed["router"] = {**(router if isinstance(router, dict) else {}), "artifact": self.artifact}
        return changed

    def text(self) -> str:
        """Return the overlay as YAML."""
        tree: dict[str, Any] = {}
        if self.pool:
            tree["pool"] = [dict(entry) for entry in self.pool]
        if self.remove:
            tree["remove"] = list(self.remove)
        if self.prices:
            tree["prices"] = {name: dict(price) for name, price in self.prices.items()}
        if self.artifact is not None:
            tree["artifact"] = self.artifact
        return _HEADER + (yaml.safe_dump(tree, sort_keys=False, allow_unicode=True) if tree else "")


def parse_overlay(text: str, *, source: str) -> Overlay:
    """Return the overlay that a YAML document holds.

    Raises
    ------
    ConfigError
        If it is not of the form of `Overlay`.
    """
    tree = config_file.parse_yaml(text, source=source)
    for key in tree:
        if key not in _KEYS:
            raise ConfigError(f"{source}: unknown key {key!r}; allowed: {', '.join(_KEYS)}")
    pool, remove, prices = tree.get("pool") or [], tree.get("remove") or [], tree.get("prices") or {}
    if not _is_list(pool, dict) or not all(isinstance(entry.get("name"), str) for entry in pool):
        raise ConfigError(f"{source}: pool must be a list of entries, each with a name")
    if not _is_list(remove, str):
        raise ConfigError(f"{source}: remove must be a list of names; got {remove!r:.80}")
    if not isinstance(prices, dict) or not all(isinstance(price, dict) for price in prices.values()):
        raise ConfigError(f"{source}: prices must be a mapping of names to prices; got {prices!r:.80}")
    artifact = tree.get("artifact")
    if artifact is not None and not isinstance(artifact, str):
        raise ConfigError(f"{source}: artifact must be a path; got {artifact!r:.80}")
    return Overlay(tuple(pool), tuple(remove), prices, artifact)


def read_overlay(path: Path) -> Overlay:
    """Read an overlay; one that is not there changes nothing.

    Raises
    ------
    ConfigError
        If it cannot be read, or is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Overlay()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the overlay {path}: {getattr(error, 'strerror', None) or error}") from error
    return parse_overlay(text, source=str(path))


def write_overlay(path: Path, overlay: Overlay) -> None:
    """Write an overlay, as a whole or not at all; only its owner may read it, since entries can hold keys.

    Raises
    ------
    ConfigError
        If it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(overlay.text())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigError(f"cannot write the overlay {path}: {error.strerror or error}") from error


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock that all processes on this machine agree on, as long as the block runs.

    Parameters
    ----------
    path : Path
        The lock file; it stays behind, empty.
    wait : bool
        Whether to wait for another holder.

    Raises
    ------
    ConfigError
        If the file cannot be made, or another process holds the lock and `wait` is not set.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot lock {path}: {error.strerror or error}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    except BlockingIOError as error:
        raise ConfigError(f"{path} is locked: another change of the pool is under way; wait for its end") from error
    finally:
        os.close(descriptor)


def overlay_path(tree: Mapping[str, Any], environment: Mapping[str, str]) -> Path | None:
    """Return where a configuration's tree says that its overlay is; None where it says nothing usable."""
    place = config_file.at(tree, ("learning", "models", "overlay"))
    if not isinstance(place, str) or not place:
        return None
    problems: dict[config_file.Path, str] = {}
    found = config_file.substitute(place, environment, problems)
    return None if problems else Path(found)


def _is_list(value: Any, kind: type) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(one, kind) for one in value)
