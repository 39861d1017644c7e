"""How far off-policy estimates can be trusted: ``python -m benchmarks.learning off-policy --data DIR --out DIR``.

A full-information table is played back as one-armed traffic many times over. From each log the utility of a router is
estimated, and its gain over the policy that is live; both are known exactly from the table. Counted are how often the
95% intervals hold the truth, bias and root mean squared error, for every method. Prompts of the train split alone.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning._off_policy_population import Traffic, load_traffic
from benchmarks.quality.run import machine
from llmrouter.evaluation import LoggedDecisions, OffPolicyResult, off_policy_estimate
from llmrouter.evaluation._provenance import versions
from llmrouter.learning import cross_fitted
from llmrouter.types import FloatArray, IntArray

LOGS = 500
AIM = (0.90, 0.98)
_DATA = "routerbench_subset"
_COMPONENTS = 32
_FOLDS = 3
_LEARNED_FROM = 700
_WEAK_FROM = 120


@dataclass(frozen=True)
class Setting:
    """How the logs are made.

    Attributes
    ----------
    name : str
        For the table.
    rows : int
        Requests of a log.
    share : float
        Of them that chance decides.
    live : str
        ``best-single``, or ``router``: one that was fitted on few prompts.
    uneven : bool
        Whether chance prefers what the live policy's router expects much of (a softmax), or deals evenly.
    """

    name: str
    rows: int
    share: float
    live: str
    uneven: bool = False


SETTINGS = (
    Setting("500 requests, 20% explored", 500, 0.2, "best-single"),
    Setting("2,000 requests, 10% explored", 2000, 0.1, "router"),
    Setting("5,000 requests, 5% explored", 5000, 0.05, "best-single"),
    Setting("2,000 requests, 10% explored unevenly", 2000, 0.1, "router", uneven=True),
)
INTERVALS = ("auto", "student")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning off-policy", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the data sets")
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR")
    parser.add_argument("--logs", type=int, default=LOGS, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    world = World.of(load_traffic(options.data, _DATA), seed=options.seed)
    found = [measure(world, setting, logs=options.logs, seed=options.seed) for setting in SETTINGS]
    document = {
        "command": f"python -m benchmarks.learning off-policy --logs {options.logs} --seed {options.seed}",
        "data": _DATA,
        "machine": machine(),
        "versions": versions(),
        "wall_s": round(time.perf_counter() - started, 1),
        "logs": options.logs,
        "settings": found,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "off_policy.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    text = as_text(document)
    (options.out / "off_policy.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


@dataclass(frozen=True)
class World:
    """What logs are drawn from: prompts that neither the new router nor the live one was fitted on.

    Attributes
    ----------
    traffic : Traffic
        All prompts.
    asked : array of shape (k,)
        Those that are asked.
    new : array of shape (n,)
        What the new router chooses for every prompt.
    live : mapping of str to array of shape (n,)
        What the live policies choose.
    leaning : array of shape (n, m)
        How much uneven chance prefers each model.
    Z : array of shape (n, d)
        What expected rewards are learned from: the first principal components of the embeddings, for speed.
    """

    traffic: Traffic
    asked: IntArray
    new: IntArray
    live: Mapping[str, IntArray]
    leaning: FloatArray
    Z: FloatArray

    @classmethod
    def of(cls, traffic: Traffic, *, seed: int) -> World:
        """Set prompts aside for the routers, and fit them."""
        order = np.random.default_rng([seed, 1]).permutation(len(traffic))
        fitted, asked = order[:_LEARNED_FROM], order[_LEARNED_FROM:]
        centred = traffic.X - traffic.X[fitted].mean(axis=0)
        axes = np.linalg.svd(centred[fitted], full_matrices=False)[2][:_COMPONENTS]
        level = traffic.utility[fitted[:_WEAK_FROM]].mean(axis=0)
        leaning: FloatArray = np.exp((level - level.max()) / 0.1)
        return cls(
            traffic=traffic,
            asked=asked,
            new=traffic.policy(fitted, "router"),
            live={kind: traffic.policy(fitted[:_WEAK_FROM], kind) for kind in ("best-single", "router")},
            leaning=np.tile(leaning / leaning.sum(), (len(traffic), 1)),
            Z=(centred @ axes.T).astype(np.float32),
        )

    def chances(self, setting: Setting) -> FloatArray:
        """Return the logging policy's probabilities, shape (n, m)."""
        even = self.traffic.propensities(self.live[setting.live], share=setting.share)
        if not setting.uneven:
            return even
        m = even.shape[1]
        # A tenth of what is explored is dealt evenly: no model is left out.
        chance: FloatArray = even - 0.9 * setting.share / m + 0.9 * setting.share * self.leaning
        return chance

    def truth(self, setting: Setting) -> tuple[float, float]:
        """Return the new router's utility, and its gain over the live policy, over the prompts that are asked."""
        utility, rows = self.traffic.utility[self.asked], np.arange(len(self.asked))
        new = float(utility[rows, self.new[self.asked]].mean())
        return new, new - float(utility[rows, self.live[setting.live][self.asked]].mean())

    def estimated(self, setting: Setting, random: np.random.Generator) -> dict[str, OffPolicyResult]:
        """Draw one log and return the estimates from it, by how intervals are made."""
        rows = random.choice(self.asked, setting.rows)
        chance = self.chances(setting)[rows]
        every = np.arange(len(rows))
        chosen = np.minimum(
            (random.random(len(rows))[:, None] > chance.cumsum(axis=1)).sum(axis=1), chance.shape[1] - 1
        )
        reward = self.traffic.utility[rows, chosen]
        seen = np.full(chance.shape, np.nan)
        seen[every, chosen] = reward
        expected = cross_fitted(self.Z[rows], seen, groups=[str(row) for row in rows.tolist()], folds=_FOLDS)
        one = np.eye(chance.shape[1])
        log = LoggedDecisions(chosen, reward, chance[every, chosen], chance)
        return {
            kind: off_policy_estimate(
                log,
                one[self.new[rows]],
                baseline=one[self.live[setting.live][rows]],
                model=expected,
                interval=kind,  # type: ignore[arg-type] # a name out of INTERVALS
            )
            for kind in INTERVALS
        }


