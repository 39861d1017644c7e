"""Page and plot of the poisoning benchmark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning._poison_attacks import ATTACKS, EARNED

SUCCESS_TARGET, AIQ_TARGET = 0.10, 0.01
# Two-sided 95% quantiles of Student's t by degrees of freedom.
_T = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}
Row = Mapping[str, Any]


def mean_and_half(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean over seeds and the half-width of its 95% interval (Student's t); NaN from one seed."""
    array = np.asarray(values, dtype=np.float64)
    if len(array) < 2:
        return float(array.mean()), float("nan")
    return float(array.mean()), float(_t(len(array)) * array.std(ddof=1) / np.sqrt(len(array)))


def _t(n: int) -> float:
    return _T.get(n - 1, 1.96 + 2.5 / (n - 1))


def pooled(counts: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """Return the part moved of all victims that could be, over seeds, and the half-width of its 95% interval.

    Seeds count by their victims: in some, one prompt or none could be moved, and a mean of the seeds' shares would
    be ruled by these. The interval is that of a ratio of sums over clusters; NaN from one seed.
    """
    moved, could = np.asarray(counts, dtype=np.float64).T
    share = float(moved.sum() / max(could.sum(), 1.0))
    if len(counts) < 2:
        return share, float("nan")
    rest = moved - share * could
    n = len(counts)
    error = np.sqrt(n / (n - 1) * (rest**2).sum()) / max(could.sum(), 1.0)
    return share, float(_t(n) * error)


def groups(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """Return the rows by data set and router."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["data"], row["router"]), []).append(row)
    return found


def lost(rows: Sequence[Row], where: Mapping[str, Any], *, defended: bool) -> list[float]:
    """Return the AIQ lost, as a share of that of the same seed without attack and without defences, by seed."""
    base = {row["seed"]: row["aiq"][0] for row in rows if row["kind"] == "none"}
    return [1.0 - row["aiq"][defended] / base[row["seed"]] for row in rows if _matches(row, where)]


def success(rows: Sequence[Row], where: Mapping[str, Any], *, defended: bool) -> list[tuple[int, int]]:
    """Return how many victims were moved, and how many could have been, by seed."""
    chosen = [row for row in rows if _matches(row, where) and row["moved"] is not None]
    return [(row["moved"][defended], row["open"][defended]) for row in chosen]


def _matches(row: Row, where: Mapping[str, Any]) -> bool:
    return all(row.get(name) == value for name, value in where.items())


def attackers(rows: Sequence[Row]) -> list[tuple[int, str]]:
    """Return the attackers that were tried: keys, and whose they are."""
    return list(dict.fromkeys((row["keys"], row["standing"]) for row in rows if row["kind"] != "none"))


def named(keys: int, standing: str) -> str:
    """Return what an attacker is called in tables."""
    return f"{keys} {standing} key{'s' if keys > 1 else ''}"


def verdicts(results: Mapping[str, Any]) -> list[str]:
    """Return one line a target: met or missed, by the worst share over all seeds; of old keys one for each share."""
    lines = []
    for (data, router), rows in groups(results["rows"]).items():
        for who, cells in _judged_together(rows):
            shares = [pooled(success(rows, cell, defended=True)) for cell in cells]
            worst, cell = max(zip(shares, cells, strict=True), key=lambda pair: pair[0][0])
            lines.append(
                f"* {_met(worst[0] < SUCCESS_TARGET)}: {data}, `{router}`, attackers {who}: success at most "
                f"{_fine(worst)} ({cell['kind']}, {cell['share']:.1%} poisoned, "
                f"{named(cell['keys'], cell['standing'])}; target under 10%)"
            )
        clean = mean_and_half(lost(rows, {"kind": "none"}, defended=True))
        lines.append(
            f"* {_aiq_verdict(*clean)}: {data}, `{router}`: AIQ lost by the defences without an attack "
            f"{_signed(clean)}, {len(lost(rows, {'kind': 'none'}, defended=True))} paired seeds (target under 1%)"
        )
    return lines


def _judged_together(rows: Sequence[Row]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return the attacks that one verdict is on, and who attacks."""
    cells = [cell for cell in _cells(rows) if cell["kind"] != "degrade"]
    found = [("with new keys", [cell for cell in cells if cell["standing"] == "new"])]
    for share in dict.fromkeys(cell["share"] for cell in cells):
        who = f"that know the defences, with {share:.1%} of the outcomes"
        found.append((who, [cell for cell in cells if cell["standing"] in EARNED and cell["share"] == share]))
    stolen = "with stolen keys, beyond what is defended against"
    found.append((stolen, [cell for cell in cells if cell["standing"] == "stolen"]))
    return [(who, chosen) for who, chosen in found if chosen]


def _met(met: bool) -> str:
    return "met" if met else "**missed**"


def _aiq_verdict(mean: float, half: float) -> str:
    """Return met or missed, or neither where the interval holds the target."""
    met = mean < AIQ_TARGET
    return "open" if met and mean + half >= AIQ_TARGET else _met(met)


def _cells(rows: Sequence[Row]) -> list[dict[str, Any]]:
    keys = ("kind", "share", "keys", "standing")
    return [dict(cell) for cell in dict.fromkeys(tuple((k, r[k]) for k in keys) for r in rows if r["kind"] != "none")]


_HOW_TO_READ = (
    "Success: share of the victims' prompts that go where the attacker wants and did not before, without -> with the "
    "defences, of the victims of all seeds together that could be moved, +- half the 95% interval (seeds as clusters). "
    "New keys are as old as the attack. The next belong to an attacker who knows the defences. Old keys first earn "
    "their standing with honest outcomes out of the same budget, so that small budgets feed fewer keys than the column "
    "says. Sparing keys are old ones that send a third of that poison and honest outcomes for the rest: each false "
    "outcome then keeps more of its weight. Masked keys are old ones whose other outcomes are of the attacked model "
    "and err the other way, so that they show no bias on average. What is poisoned includes the honest and the masking "
    "outcomes. Stolen keys are the honest keys of most traffic, whose history costs the attacker nothing: no part of "
    "what is defended against, and shown for what lies beyond."
)


def _header(results: Mapping[str, Any]) -> str:
    plans = "; ".join(f"`{p['router']}`: {p['outcomes']} outcomes, {p['seeds']} seeds" for p in results["plans"])
    versions, seconds = results["versions"], results["seconds"]
    return (
        f"`{results['command']}`, commit {versions.get('commit')}, {seconds:.0f} s on one core of "
        f"{versions.get('platform')}. Victims: {results['splits']} split. {plans}. "
        "Defences: the defaults of `TrustPolicy`."
    )


def page(results: Mapping[str, Any]) -> str:
    """Return the Markdown page."""
    lines = [
        "# Poisoned outcomes",
        "",
        _header(results),
        "",
        _HOW_TO_READ,
        "",
        *[f"* **{kind}**: {what}." for kind, what in ATTACKS.items()],
        "",
        "## Targets",
        "",
        *verdicts(results),
    ]
    for (data, router), rows in groups(results["rows"]).items():
        lines += ["", f"## {data}, `{router}`", "", *_success_table(rows), "", *_aiq_table(rows)]
    return "\n".join(lines) + "\n"


def _success_table(rows: Sequence[Row]) -> list[str]:
    tried = attackers(rows)
    lines = [
        "Attack success, without -> with the defences.",
        "",
        "| attack | poisoned | " + " | ".join(named(*attacker) for attacker in tried) + " |",
        "|---|---|" + "---|" * len(tried),
    ]
    for kind, share in dict.fromkeys((r["kind"], r["share"]) for r in rows if r.get("moved") is not None):
        cells = []
        for keys, standing in tried:
            where = {"kind": kind, "share": share, "keys": keys, "standing": standing}
            pair = [pooled(success(rows, where, defended=defended)) for defended in (False, True)]
            cells.append(" -> ".join(_percent(value) for value in pair))
        lines.append(f"| {kind} | {share:.1%} | " + " | ".join(cells) + " |")
    return lines


def _aiq_table(rows: Sequence[Row]) -> list[str]:
    lines = [
        "AIQ lost on clean prompts, of that without attack and without defences: worst mean over the attackers.",
        "",
        "| attack | poisoned | without | with the defences |",
        "|---|---|---|---|",
    ]
    for kind, share in dict.fromkeys((r["kind"], r.get("share")) for r in rows):
        where = [cell for cell in _cells(rows) if (cell["kind"], cell["share"]) == (kind, share)] or [{"kind": kind}]
        worst = [
            max((mean_and_half(lost(rows, cell, defended=defended)) for cell in where), key=lambda pair: pair[0])
            for defended in (False, True)
        ]
        amount = "" if share is None else f"{share:.1%}"
        lines.append(f"| {kind} | {amount} | {_signed(worst[0])} | {_signed(worst[1])} |")
    return lines


def _percent(value: tuple[float, float]) -> str:
    mean, half = value
    return f"{mean:.0%}" if np.isnan(half) else f"{mean:.0%} +- {half:.0%}"


def _fine(value: tuple[float, float]) -> str:
    share, half = value
    return f"{share:.1%}" if np.isnan(half) else f"{share:.1%} +- {half:.1%}"


def _signed(value: tuple[float, float]) -> str:
    mean, half = value
    return f"{mean:+.2%}" if np.isnan(half) else f"{mean:+.2%} +- {half:.2%}"


def plot(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the plot of success by share of poisoned outcomes; nothing where matplotlib is missing."""
    try:
        import matplotlib as mpl
    except ImportError:
        return []
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "poisoning"
    from matplotlib import pyplot as plt

    found = groups(results["rows"])
    kinds = [kind for kind in ATTACKS if kind != "degrade"]
    figure, axes = plt.subplots(
        len(found),
        len(kinds),
        figsize=(3.6 * len(kinds), 2.9 * len(found)),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    tried = dict.fromkeys(attacker for rows in found.values() for attacker in attackers(rows))
    colours = dict(zip(tried, plt.get_cmap("tab10").colors, strict=False))
    for line, ((data, router), rows) in zip(axes, found.items(), strict=True):
        for axis, kind in zip(line, kinds, strict=True):
            for keys, standing in attackers(rows):
                for defended, style in ((False, "--"), (True, "-")):
                    cells = [c for c in _cells(rows) if (c["kind"], c["keys"], c["standing"]) == (kind, keys, standing)]
                    points = [(c["share"], *pooled(success(rows, c, defended=defended))) for c in cells]
                    if points:
                        share, mean, half = map(np.asarray, zip(*points, strict=True))
                        axis.errorbar(
                            share,
                            mean,
                            yerr=np.nan_to_num(half),
                            linestyle=style,
                            marker="o",
                            markersize=3,
                            capsize=2,
                            linewidth=1.2,
                            alpha=1.0 if defended else 0.45,
                            color=colours.get((keys, standing)),
                            label=named(keys, standing) if defended else None,
                        )
            axis.axhline(SUCCESS_TARGET, color="black", linewidth=0.7, linestyle=":")
            axis.set(xscale="log", ylim=(-0.03, 1.05), title=f"{kind}\n{data}, {router.split(':')[0]}")
            axis.title.set_fontsize(9)
            axis.set_xticks([0.001, 0.01, 0.05], ["0.1%", "1%", "5%"], minor=False)
            axis.minorticks_off()
            axis.grid(alpha=0.3)
        line[0].set_ylabel("attack success")
    for axis in axes[-1]:
        axis.set_xlabel("poisoned outcomes")
    axes[0][0].legend(fontsize=7, frameon=False, title="with defences (dashed: without)", title_fontsize=7)
    path = folder / "poisoning.svg"
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return [path]
