"""How often the choosers that ask no model pick the right route: ``python -m benchmarks.route_accuracy``.

Task labels of three data sets stand for routes in words (`benchmarks.route_scenes`): the pocket tasks, and two sets of
the folder that LLMROUTER_DATA names. Examples and labelled utterances are drawn from the train splits, five times with
seeds 0 to 4; what is scored is the test split, once a prompt. Nothing is chosen by the test scores: the thresholds are
those of the library, which were chosen on the train splits. Writes
``benchmarks/results/routes/accuracy-<encoder>.json``, ``accuracy.md``, and a line of ``test_looks.jsonl`` where the
test split was read.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

# read by the linear algebra libraries when they are loaded: one thread, as in the gateway
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import numpy as np

from benchmarks.quality.run import RESULTS, machine
from benchmarks.quality.sets import POCKET
from benchmarks.route_scenes import SCENES, Scene
from llmrouter.encoders import Encoder, cached_encoder, load_encoder
from llmrouter.evaluation._provenance import versions
from llmrouter.outcomes import load_table
from llmrouter.routes import Chooser, ClassifierChooser, EmbeddingChooser, Route
from llmrouter.types import OTHER_ROUTE

EXAMPLES = (0, 5, 20)
LABELS = (20, 100)
SEEDS = 5
BATCH = 256
OUT = RESULTS / "routes"
_Z = 1.959964


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--encoder", default="static", metavar="NAME")
    parser.add_argument("--split", default="test", choices=("test", "train"))
    parser.add_argument("--prompts", type=int, metavar="N", help="score at most N prompts of a set, drawn with seed 0")
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR")
    options = parser.parse_args(arguments)
    encoder = cached_encoder(load_encoder(options.encoder), 100_000)
    started = time.time()
    scenes = [measured(scene, encoder, split=options.split, most=options.prompts) for scene in SCENES]
    command = "python -m benchmarks.route_accuracy " + " ".join(arguments if arguments is not None else sys.argv[1:])
    result = {
        "command": command.strip(),
        "encoder": options.encoder,
        "split": options.split,
        "seeds": SEEDS,
        "duration_s": round(time.time() - started, 1),
        "machine": machine(),
        "versions": versions(),
        "scenes": scenes,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    suffix = "" if options.split == "test" else "-train"
    file = options.out / f"accuracy-{options.encoder}{suffix}.json"
    file.write_text(json.dumps(result, indent=1) + "\n")
    if options.split == "test":
        look = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "command": command.strip()}
        with (options.out / "test_looks.jsonl").open("a") as looks:
            looks.write(json.dumps(look) + "\n")
    results = [json.loads(path.read_text()) for path in sorted(options.out.glob("accuracy-*.json"))]
    (options.out / "accuracy.md").write_text(page([one for one in results if one["split"] == "test"]))
    print(page([result]))
    return 0


def measured(scene: Scene, encoder: Encoder, *, split: str, most: int | None = None) -> dict[str, Any]:
    """Return the accuracy of every chooser on a scene, with the scene's make-up."""
    table = load_table(_folder(scene))
    train, scored = table.split("train"), table.split(split)
    utterances = _by_route(scene, train.tasks, train.router_texts())
    texts, labels = list(scored.router_texts()), np.array([scene.label(task or "") for task in scored.tasks])
    if most is not None and most < len(texts):
        rows = np.random.default_rng(0).choice(len(texts), most, replace=False)
        texts, labels = [texts[i] for i in rows], labels[rows]
    on_route = labels != OTHER_ROUTE
    frequent = max(utterances, key=lambda route: len(utterances[route]))
    rows_out = [
        {"chooser": "always the most frequent route of train", **_summary([labels == frequent], on_route)},
    ]
    for name, choosers in _choosers(scene, encoder, utterances, drawn_from_scored=split == "train"):
        right = []
        others = []
        for chooser, excluded in choosers:
            picked = np.array(picks(chooser, texts))
            kept = np.array([text not in excluded for text in texts])
            right.append(np.where(kept, picked == labels, np.nan))
            others.append(float((picked == OTHER_ROUTE).mean()))
        rows_out.append(
            {"chooser": name, **_summary(right, on_route), "picked_other": round(float(np.mean(others)), 4)}
        )
    return {
        "scene": scene.name,
        "data": scene.data,
        "routes": len(scene.descriptions),
        "prompts": len(texts),
        "on_no_route": round(float(1 - on_route.mean()), 4),
        "choosers": rows_out,
    }


def picks(chooser: Chooser, texts: Sequence[str]) -> list[str]:
    """Return the route that each text, a conversation of one message, is found to be on."""
    return [
        pick.name
        for start in range(0, len(texts), BATCH)
        for pick in chooser.pick([(("user", text),) for text in texts[start : start + BATCH]])
    ]


