"""Settings of the canary: a new artifact decides for a part of the traffic, and is taken back where it does worse."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from service.section import Section

Metric = Literal["quality", "error_rate", "cost", "latency"]


class GuardSettings(Section):
    """When the canary is taken back by itself.

    Attributes
    ----------
    metric : {"quality", "error_rate", "cost", "latency"}
        Mean judged quality; share of the requests that failed; mean cost, or mean seconds, of the answers that came.
    max_drop : float
        By how much the canary may be worse: absolute for quality and error rate, a share of the live lane's mean for
        cost and latency.
    min_outcomes : int
        Nothing is concluded before both lanes have that many.
    confidence : float
        That it is worse by more than `max_drop`; over the whole trial, however often it is looked at.
    """

    metric: Metric = "quality"
    max_drop: NonNegativeFloat = 0.02
    min_outcomes: PositiveInt = 100
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95


class CanarySettings(Section):
    """A second artifact that decides, and is acted on, for a share of keys, sessions or requests.

    Attributes
    ----------
    artifact : Path
        Folder (or link to one) of the new artifact.
    share : float
        Of what `by` names.
    by : {"key", "session", "request"}
        What stays in one lane: a key; a session, or the key where a request names none; or nothing but the request.
        Where there is neither the request counts.
    guards : list of GuardSettings
        Each of them takes the canary back when it is sure; their doubts add up, so that all together keep the largest
        `confidence`.
    interval_s : float
        How often judgements are read from the log, the guards are asked, and what other replicas did is looked at.
        With a section `redis` errors, costs and latencies are counted over all replicas, else by each process for
        itself.
    state : Path or None
        File in which the replicas of a machine tell each other how the trial stands, where there is no section `redis`;
        None is ``.canary.json`` beside the artifact's folder.
    """

    artifact: Path
    share: Annotated[float, Field(gt=0, le=1)] = 0.1
    by: Literal["key", "session", "request"] = "session"
    guards: tuple[GuardSettings, ...] = (GuardSettings(), GuardSettings(metric="error_rate"))
    interval_s: PositiveFloat = 2.0
    state: Path | None = None
