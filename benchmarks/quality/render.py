"""Render the leaderboard from the result files alone, never by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.quality.run import RESULTS
from benchmarks.quality.sets import SETS

ROOT = RESULTS.parents[1]
BEGIN, END = "<!-- leaderboard: made by python -m benchmarks.quality -->", "<!-- end of leaderboard -->"
_MAIN = ("pocket", "routerbench_subset", "routellm_pair", "llmrouter_nim9", "lookahead_open", "routerdc_open7")
_README_ROWS = ("stack", "knn", "knn:k=100", "ridge", "mlp", "uniroute", "best-single", "zero", "task-mean", "oracle")
_ORDER = {"router": 0, "flow": 1, "policy": 2, "baseline": 3, "bound": 4}

Document = Mapping[str, Any]


def render(folder: Path = RESULTS / "quality", root: Path = ROOT) -> list[Path]:
    """Write ``docs/leaderboard.md`` and the table in ``README.md``; return both paths."""
    documents = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    protocols = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((folder / "protocols").glob("*.json"))
    }
    page = root / "docs" / "leaderboard.md"
    page.write_text(leaderboard(documents, protocols), encoding="utf-8")
    readme = root / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{BEGIN}\n{summary(documents)}\n{END}{after}", encoding="utf-8")
    return [page, readme]


def summary(documents: Mapping[str, Document]) -> str:
    """Return the README's table: AIQ of a few routers on the main data sets with costs or prices."""
    shown = [name for name in _MAIN[:4] if f"{name}-form" in documents]
    lines = [_row(["AIQ", *(f"{name} ({_test_prompts(documents, name)})" for name in shown)])]
    lines.append(_row(["---"] * (len(shown) + 1)))
    for router in _README_ROWS:
        cells = [_aiq_cell(documents[f"{name}-form"], router) for name in shown]
        if any(cells):
            lines.append(_row([f"`{router}`", *cells]))
    return "\n".join(lines)


def leaderboard(documents: Mapping[str, Document], protocols: Mapping[str, Document]) -> str:
    """Return the whole page."""
    parts = [
        "# Leaderboard",
        "",
        "Made by `python -m benchmarks.quality` (`make bench`) from `benchmarks/results/quality/*.json`, not by hand.",
        "Metrics as in [evaluate](evaluate.md); intervals are paired bootstrap intervals (95%) over test prompts.",
        "Every router without parameters in its name was tuned by cross-validation on the train split. A difference",
        "whose interval holds zero is noise. The machine's two cores were shared by two processes while it was timed.",
        "",
    ]
    for data in SETS:
        for encoder in (*data.encoders, "none"):
            document = documents.get(f"{data.name}-{encoder}")
            if document is not None:
                parts += _section(data.name, encoder, document)
    for label, document in protocols.items():
        parts += _protocol_section(label, document)
    return "\n".join(parts).rstrip() + "\n"


def _section(name: str, encoder: str, document: Document) -> list[str]:
    counts, versions, settings = document["data"], document["versions"], document["settings"]
    about = (
        f"{counts['test_prompts']:,} test prompts, {counts['train_prompts']:,} train prompts, "
        f"{counts['models']} models; "
        f"cost: {document['cost']['unit']}. Seed {settings['seed']}, commit {(versions['commit'] or 'unknown')[:12]}, "
        f"{settings.get('machine', 'machine not recorded')}; {document.get('wall_s', math.nan):.0f} s in all."
    )
    parts = [
        f"## {name}, encoder {encoder}",
        "",
        about,
        "",
        _row(
            [
                "",
                "AIQ",
                "minus Zero",
                "minus stack",
                "AIQ (code)",
                "QNC",
                "quality alone",
                "ECE",
                "fit, s",
                "decide, µs",
            ]
        ),
        _row(["---"] * 10),
    ]
    routers = document["routers"]
    ranked = sorted(routers, key=lambda router: (_ORDER[routers[router]["kind"]], -(routers[router]["aiq"] or -1.0)))
    kind = ""
    for router in ranked:
        figures = routers[router]
        if figures["kind"] != kind:
            kind = figures["kind"]
            parts.append(_row([f"*{kind}s*" if kind != "policy" else "*policies*", *[""] * 9]))
        parts.append(_row(_cells(router, figures)))
    notes = list(document["notes"])
    return [*parts, "", *(f"- {note}" for note in notes), *([""] if notes else [])]


def _cells(name: str, figures: Document) -> list[str]:
    intervals = figures["intervals"]
    chosen = ", ".join(f"{key}={value}" for key, value in figures["parameters"].items()) if figures["tuning"] else ""
    guard = figures["tuning"].get("guard") if figures["tuning"] else None
    detail = "; ".join(filter(None, [chosen, "" if guard is None else f"guard {guard:g}"]))
    quality = intervals.get("quality", {}).get("estimate")
    return [
        f"`{name}`" + (f" ({detail})" if detail else ""),
        _number(figures["aiq"]),
        _difference(intervals.get("aiq_minus_zero")),
        _difference(intervals.get("aiq_minus_stack")),
        _number(figures["aiq_code"]),
        "never" if figures["qnc"] is None else f"{figures['qnc']:.1%}",
        _number(quality),
        _number(figures["metrics"].get("ece"), digits=3),
        _number(figures["fit_s"], digits=2),
        _number(figures["decide_us"], digits=0),
    ]


def _protocol_section(label: str, document: Document) -> list[str]:
    figure = "share_of_gain" if "new-models" in label else "aiq"
    cells = [cell for cell in document["cells"] if cell["figure"] == figure]
    conditions = list(dict.fromkeys(json.dumps(cell["condition"], sort_keys=True) for cell in cells))
    routers = list(dict.fromkeys(cell["router"] for cell in cells))
    found = {(cell["router"], json.dumps(cell["condition"], sort_keys=True)): cell for cell in cells}
    heads = [", ".join(f"{key} {value}" for key, value in json.loads(condition).items()) for condition in conditions]
    rows = [[f"`{router}`", *(_mean(found.get((router, condition))) for condition in conditions)] for router in routers]
    named = figure.replace("_", " ")
    return [
        f"## Protocol: {label} ({named}, mean ± standard error over draws)",
        "",
        _row(["", *heads]),
        _row(["---"] * (len(heads) + 1)),
        *map(_row, rows),
        "",
    ]


def _mean(cell: Document | None) -> str:
    if cell is None or cell["mean"] is None:
        return ""
    error = cell.get("standard_error")
    return f"{cell['mean']:.4f}" + (f" ± {error:.4f}" if error else "")


def _aiq_cell(document: Document, router: str) -> str:
    figures = document["routers"].get(router)
    return "" if figures is None else _number(figures["aiq"])


def _test_prompts(documents: Mapping[str, Document], name: str) -> str:
    return f"{documents[f'{name}-form']['data']['test_prompts']:,} prompts"


def _difference(interval: Document | None) -> str:
    if interval is None or interval["estimate"] is None:
        return ""
    return f"{interval['estimate']:+.4f} [{interval['low']:+.4f}, {interval['high']:+.4f}]"


def _number(value: float | None, *, digits: int = 4) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
