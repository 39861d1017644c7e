"""The keys ``routes``, ``routes_file`` and ``chooser`` of the section ``router``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt

from llmrouter.routes import CLASSIFIER_THRESHOLD, THRESHOLD, WINDOW_TOKENS, Route
from service.section import Section


class RoutePolicySettings(Section):
    """The policy of a route: one of the [policies](policies.md), and its parameters.

    Attributes
    ----------
    kind : str
        The policy's name; every other key is a parameter of it.
    """

    model_config = ConfigDict(extra="allow", frozen=True, hide_input_in_errors=True)

    kind: str = "utility"


class RouteSettings(Section):
    """A route in words, see [routes](routes.md).

    Attributes
    ----------
    name : str
        Short and unique.
    description : str
        What belongs on it, in a sentence.
    examples : tuple of str
        Utterances that belong on it.
    models : tuple of str
        Pool names in order of preference; with a `policy` those that it chooses among, none being the whole pool.
    only : bool
        Nobody but `models` answers on it; else the others are tried after them.
    policy : RoutePolicySettings or None
        Chooses among `models`, in place of their order.
    """

    name: str = ""
    description: str = ""
    examples: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    only: bool = False
    policy: RoutePolicySettings | None = None

    @property
    def route(self) -> Route:
        """The route as the library takes it."""
        policy = None if self.policy is None else {"kind": self.policy.kind, **(self.policy.model_extra or {})}
        return Route(self.name, self.description, self.examples, self.models, self.only, policy)


class ChooserSettings(Section):
    """Who picks the route of a request.

    Attributes
    ----------
    kind : {"embedding", "classifier", "model"}
        The route whose words are most similar; a classifier trained from examples; or a model of the pool.
    threshold : float or None
        Of similarity or probability: below it a request is on no route. None is 0.15 for ``embedding`` and 0.3 for
        ``classifier``.
    encoder : str or None
        Of ``embedding`` and ``classifier``: ``static``, ``minilm``, a hub id or a path; None is ``router.encoder``,
        or ``static``.
    turns : int
        Of these two: messages of the user that count, each half as much as the one after it.
    examples_file : Path or None
        Of ``classifier``: labelled utterances beside the routes' examples, one ``{"text": ..., "route": ...}`` a line;
        the route ``other`` is what is on none.
    model : str or None
        Of ``model``: its pool name.
    answers : bool
        Whether that model may answer requests, too; false leaves it out of all routing.
    timeout_s : float
        A request waits no longer for it than that, and is on no route then.
    window : int
        Estimated tokens of the conversation that it is shown, the newest; less where its context window is smaller.
    instructions : str or None
        What it is told to do, in place of the usual.
    parameters : mapping
        Further fields of what it is asked; null takes one away, e.g. ``{temperature: null}``.
    cache : int
        Its picks that each worker remembers; 0 is none.
    """

    kind: Literal["embedding", "classifier", "model"] = "embedding"
    threshold: Annotated[float, Field(ge=-1, le=1)] | None = None
    encoder: str | None = None
    turns: PositiveInt = 3
    examples_file: Path | None = None
    model: str | None = None
    answers: bool = True
    timeout_s: PositiveFloat = 2.0
    window: Annotated[int, Field(ge=64)] = WINDOW_TOKENS
    instructions: Annotated[str, Field(min_length=1)] | None = None
    parameters: dict[str, Any] = {}
    cache: NonNegativeInt = 10_000

    @property
    def least(self) -> float:
        """The threshold in force."""
        if self.threshold is not None:
            return self.threshold
        return CLASSIFIER_THRESHOLD if self.kind == "classifier" else THRESHOLD

    def misplaced(self) -> Iterator[tuple[str, str]]:
        """Yield keys that mean nothing for the kind, and what to do about them."""
        for kinds, keys in _KEYS_OF.items():
            if self.kind not in kinds:
                changed = [key for key in sorted(keys) if getattr(self, key) != type(self).model_fields[key].default]
                for key in changed:
                    yield key, f"is a key of kind: {' or '.join(kinds)}, and kind is {self.kind}; leave one of them out"


_KEYS_OF: dict[tuple[str, ...], frozenset[str]] = {
    ("embedding", "classifier"): frozenset({"threshold", "encoder", "turns"}),
    ("classifier",): frozenset({"examples_file"}),
    ("model",): frozenset({"model", "answers", "timeout_s", "window", "instructions", "parameters", "cache"}),
}
