"""Settings of the quality signals: verifiers, judge, what clients do next."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from service.section import Section

Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(gt=0, le=10)]
VerifierKind = Literal["exact", "numeric", "regex", "json_schema", "unit_tests"]

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class VerifySettings(Section):
    """Verifiers: how they run, and which ones a request may bring along.

    Attributes
    ----------
    requests : list of str
        Kinds that the body's ``llmrouter.verify`` may name; an empty list switches it off. ``unit_tests`` runs code
        that a model wrote, in a sandbox of namespaces; without one to be had the gateway does not start.
    weight : float
        Of a verdict that a request asked for.
    processes : int
        Verifiers run in that many processes; they are started when they are first needed.
    limit_s : float
        Seconds for one verdict; unit tests have a limit of their own.
    max_queue : int
        Answers that wait for a verdict (and as many for the judge); more are not judged.
    max_answer_bytes : int
        Longer answers are not judged.
    """

    requests: frozenset[VerifierKind] = frozenset({"exact", "numeric", "regex", "json_schema"})
    weight: Weight = 1.0
    processes: Annotated[int, Field(ge=1, le=64)] = 2
    limit_s: Annotated[float, Field(gt=0, le=60)] = 2.0
    max_queue: PositiveInt = 1000
    max_answer_bytes: PositiveInt = 4 * 1024 * 1024


class VerifierSettings(Section):
    """A verifier that judges answers of the gateway, whoever asked.

    Attributes
    ----------
    kind : str
        ``exact``, ``numeric``, ``regex``, ``json_schema``, ``unit_tests`` or a plug-in's.
    name : str or None
        Its source is ``verifier:NAME``; None is the kind.
    parameters : mapping
        Of the verifier. A ``json_schema`` without ``schema`` takes the one of the request's ``response_format``, and
        judges those that have one.
    weight : float
        Of its verdicts.
    share : float
        Of the answers that it judges, drawn by request id.
    teams : list of str
        Judge answers to these teams only; empty is all.
    """

    kind: str
    name: Annotated[str, Field(pattern=_NAME, max_length=64)] | None = None
    parameters: dict[str, Any] = Field(default={}, repr=False)
    weight: Weight = 1.0
    share: Share = 1.0
    teams: frozenset[str] = frozenset()


class JudgeSettings(Section):
    """A model of the pool that judges answers of the others. It reads prompts and answers.

    Its calls, and those of `against`, count for the limits of these models (``limits.models``) like anybody's; where
    they leave no room the answer is not judged.

    Attributes
    ----------
    model : str
        Pool name. Answers to keys that may not use this model are not shown to it.
    share : float
        Of the answers that it judges, drawn by request id.
    usd_per_day : float
        What it may cost in a day (UTC), all gateways on one Redis together.
    mode : {"pointwise", "pairwise"}
        A score for the answer, or the better of it and the answer of `against` to the same chat, asked in both orders.
    against : str or None
        Pool name of the other model for ``pairwise``; what it costs counts as the judge's.
    rubric : str or None
        What it is told to look at; None is correctness before all else.
    weight : float
        Of its verdicts.
    own : bool
        Whether it judges its own answers too.
    parameters : mapping
        Further fields of the chat that it is asked in, e.g. ``response_format``.
    concurrency : int
        Verdicts under way at the same time.
    timeout_s : float
        Seconds for one call.
    """

    model: str
    share: Share = 0.05
    usd_per_day: NonNegativeFloat = 1.0
    mode: Literal["pointwise", "pairwise"] = "pointwise"
    against: str | None = None
    rubric: Annotated[str, Field(min_length=1, max_length=20_000, pattern=r"\S")] | None = None
    weight: Weight = 0.5
    own: bool = False
    parameters: dict[str, Any] = Field(default={}, repr=False)
    concurrency: Annotated[int, Field(ge=1, le=64)] = 2
    timeout_s: PositiveFloat = 60.0


class ImplicitSettings(Section):
    """Guesses from what clients do; they count only while nobody has judged the answer.

    Attributes
    ----------
    enabled : bool
        Whether they are made.
    retry : bool
        The same chat, or the last question of a conversation, asked again counts against the answer before:
        ``implicit:retry``, quality 0.
    within_s : float
        Seconds after an answer in which asking again is a retry.
    after_s : float
        And not sooner than that many seconds: programs repeat at once, people read first.
    truncated : bool
        An answer that ended for its length counts against the model: ``implicit:truncated``, quality 0.3.
    own_limit_tokens : int
        Not where the client itself allowed fewer output tokens than that.
    errors : bool
        A request that no model answered counts against the chosen one: ``implicit:error``, quality 0. Off, because it
        says more of the upstream than of its answers.
    weight : float
        Of all of these.
    """

    enabled: bool = True
    retry: bool = True
    within_s: PositiveFloat = 300.0
    after_s: NonNegativeFloat = 2.0
    truncated: bool = True
    own_limit_tokens: PositiveInt = 1024
    errors: bool = False
    weight: Weight = 0.2
