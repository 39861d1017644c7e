"""Small pieces of HTML: what is passed to them is HTML already, so texts from the data are escaped before."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    prose: bool = False,
    left: Sequence[int] = (),
    caption: str = "",
) -> str:
    """Return a table of HTML cells in a box that scrolls sideways.

    The first column holds the row's name; with `prose` the last one is running text; `left` are columns of short texts.
    """
    last = len(header) - 1
    wraps = ["" for _ in header]
    for column in left:
        wraps[column] = ' class="text"'
    if prose:
        wraps[last] = ' class="prose"'
    head = "".join(f'<th scope="col"{wrap}>{cell}</th>' for wrap, cell in zip(wraps, header, strict=True))
    lines = []
    for cells in rows:
        first, *others = cells
        line = "".join(f"<td{wrap}>{cell}</td>" for wrap, cell in zip(wraps[1:], others, strict=True))
        lines.append(f'<tr><th scope="row"{wraps[0]}>{first}</th>{line}</tr>')
    title = f"<caption>{caption}</caption>" if caption else ""
    return scrolling(f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>")


def scrolling(content: str) -> str:
    """Return content in a box that scrolls sideways, by keyboard too."""
    return f'<div class="wide" tabindex="0">{content}</div>'


def bullets(items: Sequence[str]) -> str:
    """Return a list of HTML items; nothing for none."""
    return f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>" if items else ""


def folded(summary: str, content: str) -> str:
    """Return content under a line that opens it."""
    return f"<details><summary>{summary}</summary>{content}</details>"


def section(identity: str, title: str, content: str) -> str:
    """Return a section with a heading that can be linked to; nothing without content."""
    if not content:
        return ""
    heading = f'<h2 id="{identity}-title">{title}</h2>'
    return f'<section id="{identity}" aria-labelledby="{identity}-title">{heading}{content}</section>'


def json_island(identity: str, value: Any) -> str:
    """Return a script element of JSON, which cannot end the element early and is never run."""
    text = json.dumps(value, separators=(",", ":")).replace("<", "\\u003c").replace(">", "\\u003e")
    return f'<script type="application/json" id="{identity}">{text.replace("&", chr(92) + "u0026")}</script>'


def key(colour: str, *, dash: Sequence[float] = (), shape: str = "") -> str:
    """Return the sample of a line, or of a mark of some shape, for a legend."""
    lengths = " ".join(f"{length:g}" for length in dash)
    style = f' stroke-dasharray="{lengths}"' if lengths else ""
    line = f'<line x1="1" y1="6" x2="25" y2="6" stroke="{colour}" stroke-width="3"{style}/>'
    if shape == "square":
        line = f'<rect x="8" y="1" width="10" height="10" fill="{colour}"/>'
    elif shape:
        line = f'<path d="M8 1l10 10m0 -10l-10 10" stroke="{colour}" stroke-width="1.8"/>'
    return f'<svg class="key" viewBox="0 0 26 12" width="26" height="12" aria-hidden="true">{line}</svg>'


def tint(value: float, *, full: float) -> str:
    """Return a style attribute that shades a cell blue for more and orange for less; `full` is the deepest shade."""
    if not math.isfinite(value) or full <= 0:
        return ""
    depth = min(1.0, abs(value) / full) * 0.45
    colour = "0,114,178" if value > 0 else "213,94,0"
    return f' style="background:rgba({colour},{depth:.2f})"' if depth >= 0.005 else ""
