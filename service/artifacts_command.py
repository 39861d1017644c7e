"""``llmrouter artifacts``: which there are, which is live, promotion by hand and the way back."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmrouter import artifact
from llmrouter.exceptions import ArtifactError
from service.keys.wanted import iso


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands."""
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    _action(actions, "list", _list, "list the artifacts of a folder")
    show = _action(actions, "show", _show, "show an artifact: what it was trained on, how it scored")
    show.add_argument("id", nargs="?", default=artifact.CURRENT, help="default: the current one")
    promote = _action(actions, "promote", _promote, "make an artifact current; running gateways take it in")
    promote.add_argument("id")
    rollback = _action(actions, "rollback", _rollback, "make the artifact current that was so before")
    for action in (promote, rollback):
        action.add_argument("--reason", default="", metavar="TEXT", help="kept in history.jsonl")
    _action(actions, "history", _history, "list what was current, and why")


def run(options: argparse.Namespace) -> int:
    """Run the chosen subcommand and return the exit status.

    Raises
    ------
    ArtifactError
        If the folder or the artifact cannot be used, or there is nothing to go back to.
    """
    job: Callable[[argparse.Namespace], Any] = options.artifacts_job
    document = job(options)
    if options.json:
        print(json.dumps(document, indent=1))
    return 0


def _action(actions: Any, name: str, job: Callable[[argparse.Namespace], Any], text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text)
    parser.add_argument("--out", type=Path, default=Path("artifacts"), metavar="DIR", help="the folder of artifacts")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(artifacts_job=job)
    return parser


def _list(options: argparse.Namespace) -> list[dict[str, Any]]:
    from llmrouter.learning import list_artifacts

    found = list_artifacts(options.out)
    if not options.json:
        for listed in found:
            mark = "*" if listed.current else " "
            what = listed.problem.splitlines()[0] if listed.problem else f"{listed.router}, {listed.models} models"
            print(f"{mark} {listed.id:32s} {iso(listed.made)}  {what}")
        if not found:
            print(f"(no artifacts in {options.out}; train one with: llmrouter train --out {options.out})")
    return [{**asdict(listed), "made": iso(listed.made)} for listed in found]


def _show(options: argparse.Namespace) -> dict[str, Any]:
    folder = options.out / options.id
    manifest = artifact.read_manifest(folder)
    path = folder / "evaluation.json"
    evaluation = json.loads(path.read_bytes()) if path.is_file() else None
    if not options.json:
        print(f"{manifest['id']}: {manifest['routers']['quality']['name']} over {', '.join(manifest['models'])}")
        print(f"best single model: {manifest['best_single']}   encoder: {manifest['encoder']}")
        print("training: " + json.dumps(manifest.get("training", {}), sort_keys=True))
        print(_evaluated(evaluation))
    return {**manifest, "evaluation": evaluation}


def _evaluated(evaluation: dict[str, Any] | None) -> str:
    if evaluation is None:
        return "evaluation: none"
    verdict = evaluation.get("off_policy")
    if not isinstance(verdict, dict):
        return (
            f"evaluation: {len(evaluation.get('routers', {}))} routers compared on held-out prompts (evaluation.json)"
        )
    return (
        f"evaluation: gain {verdict['gain']:+.4f} in utility over {evaluation.get('against')}, at least "
        f"{verdict['low']:+.4f}, on {verdict['rows']} requests; the gate said "
        f"{'promote' if verdict['promote'] else 'no: ' + '; '.join(verdict['reasons'])}"
    )


def _promote(options: argparse.Namespace) -> dict[str, Any]:
    from llmrouter.learning import promote_artifact

    folder = options.out / options.id
    if not folder.is_dir():
        raise ArtifactError(f"{folder} does not exist; llmrouter artifacts list --out {options.out} shows what does")
    return _moved(promote_artifact(folder, reason=options.reason), options)


def _rollback(options: argparse.Namespace) -> dict[str, Any]:
    from llmrouter.learning import rollback_artifact

    return _moved(rollback_artifact(options.out, reason=options.reason), options)


def _moved(move: Any, options: argparse.Namespace) -> dict[str, Any]:
    if not options.json:
        print(f"current: {move.artifact} (was {move.previous or 'none'})")
    return asdict(move)


def _history(options: argparse.Namespace) -> list[dict[str, Any]]:
    from llmrouter.learning import read_history

    moves = read_history(options.out)
    if not options.json:
        for move in moves:
            print(f"{iso(move.time)}  {move.action:8s} {move.artifact} (was {move.previous or 'none'})  {move.reason}")
    return [{**asdict(move), "time": iso(move.time)} for move in moves]
