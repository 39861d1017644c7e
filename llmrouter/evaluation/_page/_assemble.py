"""Put the page together."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from html import escape

from llmrouter.evaluation._format import headline
from llmrouter.evaluation._page._calibration_section import calibration_section
from llmrouter.evaluation._page._details import models_table, operating_points, provenance
from llmrouter.evaluation._page._errors import errors_section
from llmrouter.evaluation._page._figure import figure, hover_points, make_scenes, series_key
from llmrouter.evaluation._page._html import json_island, section
from llmrouter.evaluation._page._leaderboard import group_rules, leaderboard
from llmrouter.evaluation._page._protocols import protocol_sections
from llmrouter.evaluation._page._script import SCRIPT
from llmrouter.evaluation._page._style import STYLE
from llmrouter.evaluation._page._summary import summary
from llmrouter.evaluation._page._tasks import tasks_section
from llmrouter.evaluation._protocol_result import ProtocolResult
from llmrouter.evaluation._result import EvaluationResult


def render_page(result: EvaluationResult, *, protocols: Sequence[ProtocolResult] = ()) -> str:
    """Return the report as one HTML page that makes no request.

    Its content security policy forbids every request and every script but the page's own, which is named by its hash.
    Names from the data are escaped, prompts appear by id only. Without scripts the page is complete and still.

    Parameters
    ----------
    result : EvaluationResult
        What was found.
    protocols : sequence of ProtocolResult
        Protocol results to show beside it, e.g. of new models or learning curves.

    Returns
    -------
    str
        HTML: findings, cost-quality plot, leaderboard, quality by task, where the best router goes wrong, the
        protocols, calibration, operating points, models, and how it was made.
    """
    scenes = make_scenes(result)
    samples = {series.name: series_key(series) for series in next(iter(scenes.values())).series}
    sections = [
        ("leaderboard", "Leaderboard", leaderboard(result, samples=samples)),
        ("tasks", "Quality by task", tasks_section(result)),
        ("errors", "Where the router goes wrong", errors_section(result)),
    ]
    built = [(identity, title, section(identity, title, content)) for identity, title, content in sections]
    built += protocol_sections(result, protocols)
    last = [
        ("calibration", "Calibration of the predicted quality", calibration_section(result)),
        ("points", "Operating points", operating_points(result)),
        ("models", "Models", models_table(result)),
        ("provenance", "How this was made", provenance(result)),
    ]
    built += [(f"{identity}-section", title, section(f"{identity}-section", title, c)) for identity, title, c in last]
    built = [entry for entry in built if entry[2]]
    links = "".join(f'<a href="#{identity}">{escape(title)}</a>' for identity, title, _ in built)
    body = [
        f"<header><h1>Router evaluation on {escape(str(result.data['name'] or 'unnamed data'))}</h1>",
        f"<p>{escape(headline(result).partition(': ')[2])}; cost: {escape(result.cost_unit)}.</p></header>",
        summary(result),
        f'<nav aria-label="Sections">{links}</nav>',
        figure(result, scenes),
        *(content for _, _, content in built),
        json_island("points", hover_points(result, scenes)),
    ]
    return _document(f"Router evaluation on {result.data['name']}", "\n".join(body))


def _document(title: str, body: str) -> str:
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; "
        "form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}{group_rules()}</style>\n</head>\n<body>\n{body}\n"
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )
