"""The command line's options on experts, and what they mean for loading."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from llmrouter.exceptions import ConfigError
from llmrouter.moe import Pruning, Quantization, SelfContrast


def add_expert_options(parser: argparse.ArgumentParser) -> None:
    """Add the options; they hold for all models that are served."""
    group = parser.add_argument_group(
        "experts", "Less or more computation for a token, for all models served; each changes answers, see docs/moe.md"
    )
    group.add_argument("--active-experts", type=int, metavar="N", help="compute at most N experts a token")
    group.add_argument(
        "--expert-top-p", type=float, metavar="P", help="compute the fewest experts with this part of the router weight"
    )
    group.add_argument("--prune", type=float, metavar="RATE", help="remove this part of the experts when loading")
    group.add_argument(
        "--prune-layers",
        choices=["uniform", "global", "learned"],
        default="uniform",
        help="the same number from every layer, or rates by layer (default: uniform)",
    )
    group.add_argument(
        "--calibration", type=Path, metavar="FILE", help="prompts that --prune judges experts on, one a line"
    )
    group.add_argument("--quantize", metavar="KIND", help="store experts as int8, int4, or int4:GROUP")
    group.add_argument(
        "--self-contrast",
        type=float,
        metavar="BETA",
        help="contrast with the second-ranked experts at decoding (0.5 in its paper); twice the time",
    )


def expert_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the keyword arguments of `load_engine`.

    Raises
    ------
    LLMRouterError
        If a value is out of its range, or an option lacks another one.
    """
    arguments: dict[str, Any] = {}
    if options.active_experts is not None or options.expert_top_p is not None:
        from llmrouter.moe.experts import Reduction

        try:
            arguments["reduction"] = Reduction(active=options.active_experts, top_p=options.expert_top_p)
        except ValueError as error:
            raise ConfigError(f"--active-experts / --expert-top-p: {error}") from error
    if options.prune is not None:
        if options.calibration is None:
            raise ConfigError("--prune needs --calibration FILE with prompts that the model is for, one a line")
        prompts = _lines(options.calibration)
        arguments["prune"] = Pruning(options.prune, prompts, allocation=options.prune_layers)
    elif options.calibration is not None:
        raise ConfigError("--calibration is read by --prune only; give --prune RATE or leave it out")
    if options.quantize is not None:
        arguments["quantize"] = Quantization.parse(options.quantize)
    if options.self_contrast is not None:
        arguments["contrast"] = SelfContrast(beta=options.self_contrast)
    return arguments


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--calibration {path}: cannot be read: {error}") from error