def measure(world: World, setting: Setting, *, logs: int, seed: int) -> dict[str, Any]:
    """Return coverage, bias and error over many logs of one kind."""
    random = np.random.default_rng([seed, 2, *setting.name.encode()])
    value, gain = world.truth(setting)
    results = [world.estimated(setting, random) for _ in range(logs)]
    rows = []
    for what, truth in (("target", value), ("difference", gain)):
        for method in results[0]["auto"].target:
            found = {kind: [getattr(result[kind], what)[method] for result in results] for kind in INTERVALS}
            values = np.array([estimate.value for estimate in found["auto"]])
            known = np.isfinite(values)
            rows.append(
                {
                    "of": what,
                    "method": method,
                    "bias": float(values[known].mean() - truth),
                    "rmse": float(np.sqrt(np.square(values[known] - truth).mean())),
                    "undefined": int((~known).sum()),
                    "coverage": {
                        kind: sum(estimate.low <= truth <= estimate.high for estimate in estimates) / logs
                        for kind, estimates in found.items()
                    },
                    "width": float(np.mean([e.high - e.low for e in found["auto"] if math.isfinite(e.low)])),
                    "too_high": sum(estimate.low > truth for estimate in found["auto"]) / logs,
                }
            )
    first = results[0]["auto"]
    return {
        "name": setting.name,
        "rows": setting.rows,
        "share": setting.share,
        "live": setting.live,
        "uneven": setting.uneven,
        "truth": {"target": value, "difference": gain},
        "disagreement": first.overlap.disagreement,
        "least_propensity": first.overlap.least_propensity,
        "effective_rows": float(np.mean([result["auto"].overlap.effective_rows for result in results])),
        "effective_difference": float(np.mean([result["auto"].overlap.effective_difference for result in results])),
        "methods": rows,
    }


def as_text(document: Mapping[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        "# Off-policy estimates: coverage, bias and error",
        "",
        f"`{document['command']}`; {document['machine']}; {document['wall_s']:.0f} s.",
        f"Train split of {document['data']}: {_LEARNED_FROM} prompts for the routers, the rest asked with replacement;",
        f"{document['logs']} logs of each kind. Reward: quality less 0.3 x cost / reference.",
        f"Aim: 95% intervals hold the truth in {AIM[0]:.0%} to {AIM[1]:.0%} of the logs.",
        "`auto` intervals know all propensities of the log, `student` ones that of the chosen model alone.",
        "",
    ]
    for setting in document["settings"]:
        truth = setting["truth"]
        lines += [
            f"## {setting['name']}",
            "",
            f"Live: {setting['live']}; the new router differs on {setting['disagreement']:.0%} of the requests,",
            f"and its choices are logged with a probability of at least {setting['least_propensity']:.4f}.",
            f"Truth: {truth['target']:.4f}, gain {truth['difference']:+.4f}.",
            f"Effective rows: {setting['effective_rows']:.0f}, of the gain {setting['effective_difference']:.1f}.",
            "",
            "| of | method | bias | RMSE | width | coverage (auto) | truth below | coverage (student) | aim |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for row in setting["methods"]:
            covered = row["coverage"]["auto"]
            lines.append(
                f"| {row['of']} | {row['method']} | {row['bias']:+.4f} | {row['rmse']:.4f} | {row['width']:.3f} | "
                f"{covered:.1%} | {row['too_high']:.1%} | {row['coverage']['student']:.1%} | "
                f"{'met' if AIM[0] <= covered <= AIM[1] else 'missed'} |"
            )
        lines.append("")
    return "\n".join(lines)
