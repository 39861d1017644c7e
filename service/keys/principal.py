"""Who asks, and what they may."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.limits.settings import Limits

INFERENCE = "inference"
ROUTE = "route"
FEEDBACK = "feedback"
OUTCOMES = "outcomes"
METRICS = "metrics"
ADMIN = "admin"
TRUSTED_FEEDBACK = "feedback:trusted"

SCOPES = (INFERENCE, ROUTE, FEEDBACK, OUTCOMES, METRICS, TRUSTED_FEEDBACK, ADMIN)
"""What a key may be for; `ADMIN` implies all others."""

DEFAULT_SCOPES = (INFERENCE, ROUTE, FEEDBACK, OUTCOMES)
"""What a new key is for."""


PROMPTS = ("text", "hash", "embedding", "none")
"""What the log may keep of a key's prompts; see `LogSettings.prompts`."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks.

    Attributes
    ----------
    key_id : str or None
        Id of the key; None without one.
    name : str
        Of the key.
    team : str or None
        Whose limits apply too.
    scopes : frozenset of str
        Out of `SCOPES`.
    models : tuple of str or None
        Pool names that it may use, ``*`` standing for any characters; None is all.
    limits : Limits or None
        Of the key; None sets none of its own.
    reads_all : bool
        Whether it may read outcomes of others.
    explore : bool
        Whether chance may choose models for it, where that is configured (`learning.explore`).
    prompts : str or None
        What the log keeps of its prompts, out of `PROMPTS`; None is what `log.prompts` says.
    """

    key_id: str | None
    name: str
    team: str | None = None
    scopes: frozenset[str] = frozenset(DEFAULT_SCOPES)
    models: tuple[str, ...] | None = None
    limits: Limits | None = None
    reads_all: bool = False
    explore: bool = True
    prompts: str | None = None
    _exact: frozenset[str] = field(init=False, repr=False, compare=False)
    _pattern: re.Pattern[str] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Prepare the tests that every request makes."""
        if ADMIN in self.scopes:
            object.__setattr__(self, "scopes", frozenset(SCOPES))
            object.__setattr__(self, "reads_all", True)
        models = self.models or ()
        patterns = [re.escape(model).replace(r"\*", ".*") for model in models if "*" in model]
        object.__setattr__(self, "_exact", frozenset(models))
        object.__setattr__(self, "_pattern", re.compile("|".join(patterns), re.DOTALL) if patterns else None)

    def __hash__(self) -> int:
        """Return a hash of what tells principals apart: they are looked up on every request."""
        return hash((self.key_id, self.name))

    @property
    def is_admin(self) -> bool:
        """Whether it may administer keys."""
        return ADMIN in self.scopes

    @property
    def hides_text(self) -> bool:
        """Whether no log may hold the text of its prompts."""
        return self.prompts not in (None, "text")

    def may(self, scope: str) -> bool:
        """Return whether it has a scope."""
        return scope in self.scopes

    def allows(self, model: str) -> bool:
        """Return whether it may use the model of the pool with this name."""
        if self.models is None or model in self._exact:
            return True
        return self._pattern is not None and self._pattern.fullmatch(model) is not None

    def allowed(self, pool: Iterable[str]) -> tuple[str, ...] | None:
        """Return the models of `pool` that it may use, in their order; None where it may use all, whatever there is."""
        return None if self.models is None else tuple(name for name in pool if self.allows(name))

    def owns(self, key_id: str | None) -> bool:
        """Return whether it may read an outcome that was recorded for `key_id`."""
        return self.reads_all or self.key_id == key_id

    def may_judge(self, key_id: str | None, team: str | None) -> bool:
        """Return whether it may judge the answer to a request that was made with this key, of this team."""
        return self.owns(key_id) or (team is not None and self.team == team)


ANONYMOUS = Principal(None, "anonymous", scopes=frozenset(SCOPES) - {ADMIN, TRUSTED_FEEDBACK}, reads_all=True)
"""Who asks where ``auth`` is off: anybody who reaches the gateway may all that needs no key."""

GUEST = Principal(None, "guest")
"""Who asks without a key where keys are on and not required."""
