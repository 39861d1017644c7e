"""How costs and figures are written for people: one place for the terminal, the plot and the page."""

from __future__ import annotations

import math
from dataclasses import dataclass

from llmrouter.evaluation._intervals import Interval
from llmrouter.evaluation._result import EvaluationResult, RouterResult

MISSING = "-"

# What could be deployed: it reads the prompt and sees no outcome.
CONTENDERS = ("router", "policy", "flow")
# Of many contenders the plot and the sentences show so many, the best ones.
FEW = 6


@dataclass(frozen=True)
class CostDisplay:
    """Display of a cost axis: values are multiplied by `scale` and written with `prefix` and `suffix`."""

    scale: float
    prefix: str
    suffix: str
    title: str

    def text(self, cost: float) -> str:
        """Return a cost, in the axis' own unit, as text with three significant digits."""
        if not math.isfinite(cost):
            return MISSING
        return f"{self.prefix}{plain_number(cost * self.scale)}{self.suffix}"


def plain_number(value: float, *, digits: int = 3) -> str:
    """Return a number with some significant digits and without an exponent."""
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def cost_display(result: EvaluationResult) -> CostDisplay:
    """Return how the costs of an evaluation are shown."""
    if result.cost_axis == "usd":
        return CostDisplay(1000.0, "$", "", "Cost, US dollars per 1,000 prompts")
    if result.cost_axis == "list_price":
        return CostDisplay(1.0, "$", "", "Mean list price of the models used, US dollars per million tokens")
    strongest = result.data.get("strongest_model") or "the strongest model"
    return CostDisplay(100.0, "", "%", f"Prompts sent to {short_name(str(strongest))}, %")


def short_name(model: str) -> str:
    """Return a model's name without its organisation: ``meta/llama-3`` -> ``llama-3``."""
    return model.rsplit("/", 1)[-1]


def number(value: float, *, digits: int = 4, signed: bool = False, missing: str = MISSING) -> str:
    """Return a figure with fixed decimals; `missing` for NaN, ``never`` for infinity."""
    if math.isnan(value):
        return missing
    if math.isinf(value):
        return "never"
    value = round(value, digits) + 0.0  # no minus before a zero
    return f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"


def share(value: float) -> str:
    """Return a share as per cent; a dash for NaN, ``never`` for infinity."""
    return f"{round(100 * value, 1) + 0.0:.1f}%" if math.isfinite(value) else number(value)


def difference(interval: Interval | None) -> str:
    """Return a difference with its interval, e.g. ``+0.0355 [+0.0231, +0.0481]``."""
    if interval is None or math.isnan(interval.estimate):
        return MISSING
    ends = f"[{number(interval.low, signed=True)}, {number(interval.high, signed=True)}]"
    return f"{number(interval.estimate, signed=True)} {ends}"


def headline(result: EvaluationResult) -> str:
    """Return one line that says what was compared on what."""
    data = result.data
    return (
        f"{data['name'] or 'unnamed data'}: {data['test_prompts']:,} test prompts, "
        f"{data['train_prompts']:,} train prompts, {data['models']} models"
    )


def contenders(result: EvaluationResult) -> list[RouterResult]:
    """Return what could be deployed (routers, policies, flows), by falling AIQ, or peak where that is undefined."""

    def rank(router: RouterResult) -> tuple[bool, float, float]:
        undefined = math.isnan(router.aiq)
        return (undefined, 0.0 if undefined else -router.aiq, -router.peak_quality)

    return sorted((router for router in result.routers.values() if router.kind in CONTENDERS), key=rank)


def findings(result: EvaluationResult) -> list[str]:
    """Return what each contender saves, one sentence each; of many only the best few."""
    dearest = result.models.index(result.dearest)
    quality = result.model_quality[dearest]
    best = contenders(result)
    told = {router.name for router in best[:FEW]}
    sentences = []
    for name, router in result.routers.items():
        if name not in told or math.isnan(router.dearest_share):
            continue
        if math.isinf(router.dearest_share):
            sentences.append(f"{name} never reaches the quality of {result.dearest} ({quality:.4f}).")
        else:
            sentences.append(
                f"{name} reaches the quality of {result.dearest} ({quality:.4f}) at {share(router.dearest_share)} "
                "of its cost."
            )
    if len(best) > FEW:
        sentences.append(f"These are the {FEW} of the highest AIQ; {len(best) - FEW} more are in the report.")
    return sentences
