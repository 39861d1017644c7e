"""Which logged outcomes stand behind a decision, whose they are, and what it would be without one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llmrouter.exceptions import DataError
from llmrouter.learning._judged import Judgements, judgements
from llmrouter.learning._trust import TrustReport
from llmrouter.types import FloatArray, Outcome, is_missing

NEIGHBOURS = 100
SHRINKAGE = 5.0
_SHOWN = 10


@dataclass(frozen=True)
class NearOutcome:
    """One outcome near the audited prompt.

    Attributes
    ----------
    request_id, model, source : str
        Which; who answered; whose judgement.
    similarity : float
        Cosine.
    quality, weight : float
        The judgement; its weight after the defences.
    reason : str
        Why it has that weight, see `TrustReport`.
    influence : float
        Share of the model's estimate that is due to it.
    """

    request_id: str
    model: str
    source: str
    similarity: float
    quality: float
    weight: float
    reason: str
    influence: float


@dataclass(frozen=True)
class ModelAudit:
    """What the neighbourhood says of one model.

    Attributes
    ----------
    model : str
        Its name.
    estimate : float
        Weighted mean of the nearest outcomes, shrunk towards the model's mean over the log by five outcomes.
    prior : float
        That mean.
    outcomes : int
        Of the neighbourhood, those that have weight.
    influence : mapping of str to float
        Source -> its share of the estimate; the rest is the prior's.
    """

    model: str
    estimate: float
    prior: float
    outcomes: int
    influence: dict[str, float]


@dataclass(frozen=True)
class SourceEffect:
    """What the neighbourhood would choose without one source: `model`, and whether that is another."""

    source: str
    influence: float
    model: str
    changes: bool


@dataclass(frozen=True)
class Audit:
    """Why the log around a prompt speaks for a model.

    Attributes
    ----------
    choice : str
        The model of highest utility by the neighbourhood's estimates.
    models : tuple of ModelAudit
        Estimates, best first.
    nearest : tuple of NearOutcome
        The outcomes of most influence.
    without : tuple of SourceEffect
        One for each source with influence, largest first.
    decided : str
        What the router itself chose, "" if it was not asked. A router other than kNN reads more than the
        neighbourhood, so the two may differ.
    """

    choice: str
    models: tuple[ModelAudit, ...]
    nearest: tuple[NearOutcome, ...]
    without: tuple[SourceEffect, ...]
    decided: str = ""

    @property
    def decisive(self) -> tuple[str, ...]:
        """Sources without which the neighbourhood would choose another model."""
        return tuple(effect.source for effect in self.without if effect.changes)

    def document(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**asdict(self), "decisive": list(self.decisive)}


def audit(
    embedding: FloatArray,
    outcomes: Sequence[Outcome],
    X: FloatArray,
    report: TrustReport,
    *,
    penalty: dict[str, float] | None = None,
    decided: str = "",
    neighbours: int = NEIGHBOURS,
) -> Audit:
    """Say which outcomes drive the choice for one prompt.

    The choice is taken apart with a local estimator that allows it exactly: for each model the weighted mean of its
    outcomes among the `neighbours` nearest of the log, shrunk towards the model's mean by five outcomes (the kNN
    router as it is trained on a log). For other routers it is the evidence near the prompt, not their own arithmetic.

    Parameters
    ----------
    embedding : array of shape (d,)
        Of the prompt.
    outcomes : sequence of Outcome, length n
        The log; what nobody judged is left out.
    X : array of shape (n, d)
        Embeddings of their prompts.
    report : TrustReport
        Weights of the same outcomes (`trusted_weights`).
    penalty : mapping of str to float, optional
        Model -> what its cost takes from its utility; 0 by default.
    decided : str
        What the router chose.
    neighbours : int
        How many outcomes make up the neighbourhood.

    Raises
    ------
    DataError
        If shapes disagree, or no outcome was judged.
    """
    if len(X) != len(outcomes) or len(report.weight) != len(outcomes):
        raise DataError(
            f"{len(outcomes)} outcomes need as many embeddings and weights; got {len(X)}, {len(report.weight)}"
        )
    rows = np.array([i for i, outcome in enumerate(outcomes) if not is_missing(outcome.quality)], dtype=np.int64)
    if not rows.size:
        raise DataError("no outcome in the log was judged; give feedback, or configure verifiers")
    judged = judgements([outcomes[row] for row in rows], np.asarray(X, dtype=np.float32)[rows])
    models = sorted({outcomes[row].served_by or outcomes[row].model for row in rows})
    view = _View.of(judged, report.weight[rows], np.asarray(embedding, dtype=np.float32), neighbours, models)
    fee = np.array([(penalty or {}).get(model, 0.0) for model in models])
    estimates = view.estimates(None)
    choice = int((estimates - fee).argmax())
    shares = view.shares()
    by_source = {
        name: view.weight[view.source == code].sum() / max(view.weight.sum(), 1e-12)
        for code, name in enumerate(judged.names)
    }
    effects = []
    for code, name in enumerate(judged.names):
        if by_source[name] > 0:
            other = int((view.estimates(code) - fee).argmax())
            effects.append(SourceEffect(name, float(by_source[name]), models[other], other != choice))
    order = np.lexsort((np.arange(len(shares)), -view.similarity, -shares))[:_SHOWN]
    return Audit(
        choice=models[choice],
        models=tuple(
            ModelAudit(
                model=models[column],
                estimate=round(float(estimates[column]), 6),
                prior=round(float(view.prior[column]), 6),
                outcomes=int(((view.model == column) & (view.weight > 0)).sum()),
                influence={
                    name: round(float(share), 6)
                    for code, name in enumerate(judged.names)
                    if (share := shares[(view.model == column) & (view.source == code)].sum()) > 0
                },
            )
            for column in np.argsort(-(estimates - fee), kind="stable").tolist()
        ),
        nearest=tuple(
            NearOutcome(
                request_id=outcomes[rows[view.rows[i]]].request_id,
                model=models[view.model[i]],
                source=judged.names[view.source[i]],
                similarity=round(float(view.similarity[i]), 6),
                quality=float(view.quality[i]),
                weight=round(float(view.weight[i]), 6),
                reason=report.reason[rows[view.rows[i]]],
                influence=round(float(shares[i]), 6),
            )
            for i in order.tolist()
        ),
        without=tuple(sorted(effects, key=lambda effect: (-effect.influence, effect.source))),
        decided=decided,
    )


@dataclass(frozen=True)
class _View:
    """The k outcomes nearest to a prompt, and the m models' means over the whole log."""

    rows: FloatArray
    similarity: FloatArray
    model: FloatArray
    source: FloatArray
    quality: FloatArray
    weight: FloatArray
    prior: FloatArray
    whole: Judgements
    whole_weight: FloatArray

    @classmethod
    def of(
        cls, judged: Judgements, weight: FloatArray, embedding: FloatArray, neighbours: int, models: Sequence[str]
    ) -> _View:
        similarity = judged.X @ embedding
        # What counts for nothing takes no neighbour's place, as in training.
        near = np.lexsort((np.arange(len(judged)), -np.where(weight > 0, similarity, -np.inf)))[:neighbours]
        near = near[weight[near] > 0]
        return cls(
            rows=near,
            similarity=similarity[near],
            model=judged.model[near],
            source=judged.source[near],
            quality=judged.quality[near],
            weight=weight[near],
            prior=_means(judged, weight, len(models)),
            whole=judged,
            whole_weight=weight,
        )

    def estimates(self, without: int | None) -> FloatArray:
        """Return the estimate of each model, (m,), leaving out one source's outcomes."""
        weight, prior = self.weight, self.prior
        if without is not None:
            weight = np.where(self.source == without, 0.0, weight)
            prior = _means(self.whole, np.where(self.whole.source == without, 0.0, self.whole_weight), len(self.prior))
        total = np.bincount(self.model, weights=weight, minlength=len(prior))
        summed = np.bincount(self.model, weights=weight * self.quality, minlength=len(prior))
        return np.asarray((summed + SHRINKAGE * prior) / (total + SHRINKAGE))

    def shares(self) -> FloatArray:
        """Return each outcome's share of its model's estimate, (k,)."""
        total = np.bincount(self.model, weights=self.weight, minlength=len(self.prior))
        return np.asarray(self.weight / (total + SHRINKAGE)[self.model])


def _means(judged: Judgements, weight: FloatArray, models: int) -> FloatArray:
    """Return the weighted mean quality of each model, (m,); that of all where a model has no weight."""
    total = np.bincount(judged.model, weights=weight, minlength=models)
    summed = np.bincount(judged.model, weights=weight * judged.quality, minlength=models)
    overall = summed.sum() / total.sum() if total.sum() > 0 else 0.5
    return np.asarray(np.divide(summed, total, out=np.full(models, overall), where=total > 0))
