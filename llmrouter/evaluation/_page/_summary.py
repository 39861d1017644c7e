"""The headline: in sentences, what the best deployable router is worth, and whether that is more than luck."""

from __future__ import annotations

import math
from html import escape

from llmrouter.evaluation._format import contenders, cost_display, difference, number, share
from llmrouter.evaluation._intervals import Interval, bootstrap_aiq, percentile_interval
from llmrouter.evaluation._page._html import bullets, table
from llmrouter.evaluation._page._savings import Saving, savings
from llmrouter.evaluation._result import EvaluationResult, RouterResult


def differences_to_best(result: EvaluationResult, rivals: list[RouterResult]) -> dict[str, Interval]:
    """Return the AIQ of each rival minus that of the first, with paired intervals; empty without resamples or AIQs."""
    resamples = int(result.settings.get("resamples") or 0)
    known = [router for router in rivals if not math.isnan(router.aiq)]
    if not resamples or len(known) < 2:
        return {}
    curves = {router.name: router.curve for router in known}
    samples = bootstrap_aiq(
        curves, result.routers["zero"].curve, resamples=resamples, seed=int(result.settings["seed"])
    )
    best = known[0]
    level = float(result.settings["level"])
    return {
        router.name: percentile_interval(samples[router.name] - samples[best.name], router.aiq - best.aiq, level=level)
        for router in known[1:]
    }


def summary(result: EvaluationResult) -> str:
    """Return the findings as a list of sentences, and what the best router saves by how much quality is kept."""
    rivals = contenders(result)
    if not rivals:
        return "<p>No router was evaluated: baselines and bounds only.</p>"
    best = rivals[0]
    saved = savings(best, result)
    sentences = [
        *_aiq_sentence(best, rivals, result),
        _saving_sentence(saved[0], result),
        *_quality_sentence(best, result),
        *_rival_sentences(rivals, result),
        *_task_sentence(best, result),
        *_oracle_sentence(best, result),
    ]
    return bullets(sentences) + _savings_table(best, saved, result)


def _savings_table(best: RouterResult, saved: list[Saving], result: EvaluationResult) -> str:
    if all(math.isnan(one.share) for one in saved):
        return ""
    zero = savings(result.routers["zero"], result)
    single = float(result.model_quality[result.models.index(result.best_single)])
    rows = [
        [f"{100 * one.kept:g}%", number(one.kept * single), _saved(one), _saved(other)]
        for one, other in zip(saved, zero, strict=True)
    ]
    header = ["Quality kept", "Quality", f"Cost saved by {escape(best.name)}", "by mixing single models"]
    caption = f"Saved against {escape(result.best_single)}, by how much of its quality is kept"
    return table(header, rows, caption=caption)


def _saved(saving: Saving) -> str:
    if math.isinf(saving.share):
        return "never reached"
    text = share(1 - saving.share)
    if math.isnan(saving.low):
        return text
    ends = ["never" if math.isinf(end) else share(1 - end) for end in (saving.high, saving.low)]
    return f"{text} <small>[{ends[0]}, {ends[1]}]</small>"


def _name(name: str) -> str:
    return f"<b>{escape(name)}</b>"


def _verdict(interval: Interval, *, above: str, below: str) -> str:
    if math.isnan(interval.low):
        return "the interval is undefined"
    if interval.low > 0:
        return above
    return below if interval.high < 0 else "not told apart: the interval holds 0"


def _aiq_sentence(best: RouterResult, rivals: list[RouterResult], result: EvaluationResult) -> list[str]:
    zero = result.routers["zero"]
    if math.isnan(best.aiq):
        return [
            "AIQ is undefined here, so there is no ranking by cost and quality together: "
            + escape("; ".join(best.notes) or "the Zero router's cost range has no length")
            + "."
        ]
    of = f" of {len(rivals)} routers, policies and flows" if len(rivals) > 1 else ""
    sentence = f"{_name(best.name)} has the highest AIQ{of}: {number(best.aiq)}, the Zero router {number(zero.aiq)}"
    interval = best.intervals.get("aiq_minus_zero")
    if interval is None:
        return [f"{sentence}. There are no intervals, so nothing is said about luck."]
    level = f"{100 * interval.level:g}%"
    verdict = _verdict(
        interval, above="significantly above the best mixture of single models", below="significantly below it"
    )
    picked = " It was picked as the best on these very prompts, which flatters it a little." if len(rivals) > 1 else ""
    return [f"{sentence}; {difference(interval)} ({level} paired interval): {verdict}.{picked}"]