def _choosers(
    scene: Scene, encoder: Encoder, utterances: dict[str, list[str]], *, drawn_from_scored: bool
) -> Iterator[tuple[str, list[tuple[Chooser, set[str]]]]]:
    """Yield what is compared: a name, and a chooser for each seed with the texts that it may not be scored on."""
    for count in EXAMPLES:
        name = (
            "embedding, descriptions alone" if count == 0 else f"embedding, descriptions and {count} examples a route"
        )
        made: list[tuple[Chooser, set[str]]] = []
        for seed in range(SEEDS if count else 1):
            drawn = _drawn(utterances, count, seed)
            routes = [Route(r.name, r.description, tuple(drawn[r.name]), r.models) for r in scene.routes]
            made.append((EmbeddingChooser(routes, encoder), _seen(drawn) if drawn_from_scored else set()))
        yield name, made
    for count in LABELS:
        made = []
        for seed in range(SEEDS):
            drawn = _drawn(utterances, count, seed, others=True)
            chooser = ClassifierChooser(scene.routes, encoder, labelled=drawn)
            made.append((chooser, _seen(drawn) if drawn_from_scored else set()))
        yield f"classifier, {count} labels a route", made


def _drawn(utterances: dict[str, list[str]], count: int, seed: int, *, others: bool = False) -> dict[str, list[str]]:
    rng = np.random.default_rng(seed)
    return {
        route: [texts[i] for i in rng.choice(len(texts), min(count, len(texts)), replace=False)]
        for route, texts in utterances.items()
        if others or route != OTHER_ROUTE
    }


def _seen(drawn: dict[str, list[str]]) -> set[str]:
    return {text for texts in drawn.values() for text in texts}


def _by_route(scene: Scene, tasks: Sequence[str | None], texts: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {name: [] for name in scene.descriptions}
    for task, text in zip(tasks, texts, strict=True):
        found.setdefault(scene.label(task or ""), []).append(text)
    return found


def _summary(right: Sequence[Any], on_route: Any) -> dict[str, Any]:
    """Return accuracy over all prompts and over those on a route, each a mean over draws with its interval."""
    return {
        "accuracy": _with_interval([np.asarray(one, dtype=float) for one in right]),
        "accuracy_on_routes": _with_interval([np.asarray(one, dtype=float)[on_route] for one in right]),
    }


def _with_interval(right: Sequence[Any]) -> dict[str, float]:
    """Return the mean over prompts and draws, and 95% limits.

    A prompt's share of right picks over the draws is one observation, so draws do not count as further prompts; the
    spread between draws is added to the error of the mean over prompts.
    """
    by_draw = [float(np.nanmean(one)) for one in right]
    stacked = np.stack(right)
    shares = np.nanmean(stacked[:, ~np.isnan(stacked).all(axis=0)], axis=0)
    mean = float(shares.mean())
    if len(right) == 1:
        low, high = wilson(mean, len(shares))
    else:
        error = math.sqrt(float(shares.var(ddof=1)) / len(shares) + float(np.var(by_draw, ddof=1)) / len(right))
        low, high = max(mean - _Z * error, 0.0), min(mean + _Z * error, 1.0)
    return {"mean": round(mean, 4), "low": round(low, 4), "high": round(high, 4)}


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return the 95% interval of Wilson for a share of n."""
    centre = share + _Z**2 / (2 * n)
    half = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return (centre - half) / (1 + _Z**2 / n), (centre + half) / (1 + _Z**2 / n)


def page(results: Sequence[dict[str, Any]]) -> str:
    """Return the results as Markdown."""
    lines = ["# Which route: accuracy of the choosers that ask no model", ""]
    for result in results:
        lines += [
            f"`{result['command']}` ({result['duration_s']:g} s; encoder {result['encoder']}, {result['split']})",
            "",
        ]
        for scene in result["scenes"]:
            lines += [
                (
                    f"## {scene['scene']}, {result['encoder']}: {scene['routes']} routes, {scene['prompts']} prompts "
                    f"of {scene['data']}, {scene['on_no_route']:.0%} of them on no route"
                ),
                "",
                "| chooser | right | right of those on a route | picked other |",
                "|---|---|---|---|",
            ]
            for row in scene["choosers"]:
                values = [
                    f"{cell['mean']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]"
                    for cell in (row["accuracy"], row["accuracy_on_routes"])
                ]
                share = f"{row['picked_other']:.0%}" if "picked_other" in row else ""
                lines.append(f"| {row['chooser']} | {values[0]} | {values[1]} | {share} |")
            lines.append("")
    return "\n".join(lines)


def _folder(scene: Scene) -> Path:
    if scene.data == "pocket":
        return POCKET
    folder = os.environ.get("LLMROUTER_DATA")
    if not folder:
        raise SystemExit("set LLMROUTER_DATA to the folder of the data sets")
    return Path(folder) / scene.data


if __name__ == "__main__":
    raise SystemExit(main())
