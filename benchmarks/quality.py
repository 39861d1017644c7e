"""Score the routers on the shipped pocket outcomes and on the data in LLMROUTER_DATA: ``python -m benchmarks.quality``.

Writes ``benchmarks/results/quality/<data set>-<encoder>.json``, the table ``benchmarks/results/quality.md`` made from
those files, and a line per look at a test split into ``benchmarks/results/test_looks.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmrouter.encoders import encode_cached, load_encoder
from llmrouter.evaluation import CostAxis, evaluate, format_result, results_as_json
from llmrouter.outcomes import load_table

RESULTS = Path(__file__).parent / "results"
POCKET = Path(__file__).parents[1] / "llmrouter" / "assets" / "pocket" / "outcomes"
ROUTERS = ("knn", "knn:k=40", "knn:k=100")
AXES: dict[str, CostAxis] = {
    "pocket": "usd",
    "routerbench_subset": "usd",
    "routellm_pair": "calls",
    "llmrouter_nim9": "list_price",
}


def run(name: str, folder: Path, *, encoder: str, seed: int) -> None:
    """Evaluate one data set with one encoder and write its results."""
    table = load_table(folder)
    loaded = load_encoder(encoder)
    embeddings = encode_cached(loaded, table.router_texts())
    result = evaluate(
        table,
        embeddings,
        routers=ROUTERS,
        cost=AXES[name],
        seed=seed,
        context={"encoder": encoder, "encoder_fingerprint": loaded.fingerprint, "machine": machine()},
        look_log=RESULTS / "test_looks.jsonl",
    )
    print(format_result(result), flush=True)
    target = RESULTS / "quality" / f"{name}-{encoder}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(results_as_json(result), indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def machine() -> str:
    """Return the machine in words, without its name."""
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def render() -> str:
    """Return a Markdown page made from the result files alone."""
    lines = [
        "# Quality",
        "",
        "Made by `make bench` from the files in `quality/`; AIQ as in `docs/evaluate.md`. The interval is the paired",
        "bootstrap one (95%) of AIQ minus the Zero router's.",
        "",
        "| data (test prompts) | encoder | router | AIQ | minus Zero | QNC | peak quality |",
        "|---|---|---|---|---|---|---|",
    ]
    for path in sorted((RESULTS / "quality").glob("*.json")):
        document = json.loads(path.read_text())
        for name, router in document["routers"].items():
            lines.append(_row(document, name, router))
    return "\n".join(lines) + "\n"


def _row(document: dict[str, Any], name: str, router: dict[str, Any]) -> str:
    interval = router["intervals"].get("aiq_minus_zero")
    difference = ""
    if interval is not None:
        difference = f"{interval['estimate']:+.4f} [{interval['low']:+.4f}, {interval['high']:+.4f}]"
    if router.get("tuning"):
        name = f"{name} (tuned: k={router['parameters']['k']}, shrinkage={router['parameters']['shrinkage']:g})"
    data, settings = document["data"], document["settings"]
    cells = [
        f"{data['name']} ({data['test_prompts']})",
        settings["encoder"],
        name,
        _number(router["aiq"]),
        difference,
        "never" if router["qnc"] is None else f"{router['qnc']:.1%}",
        _number(router["peak_quality"]),
    ]
    return "| " + " | ".join(cells) + " |"


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="*", default=list(AXES), choices=list(AXES))
    parser.add_argument("--encoders", nargs="*", default=["static"], help="static, minilm, ...")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    shared = os.environ.get("LLMROUTER_DATA")
    for name in options.data:
        if name != "pocket" and not shared:
            print(f"skipped {name}: LLMROUTER_DATA is not set")
            continue
        folder = POCKET if name == "pocket" else Path(shared or "") / name
        for encoder in options.encoders:
            run(name, folder, encoder=encoder, seed=options.seed)
    (RESULTS / "quality.md").write_text(render())
    return 0


if __name__ == "__main__":
    sys.exit(main())
