"""``llmrouter audit``: which logged outcomes drive a decision, and whose they are."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from llmrouter.exceptions import ConfigError
from llmrouter.outcomes import open_store
from service.learning.audit import MOST, audit_request, audit_text
from service.settings import build_engine, load_settings

if TYPE_CHECKING:
    from llmrouter.learning import Audit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--request", metavar="ID", help="a logged request: what was judged before it")
    what.add_argument("--text", metavar="PROMPT", help="a prompt, as it would be routed now; no model is called")
    parser.add_argument("--store", metavar="URL", help="the log, e.g. sqlite:///outcomes.db (default: log.store)")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML configuration (default: the embedded pocket pool)"
    )
    parser.add_argument("--most", type=int, default=MOST, metavar="N", help="read the newest N judged outcomes")
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def run(options: argparse.Namespace) -> int:
    """Print the audit.

    Raises
    ------
    ConfigError
        If an option or the configuration is wrong, or the request is unknown.
    LLMRouterError
        If log or artifact cannot be used.
    """
    if options.most < 1:
        raise ConfigError(f"must be a whole number >= 1; got {options.most}", path="--most")
    settings = load_settings(options.config)
    engine, trust = build_engine(settings), settings.learning.trust
    store = open_store(options.store or settings.log.store)
    try:
        if options.text is not None:
            found = audit_text(store, engine, trust, options.text, most=options.most)
        else:
            outcome = store.get(options.request)
            if outcome is None:
                raise ConfigError(f"no outcome is recorded under {options.request!r}", path="--request")
            found = audit_request(store, engine, trust, outcome=outcome, most=options.most)
    finally:
        store.close()
    if options.json:
        print(json.dumps(found.document(), indent=1))
    else:
        _print(found)
    return 0


def _print(found: Audit) -> None:
    print(f"the router decided   {found.decided}")
    print(f"the neighbourhood    {found.choice}")
    print("\nmodel: estimate (mean over the log), outcomes nearby, share of each source in the estimate")
    for model in found.models:
        shares = ", ".join(f"{name or '(no key)'} {share:.0%}" for name, share in _largest(model.influence))
        print(f"  {model.model:24} {model.estimate:.3f} ({model.prior:.3f})  {model.outcomes:4}  {shares}")
    print("\nnearest outcomes by influence: similarity, quality, weight, model, source, request")
    for near in found.nearest:
        why = "" if near.reason == "kept" else f"  [{near.reason}]"
        print(
            f"  {near.similarity:.3f}  {near.quality:.2f}  {near.weight:.2f}  {near.model:24} "
            f"{near.source or '(no key)':14} {near.request_id}{why}"
        )
    if found.decisive:
        print("\nwithout one of these sources the neighbourhood would choose otherwise:")
        for effect in found.without:
            if effect.changes:
                print(f"  {effect.source or '(no key)'} ({effect.influence:.0%} of the weight): {effect.model}")
    else:
        print("\nno single source decides this")


def _largest(shares: dict[str, float], count: int = 4) -> list[tuple[str, float]]:
    return sorted(shares.items(), key=lambda pair: (-pair[1], pair[0]))[:count]
