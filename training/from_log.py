"""Train a router on the gateway's own log: ``llmrouter train --from-log sqlite:///outcomes.db``.

The log is cut in time. On the earlier part the router is tuned and fitted; on the later one it is compared with the
live one by off-policy estimates, which go into the artifact. It is promoted if the gate says so.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llmrouter import artifact
from llmrouter.encoders import Encoder, encode_cached, load_encoder
from llmrouter.engine import RoutingEngine, TrainedRouters
from llmrouter.evaluation import Prepared, cross_fit
from llmrouter.exceptions import ConfigError, DataError
from llmrouter.learning import (
    Gate,
    GateVerdict,
    Missing,
    TrainingLog,
    TrustReport,
    complete_arms,
    cross_fitted,
    current_artifact,
    promote_artifact,
    trusted_weights,
)
from llmrouter.policy import Policy, UtilityPolicy
from llmrouter.registry import parse_spec
from llmrouter.routers import weighted_mean
from llmrouter.types import FloatArray, ModelCard, Outcome, Price
from training.from_log_tuning import LogTuning, tune_on_log
from training.leftovers import remove_leftovers
from training.train import calibration_of, fit

DEFAULT_ROUTER = "linear-bandit"
_MADE_FOR_LOGS = ("linear-bandit",)
FEWEST = 50
"""Judged answers below which nothing is trained."""


@dataclass(frozen=True)
class LogTraining:
    """How to train on a log.

    Attributes
    ----------
    router : str
        Registry spec; parameters left open are chosen on the earlier part of the log.
    encoder : str
        Of the router; by default that of the live artifact.
    missing : str, optional
        See `llmrouter.learning.complete_arms`; by default that of `default_missing`.
    holdout : float
        Share of the judged answers, the latest, that the new router is evaluated on; in (0, 1).
    since, until : float
        Part of the log that is used, seconds since the epoch.
    trust : bool
        Whether judgements count by the trust in their source (`llmrouter.learning.trusted_weights`).
    seed : int
        Of all folds.
    """

    router: str = DEFAULT_ROUTER
    encoder: str | None = None
    missing: Missing | None = None
    holdout: float = 0.25
    since: float = -math.inf
    until: float = math.inf
    trust: bool = True
    seed: int = 0


@dataclass(frozen=True)
class TrainedFromLog:
    """What training on a log came to.

    Attributes
    ----------
    folder : Path
        The artifact.
    parameters : mapping
        Of the router.
    verdict : GateVerdict or None
        Of the comparison with the live router; None where there is none.
    promoted : bool
        Whether it was made current.
    tuning : LogTuning or None
        How parameters were chosen.
    """

    folder: Path
    parameters: dict[str, Any]
    verdict: GateVerdict | None
    promoted: bool
    tuning: LogTuning | None = field(default=None)


def train_from_log(
    outcomes: Iterable[Outcome],
    out: Path,
    *,
    settings: LogTraining | None = None,
    cards: Sequence[ModelCard] | None = None,
    policy: Policy | None = None,
    live: Path | None = None,
    gate: Gate | None = None,
    promote: bool = True,
    say: Callable[[str], None] = print,
) -> TrainedFromLog:
    """Train on logged outcomes, write an artifact under `out`, and promote it if it passes.

    Parameters
    ----------
    outcomes : iterable of Outcome
        The log.
    out : Path
        The folder that holds artifacts.
    settings : LogTraining, optional
        What to train.
    cards : sequence of ModelCard, optional
        The pool: its models are the columns, its prices count. By default the models of the log, without prices.
    policy : Policy, optional
        That the routers are compared under, by default the utility policy.
    live : Path, optional
        The artifact to beat; by default ``current`` in `out`. Without any the new one is promoted as it is.
    gate : Gate, optional
        Decides on promotion; None promotes whatever came out.
    promote : bool
        Whether ``current`` may be moved.
    say : callable
        Takes one line of progress.

    Raises
    ------
    DataError
        If fewer than `FEWEST` judged answers are left.
    ConfigError
        If a setting is out of range.
    """
    settings = settings or LogTraining()
    if not 0 < settings.holdout < 1:
        raise ConfigError(f"must lie between 0 and 1; got {settings.holdout!r}", path="--holdout")
    if left := remove_leftovers(out):
        say(f"removed {left} half-written leftovers of earlier trainings")
    policy = UtilityPolicy() if policy is None else policy
    live = _live(out) if live is None else live.resolve()
    encoder_name, encoder_settings, encoder = _encoder(settings, live)
    log = _judged(outcomes, encoder, settings, cards)
    pool = _cards(log, cards)
    trust = trusted_weights(log.outcomes, log.X) if settings.trust else None
    if trust is not None:
        say(trust.summary())
    weight = _weights(log, trust)
    early, late = log.split(settings.holdout)
    early_weight, late_weight = weight[: len(early)], weight[len(early) :]
    say(
        f"log: {len(log)} judged requests of {len(log.models)} models; trained on the first {len(early)}, evaluated on "
        f"the last {len(late)}"
    )
    name, parameters = parse_spec(settings.router)
    missing = default_missing(name) if settings.missing is None else settings.missing
    reference = None if live is None else _reference(live)
    tuning = tune_on_log(
        name, parameters, early, early_weight, missing=missing, policy=policy, cards=pool, seed=settings.seed
    )
    if tuning is not None:
        parameters = dict(tuning.parameters)
        say(f"tuned on the log: {tuning.summary()}")
    trained = fit_on_log(
        early,
        early_weight,
        name=name,
        parameters=parameters,
        guard=None if tuning is None else tuning.guard,
        missing=missing,
        reference=reference,
        calibrated=True,
        seed=settings.seed,
    )
    new = RoutingEngine(pool, encoder, trained=trained, policy=policy)
    judge = gate or Gate(seed=settings.seed)
    verdict, against = _compared(judge, new, live, late, history=early, weight=late_weight, policy=policy, pool=pool)
    document = {
        "log": _described(log, early, late, trust),
        "against": against,
        "off_policy": None if verdict is None else verdict.document(),
        "tuning": None if tuning is None else tuning.document(),
    }
    folder = artifact.save(
        trained,
        out,
        encoder=artifact.EncoderSpec(encoder_name, encoder_settings, encoder.fingerprint),
        training={
            "data": "log",
            "router": settings.router,
            "parameters": parameters,
            "missing": missing,
            "seed": settings.seed,
            "log": document["log"],
        },
        evaluation=document,
    )
    say(f"wrote {folder}")
    promoted = promote and _promoted(folder, live, verdict if gate is not None else None, gate=gate, say=say)
    return TrainedFromLog(folder, parameters, verdict, promoted, tuning)


def default_missing(name: str) -> Missing:
    """Return what is done about answers that nobody saw, by router: the best of `benchmarks.learning.missing_arms`.

    A linear bandit's shrinkage is made for arms that were seldom seen. Neighbour means know nothing of an arm that no
    neighbour was given, and are much better on a completed table, as the other regressors are.
    """
    return "none" if name in _MADE_FOR_LOGS else "direct"


def fit_on_log(
    log: TrainingLog,
    weight: FloatArray,
    *,
    name: str,
    parameters: dict[str, Any],
    guard: float | None,
    missing: Missing,
    reference: float | None = None,
    calibrated: bool = False,
    seed: int = 0,
) -> TrainedRouters:
    """Fit quality and cost routers on a log.

    The models' means are those that are expected over all requests, not those over the requests that each was given.

    Parameters
    ----------
    log : TrainingLog
        n judged requests.
    weight : array of shape (n,)
        How much each counts; 0 leaves it out.
    name, parameters : str, dict
        Of the router.
    guard : float or None
        Of the utility policy.
    missing : str
        See `complete_arms`.
    reference : float, optional
        Unit of the cost weight in US dollars; by default the dearest model's mean cost.
    calibrated : bool
        Keep held-out estimates.
    seed : int
        Of folds.
    """
    kept = np.flatnonzero(weight > 0)
    log, weight = log.select(kept), weight[kept]
    completed = complete_arms(log.table, log.X, method=missing, weight=weight, seed=seed)
    calibration = None
    if calibrated:
        held_out = cross_fit(log.table, log.X, name=name, parameters=parameters, seed=seed)
        calibration = calibration_of(Prepared(name, parameters, {}, guard, held_out), log.table, log.X)
    trained = fit(
        log.table,
        log.X,
        name=name,
        parameters=parameters,
        guard=guard,
        calibration=calibration,
        quality=completed.quality,
        weight=completed.weight,
    )
    if missing == "dr":  # pseudo-outcomes lie outside the range of qualities; estimates of them must not
        trained.quality.lower_, trained.quality.upper_ = 0.0, 1.0  # type: ignore[attr-defined] # every fitted one has it
    quality, cost = (
        _expected_means(log, values, weight, seed=seed) for values in (log.table.quality, log.table.cost_usd)
    )
    known = {model: value for model, value in quality.items() if model in trained.mean_quality}
    dearest = max(cost.values(), default=0.0)
    return dataclasses.replace(
        trained,
        mean_quality=known,
        mean_cost_usd={**trained.mean_cost_usd, **cost},
        best_single=max(known, key=lambda model: known[model]),
        reference_cost_usd=reference or (dearest if dearest > 0 else trained.reference_cost_usd),
    )


def _expected_means(log: TrainingLog, values: FloatArray, weight: FloatArray, *, seed: int) -> dict[str, float]:
    """Return each observed model's mean over all requests, what was not seen being expected (cross-fitted)."""
    seen = np.asarray(np.isfinite(values), dtype=bool)
    if not seen.any():
        return {}
    expected = cross_fitted(log.X, values, weight=weight, groups=log.table.texts, seed=seed)
    means = weighted_mean(np.where(seen, values, expected), np.ones(len(log)))
    observed = np.flatnonzero(seen.any(axis=0)).tolist()
    return {log.models[column]: max(float(means[column]), 0.0) for column in observed}


