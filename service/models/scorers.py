"""The scorer of a profile, by its name on the command line or in a request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmrouter.exceptions import ConfigError

if TYPE_CHECKING:
    from llmrouter.learning import References, Scorer
    from service.settings import Settings

REFERENCE, JUDGE = "reference", "judge"


def make_scorer(
    spec: str, settings: Settings, *, references: References | None = None, functions: bool = True
) -> Scorer:
    """Return the scorer.

    Parameters
    ----------
    spec : str
        ``reference``, ``judge:MODEL`` or, if `functions`, ``package.module:function``.
    settings : Settings
        For the judge's model.
    references : References, optional
        Right answers; `reference` cannot do without.
    functions : bool
        Whether code may be named: not over HTTP.

    Raises
    ------
    ConfigError
        If there is no such scorer, or it lacks what it needs.
    """
    from llmrouter.learning import FunctionScorer, ReferenceScorer

    kind, _, rest = spec.partition(":")
    if spec == REFERENCE:
        if not references:
            raise ConfigError(
                "there are no right answers to score by; give --references FILE or --data with a column `expected`, or "
                "choose a scorer: judge:MODEL, package.module:function",
                path="scorer",
            )
        return ReferenceScorer()
    if kind == JUDGE and rest:
        return _judge(rest, settings)
    if functions and rest:
        return FunctionScorer.of(spec)
    known = "reference, judge:MODEL" + (", package.module:function" if functions else "")
    raise ConfigError(f"unknown scorer {spec!r}; one of {known}", path="scorer")


def _judge(name: str, settings: Settings) -> Scorer:
    from llmrouter.learning import JudgeScorer, LLMJudge
    from llmrouter.pool import HTTPSessions
    from service.models.upstream import backend_of

    known = {model.name: model for model in settings.pool if model.generates}
    if name not in known:
        raise ConfigError(f"the judge {name!r} is none of {', '.join(known)}", path="scorer")
    model = known[name]
    backend = backend_of(settings, model, HTTPSessions())
    return JudgeScorer(LLMJudge(backend, name=name, price=model.price.price, timeouts=model.timeouts.timeouts()))