def _saving_sentence(found: Saving, result: EvaluationResult) -> str:
    single = f"{escape(result.best_single)}, the best single model by train"
    quality = number(float(result.model_quality[result.models.index(result.best_single)]))
    if math.isnan(found.share):
        return f"{single}, is free here: there is no cost to save."
    if math.isinf(found.share):
        often = f" In {share(found.reached)} of the resamples it does." if found.reached > 0 else ""
        return f"It never reaches the quality of {single} ({quality}).{often}"
    saved = 1 - found.share
    text = (
        f"At equal quality it saves {_name(share(saved))} of the cost of {single} ({quality})"
        if saved >= 0
        else f"Equal quality to {single} ({quality}) costs {_name(share(-saved))} more than that model"
    )
    interval = ""
    if not math.isnan(found.low):
        low = "never reached" if math.isinf(found.high) else share(1 - found.high)
        interval = f" [{low}, {share(1 - found.low)}]"
        if found.reached < 1:
            interval += f", reached in {share(found.reached)} of the resamples"
    return f"{text}{interval}; the point of its curve is chosen in hindsight."


def _quality_sentence(best: RouterResult, result: EvaluationResult) -> list[str]:
    interval = best.intervals.get("quality_minus_best_single")
    if interval is None or math.isnan(interval.estimate):
        return []
    verdict = _verdict(interval, above="significantly better", below="significantly worse")
    return [f"Where quality alone counts it is {difference(interval)} against {escape(result.best_single)}: {verdict}."]


def _rival_sentences(rivals: list[RouterResult], result: EvaluationResult) -> list[str]:
    found = differences_to_best(result, rivals)
    if not found:
        return []
    close = [name for name, interval in found.items() if interval.high >= 0]
    best = _name(rivals[0].name)
    if not close:
        return [f"All {len(found)} others have a significantly lower AIQ than {best}."]
    listed = ", ".join(f"{escape(name)} ({number(found[name].estimate, signed=True)})" for name in close)
    others = len(found) - len(close)
    rest = f"; {others} other{'s are' if others > 1 else ' is'} significantly lower" if others else ""
    return [f"Not told apart from {best} by the paired interval of the AIQ difference: {listed}{rest}."]


def _task_sentence(best: RouterResult, result: EvaluationResult) -> list[str]:
    told = result.routers.get("task-mean")
    if told is None or math.isnan(told.aiq) or math.isnan(best.aiq):
        return []
    text = f"Being told each prompt's task, and nothing else of it, gives an AIQ of {number(told.aiq)}"
    interval = differences_to_best(result, [told, best]).get(best.name)
    if interval is None:
        return [f"{text}; {_name(best.name)} is not told."]
    verdict = _verdict(interval, above="significantly above that", below="significantly below that")
    return [f"{text}; {_name(best.name)}, which is not told, is {difference(interval)} from it: {verdict}."]


def _oracle_sentence(best: RouterResult, result: EvaluationResult) -> list[str]:
    oracle = result.routers["oracle"]
    single = float(result.model_quality[result.models.index(result.best_single)])
    gap = oracle.peak_quality - single
    if gap <= 0:
        return [f"The oracle is no better than the best single model ({number(single)}): there is nothing to gain."]
    closed = (best.peak_quality - single) / gap
    text = (
        f"The oracle, which knows every outcome, reaches {number(oracle.peak_quality)} at "
        f"{escape(cost_display(result).text(oracle.peak_cost))}; {_name(best.name)} closes {share(closed)} of the gap "
        "to it from the best single model, at its peak."
    )
    luck = oracle.metrics.get("oracle_independent", math.nan)
    if not math.isnan(luck):
        text += (
            f" Chance alone would give an oracle of {number(luck)} to a pool as accurate on every task whose successes "
            "were independent of the prompt (arXiv:2607.03436)."
        )
    return [text]
