"""A user's route in words, and what can be wrong with a list of them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmrouter.exceptions import ConfigError
from llmrouter.types import OTHER_ROUTE

Place = tuple[int | str, ...]
"""Where in a list of routes something is wrong: position, key, position in the value; () is the list itself."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
MOST_ROUTES = 100


@dataclass(frozen=True, slots=True)
class Route:
    """One route: what belongs on it, and who answers there.

    Attributes
    ----------
    name : str
        Short and unique; logs, headers and a picking model say it.
    description : str
        What belongs on the route, in a sentence.
    examples : tuple of str
        Utterances that belong there.
    models : tuple of str
        Pool names in order of preference; with a `policy` the subset that it chooses from, () being the whole pool.
    only : bool
        Whether nobody but `models` may answer; else the others come after them.
    policy : mapping or None
        The policy that chooses among the models, as `llmrouter.policy.policy_from_config` takes it; None keeps the
        order of `models`.
    """

    name: str
    description: str
    examples: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    only: bool = False
    policy: Mapping[str, Any] | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """What stands for the route where texts are compared: name and description, then the examples."""
        return (f"{re.sub(r'[_.-]+', ' ', self.name)}: {self.description}", *self.examples)


def check_routes(routes: Sequence[Route], models: Collection[str]) -> dict[Place, str]:
    """Return what is wrong with routes over a pool: place -> what, with the value and the remedy; empty if nothing.

    Parameters
    ----------
    routes : sequence of Route
        In the order of the configuration.
    models : collection of str
        Pool names that can be routed to.
    """
    problems: dict[Place, str] = {}
    if not routes:
        problems[()] = "is empty; write at least one route (name, description, models), or leave the key out"
    elif len(routes) > MOST_ROUTES:
        problems[()] = f"holds {len(routes)} routes; at most {MOST_ROUTES} can be told apart in one prompt: merge some"
    names: dict[str, int] = {}
    for i, route in enumerate(routes):
        problems |= dict(_check_name(i, route.name, names))
        if not route.description.strip():
            problems[i, "description"] = (
                f"is required and empty; got {route.description!r}: say in a sentence what belongs on the route, "
                "it is all that the chooser goes by"
            )
        problems |= dict(_check_models(i, route, models))
    problems |= dict(_check_examples(routes))
    return problems


def checked_routes(routes: Sequence[Route], models: Collection[str]) -> tuple[Route, ...]:
    """Return the routes where nothing is wrong with them; see `check_routes`.

    Raises
    ------
    ConfigError
        That lists all that is wrong.
    """
    problems = check_routes(routes, models)
    if problems:
        raise ConfigError("; ".join(f"{place_text(place)} {message}" for place, message in problems.items()))
    return tuple(routes)


def place_text(place: Place) -> str:
    """Return a place as ``routes[0].models[1]``."""
    return "routes" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)


def _check_name(i: int, name: str, seen: dict[str, int]) -> Iterator[tuple[Place, str]]:
    place = (i, "name")
    if not NAME.fullmatch(name):
        yield (
            place,
            (
                "is required: a letter or digit, then up to 63 letters, digits and . _ -; "
                f"got {name!r}: write e.g. code_review"
            ),
        )
    elif name == OTHER_ROUTE:
        yield place, f"{name!r} is what is on none of the routes, and goes to `policy`; take another name"
    elif name in seen:
        yield (
            place,
            f"{name!r} is the name of routes[{seen[name]}] already; names are unique: rename or merge them",
        )
    seen.setdefault(name, i)


def _check_models(i: int, route: Route, models: Collection[str]) -> Iterator[tuple[Place, str]]:
    if not route.models and route.policy is None:
        yield (
            (i, "models"),
            f"is required and empty; name pool models in order of preference ({', '.join(models)}), or give a policy",
        )
    if route.only and not route.models:
        yield (i, "only"), "true needs models to keep to; name them, or leave it out"
    for j, name in enumerate(route.models):
        if name not in models:
            close = difflib.get_close_matches(name, list(models), n=1, cutoff=0.6)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            yield (i, "models", j), f"{name!r} is no model of the pool that answers chats: {', '.join(models)}{hint}"
        elif name in route.models[:j]:
            yield (i, "models", j), f"{name!r} is there twice; leave one out"


def _check_examples(routes: Sequence[Route]) -> Iterator[tuple[Place, str]]:
    seen: dict[str, tuple[int, int]] = {}
    for i, route in enumerate(routes):
        for j, example in enumerate(route.examples):
            text = " ".join(example.split())
            if not text:
                yield (i, "examples", j), f"is empty; got {example!r}: write an utterance, or leave it out"
            elif text in seen and seen[text][0] != i:
                first = seen[text]
                place = f"routes[{first[0]}].examples[{first[1]}]"
                yield (i, "examples", j), f"{text[:60]!r} is {place} already, of another route; keep one of them"
            seen.setdefault(text, (i, j))