def _judged(
    outcomes: Iterable[Outcome], encoder: Encoder, settings: LogTraining, cards: Sequence[ModelCard] | None
) -> TrainingLog:
    prices = None if cards is None else {card.name: card.price for card in cards}
    log = TrainingLog.of(
        (outcome for outcome in outcomes if outcome.quality is not None),
        encoder,
        models=None if cards is None else [card.name for card in cards],
        prices=prices,
        since=settings.since,
        until=settings.until,
        encode=lambda texts: encode_cached(encoder, texts),
    )
    log = log.select(log.judged)
    if len(log) < FEWEST:
        raise DataError(
            f"the log holds {len(log)} judged answers that can be used; training needs {FEWEST}. Judge more "
            "(POST /v1/feedback, learning.verifiers, learning.judge), or take more of the log (--since)"
        )
    return log


def _weights(log: TrainingLog, trust: TrustReport | None) -> FloatArray:
    if trust is None:
        return np.array([1.0 if o.quality_weight is None else o.quality_weight for o in log.outcomes])
    if not (trust.weight > 0).any():
        raise DataError(f"no judgement of the log is trusted ({trust.summary()}); train with --no-trust to use them")
    return trust.weight


def _cards(log: TrainingLog, cards: Sequence[ModelCard] | None) -> tuple[ModelCard, ...]:
    return tuple(cards) if cards else tuple(ModelCard(model, Price(0.0, 0.0)) for model in log.models)


