"""Settings of a pool entry whose engine reports its load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, model_validator

from service.section import Section


class LoadSettings(Section):
    """The engine reports its load, as ``python -m service.moe`` does; see [engines](engines.md).

    Attributes
    ----------
    url : str or None
        Where the report is; None is ``load`` below ``base_url``. ``api_key`` and ``headers`` are sent there only where
        it is on the same host and port as ``base_url``.
    model : str or None
        The model's ``id`` in the report; None is the upstream's name of the model.
    price : {"marginal", "average"}
        What an output token counts: ``marginal``, what the engine says that one more costs (of ours: its own part of a
        step and a share of the rest among the recent company, the whole step on a machine that idles); or ``average``,
        an equal share among those that run at the moment.
    every_s : float
        How often each worker reads it, give or take a fifth.
    timeout_s : float
        A reading that takes longer has failed; no request waits for one.
    stale_s : float
        A reading counts for that many seconds; then, until there is another one, the configured price and speed do.
    """

    url: Annotated[str, Field(pattern=r"^https?://[^\s/]")] | None = None
    model: str | None = None
    price: Literal["marginal", "average"] = "marginal"
    every_s: Annotated[float, Field(ge=0.1, le=3600)] = 2.0
    timeout_s: PositiveFloat = 1.0
    stale_s: PositiveFloat = 10.0

    @model_validator(mode="after")
    def _outlives_a_miss(self) -> LoadSettings:
        if self.stale_s < 2 * self.every_s:
            raise ValueError(
                f"stale_s is {self.stale_s:g} and must be at least twice every_s ({self.every_s:g}), so that one "
                "reading that fails changes nothing; raise stale_s or lower every_s"
            )
        if self.timeout_s >= self.stale_s:
            raise ValueError(
                f"timeout_s is {self.timeout_s:g} and must be below stale_s ({self.stale_s:g}), or a reading "
                "could be stale when it comes; lower timeout_s or raise stale_s"
            )
        return self


def _spelled_out(value: Any) -> Any:
    if isinstance(value, bool):
        return {} if value else None
    if value is not None and not isinstance(value, Mapping | LoadSettings):
        raise ValueError(f"must be true, false or a mapping such as {{every_s: 2}}; got {value!r:.80}")
    return value


LoadOption = Annotated[LoadSettings | None, BeforeValidator(_spelled_out)]
"""``true``, ``false`` or the settings."""


def check_load(entry: Mapping[str, Any]) -> str:
    """Return what is wrong between `load` and the other keys of a pool entry, as it was written; "" for nothing."""
    load = entry.get("load")
    if load is not True and not isinstance(load, Mapping):
        return ""
    if entry.get("deployments"):
        return (
            "reads one engine, and this entry has several deployments; make them pool entries of their own, or leave "
            "load out"
        )
    endpoints = entry.get("endpoints")
    if isinstance(endpoints, list | set | tuple | frozenset) and "chat" not in endpoints:
        return "is of use for models that are routed to, and this one answers no chats; leave load out"
    url = None if load is True else load.get("url")
    if not url and not entry.get("base_url"):
        return "needs an address: give base_url, or load.url"
    return ""
