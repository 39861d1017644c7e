"""Settings of this package."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, SecretStr, StringConstraints

from service.section import Section

FallbackClass = Literal[
    "rate_limit", "server_error", "timeout", "connection", "context_overflow", "content_filter", "locked_out"
]
"""See `llmrouter.pool.FailureClass`."""

Share = Annotated[float, Field(ge=0, le=1)]
Quantile = Annotated[str, StringConstraints(pattern=r"^p[1-9][0-9]$")]


class DeploymentSettings(Section):
    """One of several places where a model of the pool is served; what is left out is as the model's entry says.

    Attributes
    ----------
    name : str or None
        Told to clients in ``x-llmrouter-deployment``; None is its place in the list, from 1.
    backend : str or None
        ``openai``, ``litellm`` or ``scripted``.
    model : str or None
        This upstream's name of the model.
    base_url, api_key, headers
        Where and how to reach it.
    weight : float
        How much it can take, beside the others.
    options : mapping
        Further parameters of the backend.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$", max_length=64)] | None = None
    backend: str | None = None
    model: str | None = None
    base_url: Annotated[str, Field(pattern=r"^https?://[^\s/]")] | None = None
    api_key: SecretStr | None = None
    headers: dict[str, SecretStr] = {}
    weight: PositiveFloat = 1.0
    options: dict[str, Any] = Field(default={}, repr=False)


class RetryBudgetSettings(Section):
    """How many requests may be sent once more, to any model.

    Attributes
    ----------
    ratio : float
        Attempts beyond the first per request, at most.
    min_per_s : float
        That many a second are allowed however few requests there are.
    window_s : float
        Both are counted over that many seconds.
    """

    ratio: NonNegativeFloat = 0.2
    min_per_s: NonNegativeFloat = 10.0
    window_s: PositiveFloat = 10.0


class BreakerSettings(Section):
    """When a model (or a deployment of one) is left alone, and for how long.

    Attributes
    ----------
    after_failures : int
        Failures in a row.
    failure_share : float
        Or this share of failures among at least `min_calls` calls of the last `window_s` seconds.
    window_s : float
        Seconds.
    min_calls : int
        Calls.
    cool_s : float
        Seconds until one call tries the model again.
    rate_limited_s : float
        Seconds after a 429 without Retry-After.
    longest_s : float
        A Retry-After counts up to that many seconds.
    probe_s : float
        Seconds after which a trial that has not ended no longer holds up the next.
    """

    after_failures: PositiveInt = 3
    failure_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    window_s: PositiveFloat = 30.0
    min_calls: PositiveInt = 20
    cool_s: PositiveFloat = 10.0
    rate_limited_s: PositiveFloat = 5.0
    longest_s: PositiveFloat = 120.0
    probe_s: PositiveFloat = 30.0


class HedgeSettings(Section):
    """Asking a second model, or deployment, while the first is slower than usual. The slower one is cancelled.

    Attributes
    ----------
    enabled : bool
        Both calls may be billed, so this is off by default.
    after : str
        The wait, as a quantile of the model's own last 200 times to the first token (to the whole answer where it is
        not streamed): ``p95`` is slower than 95% of them. Nothing is hedged before 20 are known.
    min_wait_s : float
        Seconds; it never waits less.
    max_share : float
        Second attempts per request, at most.
    models : {"second", "replica"}
        Who is asked: the next model of the ranking, or another deployment of the same model.
    """

    enabled: bool = False
    after: Quantile = "p95"
    min_wait_s: NonNegativeFloat = 0.05
    max_share: Share = 0.05
    models: Literal["second", "replica"] = "second"

    @property
    def quantile(self) -> float:
        """`after` as a share."""
        return int(self.after[1:]) / 100


class ResilienceSettings(Section):
    """What happens when a model fails or is slow.

    Attributes
    ----------
    max_attempts : int
        Calls of models for one request, at most; those of several deployments of one model count as one.
    fallback_on : list of str
        After which failures the next model is asked: ``rate_limit`` (429), ``server_error`` (5xx), ``timeout``,
        ``connection``, ``context_overflow`` (only models with a larger window), ``content_filter`` and ``locked_out``
        (401 to 404: the pool's key or model name is wrong there).
    retries_same_model : int
        How often a model is asked again after a server error, timeout or broken connection before the next one is;
        not twice for the same kind of trouble.
    retry_budget, breaker, hedge
        See their classes.
    fallback_after_first_token : bool
        Whether another model may go on where a stream breaks off.
    """

    max_attempts: PositiveInt = 4
    fallback_on: frozenset[FallbackClass] = frozenset({
        "rate_limit", "server_error", "timeout", "connection", "context_overflow", "content_filter", "locked_out",
    })  # fmt: skip
    retries_same_model: NonNegativeInt = 0
    retry_budget: RetryBudgetSettings = RetryBudgetSettings()
    breaker: BreakerSettings = BreakerSettings()
    hedge: HedgeSettings = HedgeSettings()
    fallback_after_first_token: bool = False
