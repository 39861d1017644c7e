"""Settings of how far judgements are believed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from service.section import Section

if TYPE_CHECKING:
    from llmrouter.learning import TrustSettings as Limits

_Share = Annotated[float, Field(gt=0, le=1)]


class TrustSettings(Section):
    """What one key, or all new keys together, can make the router believe: for training from the log, and the audit.

    Attributes
    ----------
    source_share : float
        Largest share of the weight around an outcome that one key may hold; where few keys are established, one part in
        as many.
    concentration : float
        How many times its share of the log a key may hold around an outcome.
    overall_share : float
        The same over the whole log.
    new_share : float
        Largest share that all new keys together may hold around an outcome; 0 leaves them out.
    min_sources : int
        Established keys, others than its own, that an outcome needs within reach to count in full; half of the log's
        keys where it has few.
    lone_weight : float
        Weight, in prompts, of all that lies around an outcome which has fewer.
    min_age_days : float
        A key is new until its first outcome is that old,
    min_outcomes : int
        and it gave that many judged ones.
    neighbours : int
        Outcomes of established others that make up a neighbourhood.
    disagreement : float
        Standard errors by which a key may differ from the others nearby before it loses weight.
    bias : float
        Mean difference from the others that a key may have on one model; one with more counts as new for that model.
    max_weight : float
        Largest weight of one judged outcome, whatever its judgements claim.
    trusted : list of str
        Key ids that are never limited: your own applications.
    """

    source_share: _Share = 0.15
    concentration: PositiveFloat = 2.0
    overall_share: _Share = 0.5
    new_share: Annotated[float, Field(ge=0, lt=1)] = 0.02
    min_sources: NonNegativeInt = 5
    lone_weight: NonNegativeFloat = 0.5
    min_age_days: NonNegativeFloat = 7.0
    min_outcomes: NonNegativeInt = 20
    neighbours: PositiveInt = 10
    disagreement: PositiveFloat = 2.5
    bias: NonNegativeFloat = 0.1
    max_weight: PositiveFloat = 2.0
    trusted: tuple[str, ...] = ()

    def limits(self) -> Limits:
        """Return them as `llmrouter.learning.trusted_weights` takes them."""
        from llmrouter.learning import TrustSettings as Limits

        return Limits(**self.model_dump())
