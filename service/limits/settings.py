"""Sections ``limits`` and ``redis`` of the configuration."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, SecretStr, field_validator

from service.section import Section

BudgetPeriod = Literal["day", "week", "month", "total"]

_SCHEMES = ("redis", "rediss", "unix")
_REDIS_PORT = 6379


class Limits(Section):
    """How much one key, team or model may use; what is left out is not limited.

    Attributes
    ----------
    rpm : int or None
        Requests per minute.
    tpm : int or None
        Tokens per minute, prompt and answer.
    concurrency : int or None
        Requests at the same time.
    budget_usd : float or None
        US dollars per `budget_period`.
    budget_period : {"day", "week", "month", "total"}
        Calendar periods in UTC; weeks begin on Monday.
    """

    rpm: PositiveInt | None = None
    tpm: PositiveInt | None = None
    concurrency: PositiveInt | None = None
    budget_usd: NonNegativeFloat | None = None
    budget_period: BudgetPeriod = "month"

    @property
    def limited(self) -> bool:
        """Whether anything is limited."""
        return any(value is not None for value in (self.rpm, self.tpm, self.concurrency, self.budget_usd))

    def over(self, default: Limits) -> Limits:
        """Return these limits, with those of `default` where they say nothing."""
        budget = self if self.budget_usd is not None else default
        return Limits(
            rpm=self.rpm if self.rpm is not None else default.rpm,
            tpm=self.tpm if self.tpm is not None else default.tpm,
            concurrency=self.concurrency if self.concurrency is not None else default.concurrency,
            budget_usd=budget.budget_usd,
            budget_period=budget.budget_period,
        )


class AdmissionSettings(Section):
    """How many requests one process works on.

    Attributes
    ----------
    max_in_flight : int
        More wait in a queue.
    max_queue : int
        More are refused with 503.
    queue_timeout_s : float
        A request that has waited that many seconds is refused with 503.
    """

    max_in_flight: PositiveInt = 1000
    max_queue: Annotated[int, Field(ge=0)] = 1000
    queue_timeout_s: PositiveFloat = 5.0


class LimitsSettings(Section):
    """Limits and budgets.

    Attributes
    ----------
    gateway : Limits
        Of everything together.
    key_default : Limits
        Of every key, where the key itself says nothing else.
    teams : mapping of str to Limits
        By the team's name.
    models : mapping of str to Limits
        By the pool name.
    admission : AdmissionSettings
        How many requests one process works on.
    state : str
        Where a gateway without Redis keeps what was spent: ``sqlite:///FILE`` or ``memory://``, which forgets on
        restart. The file is opened when the first budget is used, and belongs to one process.
    """

    gateway: Limits = Limits()
    key_default: Limits = Limits()
    teams: dict[str, Limits] = {}
    models: dict[str, Limits] = {}
    admission: AdmissionSettings = AdmissionSettings()
    state: Annotated[str, Field(pattern=r"^(sqlite:///.+|memory://)$")] = "sqlite:///limits.db"

    @property
    def limited(self) -> bool:
        """Whether anything is limited by the configuration; keys may have limits of their own."""
        return any(limits.limited for limits in self.all_limits())

    @property
    def budgeted(self) -> bool:
        """Whether there is a budget in the configuration."""
        return any(limits.budget_usd is not None for limits in self.all_limits())

    def all_limits(self) -> tuple[Limits, ...]:
        """Return all that the configuration says."""
        return (self.gateway, self.key_default, *self.teams.values(), *self.models.values())


class RedisSettings(Section):
    """The Redis that replicas share.

    Attributes
    ----------
    url : str
        ``redis://``, ``rediss://`` (TLS) or ``unix://``, with user, password and database where needed.
    timeout_s : float
        A request waits at most that many seconds for Redis, then goes on without.
    prefix : str
        Of every key.
    replicas : int or None
        Among how many gateways limits are divided while Redis is gone; None counts those seen last.
    """

    url: SecretStr
    timeout_s: Annotated[float, Field(gt=0, le=10)] = 0.05
    prefix: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._:{}-]+$")] = "llmrouter"
    replicas: PositiveInt | None = None

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: SecretStr) -> SecretStr:
        try:
            parts = urlsplit(value.get_secret_value())
            usable = parts.scheme in _SCHEMES and (parts.path if parts.scheme == "unix" else parts.hostname)
            _ = parts.port
        except ValueError:
            usable = False
        if not usable:
            raise ValueError(
                "must be redis://HOST:PORT/DATABASE, rediss://HOST:PORT/DATABASE or unix:///PATH/TO/SOCKET"
            )
        return value

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port, None for a Unix socket."""
        parts = urlsplit(self.url.get_secret_value())
        return None if parts.scheme == "unix" else (parts.hostname or "", parts.port or _REDIS_PORT)
