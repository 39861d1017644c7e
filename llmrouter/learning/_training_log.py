"""The gateway's log as training and the gate read it: a table of requests, embeddings, and all propensities."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from llmrouter.encoders import Encoder
from llmrouter.evaluation import LoggedDecisions
from llmrouter.exceptions import DataError
from llmrouter.outcomes import OutcomeTable, store_to_table
from llmrouter.types import FloatArray, IntArray, Outcome, Price, RoutingRequest, estimate_tokens, is_missing

PINNED = "pinned"
"""Policy of requests whose model the client named: nobody drew it."""
_KNOWN_SUM = 1e-3


@dataclass(frozen=True)
class TrainingLog:
    """n logged requests and m models, oldest first.

    Attributes
    ----------
    table : OutcomeTable
        One row a request; the model that answered is observed.
    X : array of shape (n, d)
        Embeddings.
    time : array of shape (n,)
        Seconds since the epoch.
    outcomes : tuple of Outcome, length n
        As logged.
    propensities : array of shape (n, m)
        Probability with which the policy chose each model; NaN rows where the log does not say.
    fingerprint : str
        Of the encoder.
    """

    table: OutcomeTable
    X: FloatArray
    time: FloatArray
    outcomes: tuple[Outcome, ...]
    propensities: FloatArray
    fingerprint: str = ""

    @classmethod
    def of(
        cls,
        outcomes: Iterable[Outcome],
        encoder: Encoder,
        *,
        models: Sequence[str] | None = None,
        prices: Mapping[str, Price] | None = None,
        since: float = -math.inf,
        until: float = math.inf,
        encode: Callable[[Sequence[str]], FloatArray] | None = None,
        name: str = "log",
    ) -> TrainingLog:
        """Read outcomes.

        Left out: answers of our own cache, failures that nobody judged, and requests of which neither text nor
        embedding was kept.

        Parameters
        ----------
        outcomes : iterable of Outcome
            E.g. ``store.scan()``.
        encoder : Encoder
            That of the router.
        models : sequence of str, optional
            The columns; outcomes of other models are left out. By default all that were served or considered.
        prices : mapping of model name to Price, optional
            List prices.
        since, until : float
            Take ``since <= time < until``, in seconds since the epoch.
        encode : callable, optional
            Texts -> array (texts, d), in place of ``encoder.encode``, e.g. with a cache.
        name : str
            Of the table.

        Raises
        ------
        DataError
            If nothing is left, a request comes twice, or the embeddings are of another encoder.
        """
        taken = [
            outcome
            for outcome in outcomes
            if since <= outcome.time < until
            and not outcome.cache
            and (outcome.prompt is not None or outcome.embedding is not None)
        ]
        kept = sorted((o for o in taken if _says_something(o)), key=lambda outcome: outcome.time)
        columns = tuple(_columns(kept) if models is None else models)
        kept = [outcome for outcome in kept if _served(outcome) in columns]
        if not kept:
            raise DataError(
                f"{name} holds no outcome to learn from between {_when(since)} and {_when(until)}: each needs an "
                "answer, and its prompt kept as text or embedding (log.prompts)"
            )
        table = store_to_table(kept, models=columns, prices=prices, since=-math.inf, name=name)
        X = np.asarray(table.encoded(encoder.dimension, encode or encoder.encode), dtype=np.float32)
        drawn = np.array([_served(o) == o.model and o.policy != PINNED for o in kept], dtype=bool)
        table = replace(table, propensity=np.where(drawn[:, None], table.propensity, np.nan))
        times = np.array([outcome.time for outcome in kept])
        return cls(table, X, times, tuple(kept), _propensities(kept, columns, drawn), encoder.fingerprint)

    def __len__(self) -> int:
        """Return the number of requests n."""
        return len(self.table)

    @property
    def models(self) -> tuple[str, ...]:
        """The columns."""
        return self.table.models

    @property
    def judged(self) -> npt.NDArray[np.bool_]:
        """Whether the answer was judged, shape (n,)."""
        return np.asarray(self.table.observed.any(axis=1), dtype=bool)

    @property
    def served(self) -> IntArray:
        """Column of the model that answered, shape (n,)."""
        column = {model: number for number, model in enumerate(self.models)}
        return np.array([column[_served(outcome)] for outcome in self.outcomes], dtype=np.int64)

    @property
    def span(self) -> tuple[float, float]:
        """Time of the first and the last request."""
        return float(self.time[0]), float(self.time[-1])

    def select(self, rows: npt.NDArray[np.bool_] | IntArray) -> TrainingLog:
        """Return some requests, given as increasing row numbers or as a mask of length n."""
        index = np.asarray(rows)
        index = np.flatnonzero(index) if index.dtype == bool else index
        return TrainingLog(
            self.table.select(index),
            self.X[index],
            self.time[index],
            tuple(self.outcomes[row] for row in index.tolist()),
            self.propensities[index],
            self.fingerprint,
        )

    def split(self, share: float) -> tuple[TrainingLog, TrainingLog]:
        """Return the log until and from the moment after which `share` of the judged requests came.

        Requests of the same moment stay together.
        """
        moments = self.time[self.judged]
        if not 0 < share < 1 or len(moments) < 2:
            raise DataError(
                f"cannot set {share:g} of {len(moments)} judged requests apart; give a share within (0, 1), and a log "
                "with judged answers (POST /v1/feedback, verifiers, a judge)"
            )
        moment = float(np.sort(moments)[math.floor(len(moments) * (1 - share))])
        late = self.time >= moment
        if late.all():
            raise DataError("all judged requests came at the same moment; there is no later part to evaluate on")
        return self.select(~late), self.select(late)

    def quality(self) -> FloatArray:
        """Return the judgements, shape (n,); NaN where there is none."""
        return _of_served(self.table.quality, self.served)

    def cost(self) -> FloatArray:
        """Return what the answers cost in US dollars, shape (n,): what was expected where the log does not say."""
        paid = _of_served(self.table.cost_usd, self.served)
        expected = np.array([o.candidates.get(_served(o), {}).get("cost_usd", np.nan) for o in self.outcomes])
        return np.where(np.isfinite(paid), paid, expected)

    def utility(self, cost_weight: float, reference_cost_usd: float) -> FloatArray:
        """Return ``quality - cost_weight * cost / reference``, shape (n,); NaN where it is not known."""
        if cost_weight == 0:
            return self.quality()
        return self.quality() - cost_weight * self.cost() / reference_cost_usd

    def decisions(self, reward: FloatArray, *, weight: FloatArray | None = None) -> LoggedDecisions:
        """Return the log as decisions with the given rewards (n,); turns of one conversation are a cluster."""
        served = self.served
        conversations = [o.conversation_id or f"\0{row}" for row, o in enumerate(self.outcomes)]
        return LoggedDecisions(
            chosen=served,
            reward=reward,
            propensity=_of_served(self.table.propensity, served),
            propensities=self.propensities,
            weight=weight,
            cluster=np.array(conversations) if len(set(conversations)) < len(conversations) else None,
        )

    def requests(self) -> list[RoutingRequest]:
        """Return the requests as a policy would see them now: nothing is explored, nothing counted."""
        return [
            RoutingRequest(
                outcome.prompt or "",
                prompt_tokens=estimate_tokens(outcome.prompt) if outcome.prompt else outcome.input_tokens or 0,
                request_id=outcome.request_id,
                conversation_id=outcome.conversation_id,
                key_id=outcome.key_id,
                allowed_models=_eligible(outcome),
                dry_run=True,
                explore=False,
            )
            for outcome in self.outcomes
        ]


def _says_something(outcome: Outcome) -> bool:
    return outcome.status == "ok" or not is_missing(outcome.quality)


def _served(outcome: Outcome) -> str:
    return outcome.served_by or outcome.model


def _columns(outcomes: Iterable[Outcome]) -> Iterable[str]:
    """Return the models that were served or considered, in the order in which the log names them."""
    names: dict[str, None] = {}
    for outcome in outcomes:
        names |= dict.fromkeys(sorted(outcome.candidates))
        names[_served(outcome)] = None
    return names


def _eligible(outcome: Outcome) -> tuple[str, ...] | None:
    """Return the models that could take the request; None where the log names none that could not."""
    ruled_out = {model for model, facts in outcome.candidates.items() if facts.get("eligible") == 0}
    return tuple(model for model in outcome.candidates if model not in ruled_out) if ruled_out else None


def _of_served(values: FloatArray, served: IntArray) -> FloatArray:
    return np.asarray(values[np.arange(len(served)), served])


def _propensities(outcomes: Sequence[Outcome], models: Sequence[str], drawn: npt.NDArray[np.bool_]) -> FloatArray:
    """Return every model's logged propensity, (n, m); a row that does not add up to 1 within the columns is NaN."""
    column = {model: number for number, model in enumerate(models)}
    full = np.full((len(outcomes), len(models)), np.nan)
    for row, outcome in enumerate(outcomes):
        known = {model: facts.get("propensity", math.nan) for model, facts in outcome.candidates.items()}
        if drawn[row] and known and all(math.isfinite(value) for value in known.values()):
            full[row] = 0.0
            for model, value in known.items():
                if model in column:
                    full[row, column[model]] = value
            agrees = abs(full[row, column[outcome.model]] - outcome.propensity) <= _KNOWN_SUM
            if abs(full[row].sum() - 1.0) > _KNOWN_SUM or not agrees:
                full[row] = np.nan
    return full


def _when(moment: float) -> str:
    return "any time" if math.isinf(moment) else f"{moment:.0f}"
