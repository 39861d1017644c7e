"""``llmrouter gate``: whether the log shows that a new router is better than the live one."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmrouter.exceptions import ConfigError, DataError
from service.reprice_command import read_time

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmrouter.learning import GateVerdict, TrainingLog
    from llmrouter.policy import Policy
    from llmrouter.types import ModelCard

EXIT_NOT_PROMOTED = 3
"""Exit status where all went well and the gate says no; 1 is an error."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--new", type=Path, required=True, metavar="DIR", help="the artifact that wants to go live")
    parser.add_argument("--live", type=Path, required=True, metavar="DIR", help="the artifact that is live")
    parser.add_argument(
        "--log", required=True, metavar="URL|FILE", help="sqlite:///outcomes.db, redis://..., or an exported file"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="take pool and policy of this configuration")
    parser.add_argument("--since", metavar="TIME", help="leave out older requests (default: what --new was trained on)")
    add_gate_arguments(parser)
    parser.add_argument("--promote", action="store_true", help="make --new current beside it if it passes")
    parser.add_argument("--json", action="store_true", help="print the verdict as JSON")


def add_gate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the numbers of the gate."""
    parser.add_argument("--confidence", type=float, default=0.95, help="of the lower bound (default 0.95)")
    parser.add_argument("--margin", type=float, default=0.0, help="gain in utility to exceed (default 0)")
    parser.add_argument("--no-trust", action="store_true", help="let all judgements count, whoever gave them")


def run(options: argparse.Namespace) -> int:
    """Compare the two, print the verdict, and return 0 if the new one passes, 3 if not.

    Raises
    ------
    LLMRouterError
        If an artifact, the log, the configuration or an option is wrong.
    """
    from llmrouter import artifact
    from llmrouter.encoders import load_encoder
    from llmrouter.learning import Gate, TrainingLog, outcomes_of, promote_artifact, trusted_weights

    gate = Gate(confidence=options.confidence, margin=options.margin)
    manifest = artifact.read_manifest(options.new)
    since = _since(options.since, manifest)
    cards, policy = pool_and_policy(options.config, [manifest, artifact.read_manifest(options.live)])
    spec = artifact.read_encoder(options.new)
    encoder = load_encoder(spec.name, **spec.settings)
    with outcomes_of(options.log) as outcomes:
        whole = TrainingLog.of(
            (outcome for outcome in outcomes if outcome.quality is not None),
            encoder,
            models=None if cards is None else [card.name for card in cards],
        )
    late = whole.time >= since
    log, history = whole.select(late), whole.select(~late)  # what came before tells what to expect
    if not len(log):
        raise DataError(f"the log holds no judged request since {since:.0f}, the end of what --new was trained on")
    pool = _cards_of(log) if cards is None else cards
    new = artifact.load(options.new, pool, policy=policy, encoder=encoder)
    live = artifact.load(options.live, pool, policy=policy)
    weight = None if options.no_trust else trusted_weights(whole.outcomes, whole.X).weight[late]
    verdict = gate.judge(new, live, log, history=history if len(history) else None, weight=weight)
    print(json.dumps(verdict.document(), indent=1) if options.json else described(verdict, confidence=gate.confidence))
    if options.promote and verdict.promote:
        move = promote_artifact(options.new, reason=f"gate: gain {verdict.gain:+.4f}, at least {verdict.low:+.4f}")
        if not options.json:
            print(f"made {move.artifact} current")
    return 0 if verdict.promote else EXIT_NOT_PROMOTED


def pool_and_policy(
    config: Path | None, manifests: Sequence[Mapping[str, Any]]
) -> tuple[Sequence[ModelCard] | None, Policy | None]:
    """Return the pool and the policy to compare artifacts with: those of a configuration, else None for the log's.

    Raises
    ------
    ConfigError
        If there is no configuration and an artifact's costs depend on prices that the embedded pool does not have.
    """
    from service.settings import build_policy, load_settings

    if config is not None:
        settings = load_settings(config)
        return settings.cards, build_policy(settings.policy)
    if all(manifest["cost_unit"] == "usd" for manifest in manifests):
        return None, None
    settings = load_settings(None)
    missing = {model for manifest in manifests for model in manifest["models"]} - {c.name for c in settings.cards}
    if missing:
        raise ConfigError(
            f"an artifact prices tokens, and no price is known of {', '.join(sorted(missing))}; give the configuration "
            "of the gateway",
            path="--config",
        )
    return settings.cards, build_policy(settings.policy)


def described(verdict: GateVerdict, *, confidence: float) -> str:
    """Return a verdict for people."""
    what = "PROMOTE" if verdict.promote else "KEEP THE LIVE ONE"
    held = f"where the log holds {verdict.effective_rows:.1f} effective decisions"
    lines = [
        f"{what}: gain in utility {verdict.gain:+.4f}, at least {verdict.low:+.4f} at {confidence:.0%} confidence",
        f"  {verdict.rows} judged requests; the two differ on {verdict.disagreement:.1%} of them, {held}",
    ]
    for name, result in verdict.results.items():
        for method, found in result.difference.items():
            lines.append(
                f"  {name:9s} {method:9s} {found.value:+.4g}  [{found.low:+.4g}, {found.high:+.4g}]"
                f"  new {result.target[method].value:.4g}  live {result.baseline[method].value:.4g}"
            )
    lines += [f"  why not: {reason}" for reason in verdict.reasons]
    if verdict.needed is not None:
        needed = verdict.needed
        if needed.requests is not None:
            lines.append(f"  to find a gain of {needed.gain:g}: {needed.requests} judged requests logged as these were")
        shares = ", ".join(f"{count} at {share:.0%}" for share, count in needed.by_share.items())
        if shares:
            lines.append(f"  or with a share explored evenly: {shares}")
        trials = ", ".join(f"{count} at {share:.0%}" for share, count in needed.by_trial.items())
        if trials:
            lines.append(f"  or with the new router on trial for a share: {trials}")
        lines += [f"  never asked where it is wanted: {model} ({part:.1%})" for model, part in needed.models.items()]
        lines += [f"    of these in task {task}: {part:.1%}" for task, part in needed.tasks.items()]
    return "\n".join(lines)


def _since(text: str | None, manifest: dict[str, object]) -> float:
    if text is not None:
        return read_time(text, "--since")
    training = manifest.get("training")
    log = training.get("log") if isinstance(training, dict) else None
    moment = log.get("evaluated_since") if isinstance(log, dict) else None
    return float(moment) if isinstance(moment, int | float) else -math.inf


def _cards_of(log: TrainingLog) -> Sequence[ModelCard]:
    from llmrouter.types import ModelCard, Price

    return [ModelCard(model, Price(0.0, 0.0)) for model in log.models]
