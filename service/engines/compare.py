"""A pool entry beside what answers at its address."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.engines.look import Found
    from service.settings import ModelSettings

_MOST_NAMES = 8


def notes_on(model: ModelSettings, found: Found, *, wanted: str | None = None) -> Iterator[str]:
    """Yield what is amiss, or could be better, in an entry whose address answers so; each note says what to do.

    Parameters
    ----------
    model : ModelSettings
        The entry.
    found : Found
        What answers.
    wanted : str, optional
        The upstream's name of the model; by default that of the entry.
    """
    name = wanted or model.model or model.name
    if found.serves(name) is False:
        yield _not_served(name, found)
    window = found.context_window(name)
    if window is not None and model.context_window is None:
        yield f"the engine takes {window} tokens; write context_window: {window}, so that longer prompts go elsewhere"
    elif window is not None and model.context_window is not None and model.context_window > window:
        yield (
            f"context_window is {model.context_window}, and the engine takes {window} tokens: it will refuse what the "
            f"router thinks it can take; write context_window: {window}"
        )
    if model.load is not None and model.load.url is None and not found.reports_load:
        yield "load is on, and this engine reports none (service.moe does): the configured price holds; leave load out"


def _not_served(name: str, found: Found) -> str:
    names = [repr(model.name) for model in found.models or ()]
    listed = ", ".join(names[:_MOST_NAMES]) + (f" and {len(names) - _MOST_NAMES} more" if names[_MOST_NAMES:] else "")
    if found.kind is not None and found.kind.any_name:
        return (
            f"{found.kind.name} serves {listed or 'nothing'} and answers under any name: what is called {name!r} here "
            "is that model"
        )
    return f"the model {name!r} is not served; served: {listed or 'nothing'}; write one of these as `model`"
