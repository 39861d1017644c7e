"""A fifth model joins the pocket pool while traffic runs: ``python -m benchmarks.learning new-model --out DIR``.

The fifth model is the checkpoint of pocket-max at little more than the price of the cheapest, which is what a new model
is added for. A gateway and the pocket pool run as processes. Exercises with known answers are asked
through ``model="auto"`` at a constant rate, every answer is checked and the verdict given as feedback. Then the fifth
model is added through ``/admin/models``; later its price is raised, and at last it is removed. Recorded: each model's
share over time, quality and cost before and after, what the profile predicted, and every request that failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.learning._pocket_gateway import POCKET, Exercise, PocketGateway, exercises, start
from benchmarks.learning._pocket_traffic import Administrator, Asked, Traffic

NAME = "pocket-fifth"
UPSTREAM = "pocket-max"
_SETTLED_WITHIN = 0.05


@dataclass(frozen=True)
class Plan:
    """How the benchmark is run.

    Attributes
    ----------
    rate : float
        Requests a second.
    before_s, after_s, dearer_s, gone_s : float
        Seconds of traffic before the model joins, after it has, after its price was raised (0: it is not), and after it
        was removed (0: it is not).
    prompts : int
        Of the profile.
    how : str
        ``profile`` or ``zero-shot``.
    price, dearer : tuple of float
        Of the fifth model, first and raised: US dollars per million tokens read and written.
    window_s : float
        Of the shares over time.
    seed : int
        Of the traffic.
    """

    rate: float = 8.0
    before_s: float = 60.0
    after_s: float = 90.0
    dearer_s: float = 45.0
    gone_s: float = 30.0
    prompts: int = 50
    how: str = "profile"
    price: tuple[float, float] = (0.1, 0.4)
    dearer: tuple[float, float] = (1.8, 7.2)
    window_s: float = 10.0
    seed: int = 0


async def run(gateway: PocketGateway, questions: Sequence[Exercise], plan: Plan) -> dict[str, Any]:
    """Run the traffic with the changes in it, and return the results."""
    traffic, admin = Traffic(gateway, questions, plan.rate, plan.seed), Administrator(gateway)
    stop, events = asyncio.Event(), {}
    jobs: dict[str, Any] = {}
    running = asyncio.create_task(traffic.run(stop))
    try:
        await asyncio.sleep(plan.before_s)
        events["asked"] = traffic.elapsed_s()
        jobs["add"] = await admin.job("POST", "/admin/models", _new_model(gateway, questions, plan))
        await admin.until(lambda pool: pool.get(NAME, {}).get("known", False))
        events["added"] = traffic.elapsed_s()
        await asyncio.sleep(plan.after_s)
        if plan.dearer_s:
            price = dict(zip(("input", "output"), plan.dearer, strict=True))
            events["raising"] = traffic.elapsed_s()
            jobs["reprice"] = await admin.job("PUT", f"/admin/models/{NAME}/price", price)
            await admin.until(lambda pool: pool[NAME]["price"]["input"] == plan.dearer[0])
            events["raised"] = traffic.elapsed_s()
            await asyncio.sleep(plan.dearer_s)
        if plan.gone_s:
            events["removing"] = traffic.elapsed_s()
            jobs["remove"] = await admin.job("DELETE", f"/admin/models/{NAME}")
            await admin.until(lambda pool: NAME not in pool)
            events["removed"] = traffic.elapsed_s()
            await asyncio.sleep(plan.gone_s)
    finally:
        stop.set()
        await running
    return summary(traffic.asked, events, jobs, plan, end_s=traffic.elapsed_s())


def _new_model(gateway: PocketGateway, questions: Sequence[Exercise], plan: Plan) -> dict[str, Any]:
    entry = {
        "name": NAME,
        "base_url": f"{gateway.pool_url}/v1",
        "model": UPSTREAM,
        "price": dict(zip(("input", "output"), plan.price, strict=True)),
    }
    if plan.how == "zero-shot":
        return {"model": entry, "how": "zero-shot", "card": {"siblings": [UPSTREAM]}}
    references = [{"prompt": one.prompt, **one.reference} for one in questions]
    return {"model": entry, "prompts": plan.prompts, "max_output_tokens": 64, "references": references}


def summary(
    asked: Sequence[Asked], events: Mapping[str, float], jobs: Mapping[str, Any], plan: Plan, *, end_s: float
) -> dict[str, Any]:
    """Return the results: figures of the phases, shares over time, what was predicted, what failed.

    Parameters
    ----------
    asked : sequence of Asked
        All requests.
    events : mapping of str to float
        Seconds at which something began or was done.
    jobs : mapping
        States of the jobs at their ends.
    plan : Plan
        How it was run.
    end_s : float
        When the traffic ended.
    """
    phases = {
        "before": (0.0, events["asked"]),
        "joining": (events["asked"], events["added"]),
        "after": (events["added"], events.get("raising", events.get("removing", end_s))),
    }
    if "raised" in events:
        phases["dearer"] = (events["raised"], events.get("removing", end_s))
    if "removed" in events:
        phases["gone"] = (events["removed"], end_s)
    figures = {name: _figures(asked, *between) for name, between in phases.items()}
    placed = (jobs.get("add", {}).get("result") or {}).get("placement") or {}
    failed = [one for one in asked if one.error]
    return {
        "plan": asdict(plan),
        "events": dict(events),
        "requests": len(asked),
        "failed": len(failed),
        "failures": sorted({one.error for one in failed})[:10],
        "phases": figures,
        "predicted_share": (placed.get("after") or {}).get("share", {}).get(NAME),
        "observed_share": figures["after"]["share"].get(NAME, 0.0),
        "settled_after_s": settled_after(asked, *phases["after"], window_s=plan.window_s),
        "windows": _windows(asked, end_s, plan.window_s),
        "add": {key: value for key, value in (jobs.get("add", {}).get("result") or {}).items() if key != "placement"},
        "artifacts": list(
            dict.fromkeys(one.artifact for one in sorted(asked, key=lambda one: one.at_s) if one.artifact)
        ),
    }


def settled_after(asked: Sequence[Asked], start_s: float, end_s: float, *, window_s: float) -> float | None:
    """Return after how many seconds the fifth model's share stays as near to its final one as chance allows.

    The final share is that of the second half of the phase. A window is near if it lies within `_SETTLED_WITHIN` plus
    three standard errors of a share of that many requests. None if the phase is shorter than four windows, or the last
    window is not near.
    """
    count = int((end_s - start_s) / window_s)
    if count < 4:
        return None
    half = [one for one in asked if (start_s + end_s) / 2 <= one.at_s < end_s and one.model]
    if not half:
        return None
    final = sum(one.model == NAME for one in half) / len(half)
    settled: float | None = None
    for number in range(count):
        begin = start_s + number * window_s
        inside = [one for one in asked if begin <= one.at_s < begin + window_s and one.model]
        if not inside:
            return None
        share = sum(one.model == NAME for one in inside) / len(inside)
        near = abs(share - final) <= _SETTLED_WITHIN + 3 * (final * (1 - final) / len(inside)) ** 0.5
        settled = (number * window_s if settled is None else settled) if near else None
    return settled


def _figures(asked: Sequence[Asked], start_s: float, end_s: float) -> dict[str, Any]:
    inside = [one for one in asked if start_s <= one.at_s < end_s]
    answered = [one for one in inside if one.model]
    n = max(len(answered), 1)
    latencies = sorted(one.latency_s for one in answered)
    return {
        "seconds": end_s - start_s,
        "requests": len(inside),
        "failed": sum(bool(one.error) for one in inside),
        "quality": sum(one.quality or 0.0 for one in answered) / n,
        "usd_per_1000": 1000 * sum(one.cost_usd for one in answered) / n,
        "share": {name: sum(one.model == name for one in answered) / n for name in (*POCKET, NAME)},
        "quality_by_model": {
            name: sum(one.quality or 0.0 for one in own) / len(own)
            for name in (*POCKET, NAME)
            if (own := [one for one in answered if one.model == name])
        },
        "latency_p50_s": latencies[len(latencies) // 2] if latencies else None,
        "latency_p99_s": latencies[int(0.99 * (len(latencies) - 1))] if latencies else None,
    }


def _windows(asked: Sequence[Asked], end_s: float, window_s: float) -> list[dict[str, Any]]:
    found = []
    for number in range(int(end_s // window_s)):
        begin = number * window_s
        figures = _figures(asked, begin, begin + window_s)
        found.append({"at_s": begin, **{key: figures[key] for key in ("requests", "quality", "usd_per_1000", "share")}})
    return found


def plot(results: Mapping[str, Any], path: Path) -> Path | None:
    """Draw shares, quality and cost over time; None where matplotlib is missing."""
    try:
        import matplotlib as mpl
    except ImportError:
        return None
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "new-model"
    from matplotlib import pyplot as plt

    windows = results["windows"]
    middle = [window["at_s"] + results["plan"]["window_s"] / 2 for window in windows]
    figure, (shares, below) = plt.subplots(2, 1, figsize=(9, 6), sharex=True, layout="constrained")
    names = (*POCKET, NAME)
    shares.stackplot(
        middle, [[window["share"][name] for window in windows] for name in names], labels=names, alpha=0.85
    )
    shares.set(ylabel="share of requests", ylim=(0, 1))
    shares.legend(loc="upper left", fontsize=8)
    below.plot(middle, [window["quality"] for window in windows], color="#08519c", label="quality (left)")
    below.set(ylabel="right answers", xlabel="seconds", ylim=(0, 1.02))
    money = below.twinx()
    money.plot(middle, [window["usd_per_1000"] for window in windows], color="#d62728", label="USD per 1000 (right)")
    money.set(ylabel="USD per 1000 requests")
    money.set_ylim(bottom=0)
    for axis in (shares, below):
        for name, at in results["events"].items():
            axis.axvline(
                at, color="black", linewidth=0.8, linestyle=":" if name.endswith("ing") or name == "asked" else "--"
            )
    lines = [*below.get_lines()[:1], *money.get_lines()[:1]]
    below.legend(lines, [str(line.get_label()) for line in lines], loc="lower left", fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path


def table(results: Mapping[str, Any]) -> str:
    """Return the phases as a Markdown table."""
    names = (*POCKET, NAME)
    lines = [
        "| phase | seconds | requests | failed | quality | USD per 1000 | p99 s | " + " | ".join(names) + " |",
        "|---" * (7 + len(names)) + "|",
    ]
    for phase, figures in results["phases"].items():
        p99 = figures["latency_p99_s"]
        cells = [
            phase,
            f"{figures['seconds']:.0f}",
            str(figures["requests"]),
            str(figures["failed"]),
            f"{figures['quality']:.3f}",
            f"{figures['usd_per_1000']:.4f}",
            "-" if p99 is None else f"{p99:.2f}",
            *(f"{figures['share'][name]:.1%}" for name in names),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def report(results: Mapping[str, Any]) -> str:
    """Return the results as Markdown."""
    predicted, settled = results["predicted_share"], results["settled_after_s"]
    share = "nothing" if predicted is None else f"{predicted:.1%}"
    rest = "did not settle" if settled is None else f"settled within {settled + results['plan']['window_s']:.0f} s"
    served = results["phases"]["after"]["quality_by_model"].get(NAME)
    right = "" if served is None else f" {served:.1%} of its answers were right."
    return (
        f"# A fifth model joins the pocket pool while traffic runs\n\n`python -m benchmarks.learning new-model`, "
        f"{results['plan']['how']}, {results['plan']['rate']:g} requests a second, learning: "
        f"{json.dumps(results.get('learning', {}))}; {platform.machine()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}.\n\n{table(results)}\n\n"
        f"{results['requests']} requests, {results['failed']} failed. Share of {NAME}: {share} "
        f"predicted when it was added, {results['observed_share']:.1%} observed; it {rest}.{right}"
    )


def write(results: Mapping[str, Any], folder: Path) -> None:
    """Write results, report and plot."""
    (folder / "new_model.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "new_model.md").write_text(report(results) + "\n")
    plot(results, folder / "new_model.svg")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; the status is 0 if no request failed."""
    default = Plan()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning new-model", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    for name in ("rate", "before_s", "after_s", "dearer_s", "gone_s", "window_s"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=getattr(default, name))
    parser.add_argument("--prompts", type=int, default=default.prompts)
    parser.add_argument("--how", choices=["profile", "zero-shot"], default=default.how)
    parser.add_argument(
        "--explore", type=float, default=0.0, metavar="SHARE", help="of the requests; see learning.explore"
    )
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--online", action="store_true", help="feedback acts on decisions at once; see learning.online")
    options = vars(parser.parse_args(arguments))
    out, explore, online = options.pop("out"), options.pop("explore"), options.pop("online")
    plan = Plan(**options)
    learning: dict[str, Any] = {"explore": {"method": "uncertainty", "share": explore}} if explore else {}
    if online:
        learning["online"] = {"interval_s": 1.0}
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="new-model-") as folder, ExitStack() as stack:
        gateway = start(stack, Path(folder), learning=learning)
        results = {"learning": learning, **asyncio.run(run(gateway, exercises(), plan))}
    write(results, out)
    print(report(results))
    return 0 if results["failed"] == 0 else 1
