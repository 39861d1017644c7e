"""Who is limited: the gateway, a team, a key, a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from service.limits.settings import Limits, LimitsSettings

Kind = Literal["gateway", "team", "key", "model"]

_REMEMBERED = 10_000


class Subject:
    """Somebody with limits.

    Parameters
    ----------
    kind : {"gateway", "team", "key", "model"}
        What it is.
    id : str
        Its name.
    limits : Limits
        How much it may use.

    Attributes
    ----------
    name : str
        Unique among all subjects.
    limited : bool
        Whether anything is limited.
    """

    __slots__ = ("id", "kind", "limited", "limits", "name")

    def __init__(self, kind: Kind, id: str, limits: Limits) -> None:  # noqa: A002 - the admin interface's name
        self.kind = kind
        self.id = id
        self.limits = limits
        self.name = f"{kind}:{id}"
        self.limited = limits.limited

    def __repr__(self) -> str:
        return f"Subject({self.kind!r}, {self.id!r}, {self.limits!r})"


class Subjects:
    """Find the subjects that a request counts for; only those that are limited.

    Parameters
    ----------
    settings : LimitsSettings
        The configuration.
    """

    def __init__(self, settings: LimitsSettings) -> None:
        self._default = settings.key_default
        self._gateway = _only_limited(Subject("gateway", "gateway", settings.gateway))
        self._teams: Mapping[str, tuple[Subject, ...]] = {
            name: _only_limited(Subject("team", name, limits)) for name, limits in settings.teams.items()
        }
        self._models: Mapping[str, tuple[Subject, ...]] = {
            name: _only_limited(Subject("model", name, limits)) for name, limits in settings.models.items()
        }
        self._found: dict[tuple[str | None, str | None], tuple[Limits | None, tuple[Subject, ...]]] = {}

    def of_request(
        self, key_id: str | None = None, *, team: str | None = None, limits: Limits | None = None
    ) -> tuple[Subject, ...]:
        """Return whom a request counts for: key, team and gateway.

        Parameters
        ----------
        key_id : str, optional
            The key; None where there are no keys.
        team : str, optional
            Its team.
        limits : Limits, optional
            Its own limits.
        """
        known = self._found.get((key_id, team))
        if known is not None and known[0] is limits:
            return known[1]
        key: tuple[Subject, ...] = ()
        if key_id is not None:
            own = self._default if limits is None else limits.over(self._default)
            key = _only_limited(Subject("key", key_id, own))
        found = (*key, *self._teams.get(team or "", ()), *self._gateway)
        if len(self._found) >= _REMEMBERED:
            self._found.clear()
        self._found[key_id, team] = (limits, found)
        return found

    def of_model(self, name: str) -> tuple[Subject, ...]:
        """Return the model as a subject, or nothing where it is not limited."""
        return self._models.get(name, ())

    def configured(self) -> tuple[Subject, ...]:
        """Return all that the configuration limits."""
        groups = (*self._teams.values(), *self._models.values(), self._gateway)
        return tuple(subject for group in groups for subject in group)


def _only_limited(subject: Subject) -> tuple[Subject, ...]:
    return (subject,) if subject.limited else ()
