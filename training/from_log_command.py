"""``llmrouter train --from-log``: the options, and how they become a training."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from llmrouter.learning import MISSING, Gate, outcomes_of
from llmrouter.policy import Policy
from llmrouter.registry import create, parse_spec
from llmrouter.types import ModelCard
from training.from_log import DEFAULT_ROUTER, LogTraining, train_from_log


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that belong to logs."""
    log = parser.add_argument_group("from a log")
    log.add_argument("--since", metavar="TIME", help="leave out older requests: 2026-11-01, or seconds since 1970")
    log.add_argument("--until", metavar="TIME", help="leave out later ones")
    log.add_argument("--holdout", type=float, default=0.25, help="share, the latest, to evaluate on (default 0.25)")
    log.add_argument(
        "--missing", choices=MISSING, help="what to do about answers that nobody saw (default: by the router)"
    )
    log.add_argument(
        "--policy", metavar="SPEC", help="that decides, e.g. utility:cost_weight=0.3 (default: as configured)"
    )
    log.add_argument("--config", type=Path, metavar="FILE", help="take pool, prices and policy of this configuration")
    log.add_argument("--live", type=Path, metavar="DIR", help="the artifact to beat (default: current in --out)")
    log.add_argument(
        "--gate",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="promote only what the log shows to be better (default)",
    )
    log.add_argument("--confidence", type=float, default=0.95, help="of the gate's lower bound (default 0.95)")
    log.add_argument("--margin", type=float, default=0.0, help="gain in utility to exceed (default 0)")
    log.add_argument("--no-trust", action="store_true", help="let all judgements count, whoever gave them")


def run(
    options: argparse.Namespace,
    *,
    cards: Sequence[ModelCard] | None,
    policy: Policy | None,
    read_time: Callable[[str | None, str], float],
    say: Callable[[str], None] = print,
) -> int:
    """Train as the options say and return the exit status: 0 also where the gate keeps the live artifact.

    Parameters
    ----------
    options : argparse.Namespace
        Of the command.
    cards : sequence of ModelCard, optional
        The pool; None takes the models of the log.
    policy : Policy, optional
        Unless the options name one.
    read_time : callable
        Text and option -> seconds since the epoch.
    say : callable
        Takes one line of progress.

    Raises
    ------
    LLMRouterError
        If an option, the log or the live artifact is wrong.
    """
    if options.policy is not None:
        kind, parameters = parse_spec(options.policy)
        policy = create("policy", kind, **parameters)
    gate = Gate(confidence=options.confidence, margin=options.margin, seed=options.seed)
    since = -math.inf if options.since is None else read_time(options.since, "--since")
    until = math.inf if options.until is None else read_time(options.until, "--until")
    with outcomes_of(options.from_log, since=since) as outcomes:
        train_from_log(
            outcomes,
            options.out,
            settings=LogTraining(
                router=options.router or DEFAULT_ROUTER,
                encoder=options.encoder,
                missing=options.missing,
                holdout=options.holdout,
                since=since,
                until=until,
                trust=not options.no_trust,
                seed=options.seed,
            ),
            cards=cards,
            policy=policy,
            live=options.live,
            gate=gate if options.gate else None,
            promote=not options.no_promote,
            say=say,
        )
    return 0
