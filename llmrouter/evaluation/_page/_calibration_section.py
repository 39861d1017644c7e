"""The calibration section: reliability diagrams of the predicted quality, pooled and of the chosen models."""

from __future__ import annotations

from html import escape

import numpy as np

from llmrouter.evaluation._calibration import Reliability, reliability
from llmrouter.evaluation._format import FEW, contenders, number
from llmrouter.evaluation._page._charts import reliability_diagram
from llmrouter.evaluation._page._html import folded, table
from llmrouter.evaluation._page._points import BUDGETS, budget_text, matched_point
from llmrouter.evaluation._result import EvaluationResult, RouterResult
from llmrouter.evaluation._scene import COLOURS, MUTED

_POOLED, _CHOSEN = MUTED, COLOURS[0]


def chosen_reliability(router: RouterResult, result: EvaluationResult) -> Reliability | None:
    """Return the reliability of the expected quality of the models chosen at matched cost; None without expectations.

    Choosing the highest expectation selects those that are too high, so it is below the diagonal of a router whose
    pooled curve is not.
    """
    if router.expected_quality is None or router.curve.choices is None:
        return None
    chosen = router.curve.choices[matched_point(router, result)].astype(np.int64)
    rows = np.arange(len(chosen))
    return reliability(router.expected_quality[rows, chosen], result.quality[rows, chosen])


def calibration_section(result: EvaluationResult) -> str:
    """Return a diagram for each of the best routers that predict quality, and the models' own figures."""
    predicting = [router for router in contenders(result) if router.calibration is not None][:FEW]
    figures = [_figure(router, result) for router in predicting]
    if not any(figures):
        return ""
    text = (
        "<p>Whether a model expected to be right in 70% of the cases is. Grey: all prompts and models, in bins of "
        f"equal counts; blue: the model chosen for each prompt within {budget_text(BUDGETS[-1])}, where picking the "
        "highest expectation tends to pick one that is too high. Bars span two standard errors either way; the small "
        "bars are the counts of the blue bins. ECE is the mean distance to the diagonal, weighted by count; it is "
        "above 0 even for a perfectly calibrated router of finite data.</p>"
    )
    return f'{text}<div class="grid">{"".join(figures)}</div>{_models(predicting[0])}'


def _figure(router: RouterResult, result: EvaluationResult) -> str:
    pooled = router.calibration
    if pooled is None or not pooled.count.size:
        return ""
    curves = [("all", pooled, _POOLED)]
    caption = f"<b>{escape(router.name)}</b><br>ECE {number(pooled.ece)} over {int(pooled.count.sum()):,} predictions"
    chosen = chosen_reliability(router, result)
    if chosen is not None and chosen.count.size:
        curves.append(("chosen", chosen, _CHOSEN))
        caption += f", {number(chosen.ece)} over the {int(chosen.count.sum()):,} chosen"
    drawn = reliability_diagram(curves, label=f"Reliability of {router.name}")
    return f"<figure>{drawn}<figcaption>{caption}</figcaption></figure>"


def _models(router: RouterResult) -> str:
    rows = [
        [
            escape(model),
            f"{figures['count']:,.0f}",
            number(figures["predicted"]),
            number(figures["observed"]),
            number(figures["predicted"] - figures["observed"], signed=True),
            number(figures["ece"]),
            number(figures["brier"]),
        ]
        for model, figures in router.model_calibration.items()
    ]
    if not rows:
        return ""
    header = ["Model", "Predictions", "Mean predicted", "Mean observed", "Bias", "ECE", "Brier"]
    return folded(f"Model by model, {escape(router.name)}", table(header, rows))