def _encoder(settings: LogTraining, live: Path | None) -> tuple[str, dict[str, Any], Encoder]:
    """Return name, settings and encoder: the one asked for, else that of the live artifact, else the default."""
    if settings.encoder is not None:
        return settings.encoder, {}, load_encoder(settings.encoder)
    spec = None if live is None else artifact.read_encoder(live)
    if spec is None:
        return "form", {}, load_encoder("form")
    return spec.name, dict(spec.settings), load_encoder(spec.name, **spec.settings)


def _live(out: Path) -> Path | None:
    """Return the folder that the link leads to now: another training may move it meanwhile."""
    name = current_artifact(out)
    return out / name if name else None


def _reference(live: Path) -> float:
    return float(artifact.read_manifest(live)["reference_cost_usd"])


def _compared(
    gate: Gate,
    new: RoutingEngine,
    live: Path | None,
    late: TrainingLog,
    *,
    history: TrainingLog,
    weight: FloatArray,
    policy: Policy,
    pool: Sequence[ModelCard],
) -> tuple[GateVerdict | None, str]:
    """Return the verdict on the later part of the log, and what the new router was compared with."""
    if live is None:
        return gate.judge_logged(new, late, history=history, weight=weight), "the policy that was logged"
    old = artifact.load(live, pool, policy=policy)
    return gate.judge(new, old, late, history=history, weight=weight), old.artifact_id


def _promoted(
    folder: Path, live: Path | None, verdict: GateVerdict | None, *, gate: Gate | None, say: Callable[[str], None]
) -> bool:
    if live is not None and live.resolve() == folder.resolve():
        say("it is the live artifact already")
        return False
    if gate is None or live is None:
        reason = "nothing was live" if live is None else "without the gate"
    elif verdict is not None and verdict.promote:
        reason = f"gain {verdict.gain:+.4f}, at least {verdict.low:+.4f}, on {verdict.rows} requests"
    else:
        reasons = () if verdict is None else verdict.reasons
        say("not promoted: " + "; ".join(reasons))
        return False
    promote_artifact(folder, reason=reason)
    say(f"made it {artifact.CURRENT}: {reason}")
    return True


def _described(log: TrainingLog, early: TrainingLog, late: TrainingLog, trust: TrustReport | None) -> dict[str, Any]:
    """Return which part of the log was used for what; ``until`` is the last moment that the routers have seen."""
    return {
        "since": early.span[0],
        "until": early.span[1],
        "evaluated_since": late.span[0],
        "evaluated_until": late.span[1],
        "judged": len(log),
        "trained_on": len(early),
        "evaluated_on": len(late),
        "models": dict(zip(log.models, log.table.observed.sum(axis=0).tolist(), strict=True)),
        "explored": sum(outcome.explored for outcome in log.outcomes),
        "untrusted": 0 if trust is None else trust.left_out,
        "quarantined_sources": 0 if trust is None else len(trust.quarantined),
    }
