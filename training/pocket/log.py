"""The outcome log: what every pocket model really answered, as a data set that the router learns from.

Written in the schema of the project's outcome tables (`prompts.parquet`, `outcomes.parquet`, `models.json`), with two
columns beside it: `level` and `expected`, the right answer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from training.pocket.evaluate import ANSWER_TOKENS, Answer, Runner, batched_runner
from training.pocket.scoring import score
from training.pocket.specifications import SPECIFICATIONS
from training.pocket.tasks import TASKS, balanced
from training.pocket.types import Example

REQUESTS_AT_ONCE = 64
DATASET = "pocket"

RunnerName = Literal["engine", "generate"]


def engine_runner(folder: Path) -> Runner:
    """Return a greedy runner over the product's own engine."""
    from llmrouter.moe import GenerationRequest, load_engine

    engine = load_engine(folder)

    def run(prompts: Sequence[str], /) -> list[Answer]:
        answers: list[Answer] = []
        for start in range(0, len(prompts), REQUESTS_AT_ONCE):
            requests = [
                GenerationRequest(
                    messages=[{"role": "user", "content": prompt}], max_tokens=ANSWER_TOKENS, temperature=0.0
                )
                for prompt in prompts[start : start + REQUESTS_AT_ONCE]
            ]
            answers += [
                Answer(result.text, result.input_tokens, result.output_tokens) for result in engine.run(requests)
            ]
        return answers

    return run


def draw_prompts(*, seed: int, train_each: int, test_each: int) -> list[Example]:
    """Return the prompts of the log: every task and level alike, test after train, no prompt twice."""
    chosen: dict[str, Example] = {}
    for example in balanced(seed, "train", each=train_each) + balanced(seed, "test", each=test_each):
        chosen.setdefault(example.prompt, example)
    return list(chosen.values())


def prompt_columns(examples: Sequence[Example]) -> dict[str, list[Any]]:
    """Return the columns of prompts.parquet."""
    return {
        "prompt_id": [f"{DATASET}:{number:05d}" for number in range(len(examples))],
        "prompt": [example.prompt for example in examples],
        "query": [None] * len(examples),
        "task": [example.task for example in examples],
        "split": [example.split for example in examples],
        "source_id": [example.phrasing_id for example in examples],
        "flags": [None] * len(examples),
        "level": [example.level for example in examples],
        "expected": [example.answer for example in examples],
    }


def outcome_rows(
    examples: Sequence[Example], answers: Sequence[Answer], *, model: str, price: dict[str, float]
) -> list[dict[str, Any]]:
    """Return the rows of outcomes.parquet for one model."""
    return [
        {
            "prompt_id": f"{DATASET}:{number:05d}",
            "model": model,
            "quality": float(score(answer.text, example.answer, task=example.task)),
            "cost_usd": (answer.input_tokens * price["input"] + answer.output_tokens * price["output"]) / 1e6,
            "input_tokens": answer.input_tokens,
            "output_tokens": answer.output_tokens,
            "latency_ms": answer.latency_ms,
        }
        for number, (example, answer) in enumerate(zip(examples, answers, strict=True))
    ]


def write_log(assets: Path, *, seed: int, train_each: int, test_each: int, runner: RunnerName = "engine") -> Path:
    """Run every model on every prompt, write ``assets/outcomes``, print a summary; return the folder."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from tqdm import tqdm

    examples = draw_prompts(seed=seed, train_each=train_each, test_each=test_each)
    prompts = [example.prompt for example in examples]
    records = {name: json.loads((assets / name / "pocket.json").read_text()) for name in SPECIFICATIONS}
    rows: list[dict[str, Any]] = []
    for name, record in tqdm(records.items(), desc="models"):
        run = engine_runner(assets / name) if runner == "engine" else batched_runner(assets / name)
        rows += outcome_rows(examples, run(prompts), model=name, price=record["price"])
    folder = assets / "outcomes"
    folder.mkdir(parents=True, exist_ok=True)
    text, number, whole = pa.string(), pa.float64(), pa.int32()
    prompt_schema = pa.schema(
        [(name, text) for name in ("prompt_id", "prompt", "query", "task", "split", "source_id", "flags")]
        + [("level", whole), ("expected", text)]
    )
    outcome_schema = pa.schema(
        [
            ("prompt_id", text),
            ("model", text),
            ("quality", number),
            ("cost_usd", number),
            ("input_tokens", whole),
            ("output_tokens", whole),
            ("latency_ms", number),
        ]
    )
    pq.write_table(
        pa.table(prompt_columns(examples), schema=prompt_schema), folder / "prompts.parquet", compression="zstd"
    )
    pq.write_table(pa.Table.from_pylist(rows, outcome_schema), folder / "outcomes.parquet", compression="zstd")
    models = {
        "dataset": DATASET,
        "source_repo": "this repository: python -m training.pocket log",
        "split_origin": "source",
        "seed": seed,
        "models": [
            {
                "name": name,
                "provider": "llmrouter",
                "price_in_per_1m": record["price"]["input"],
                "price_out_per_1m": record["price"]["output"],
            }
            for name, record in records.items()
        ],
    }
    (folder / "models.json").write_text(json.dumps(models, indent=2) + "\n")
    print_summary(examples, rows)
    return folder


def print_summary(examples: Sequence[Example], rows: Sequence[dict[str, Any]]) -> None:
    """Print test quality and mean cost of every model, and of sending each domain to its specialist."""
    tested = {f"{DATASET}:{number:05d}": example for number, example in enumerate(examples) if example.split == "test"}
    by_model: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        if row["prompt_id"] in tested:
            by_model.setdefault(row["model"], {})[row["prompt_id"]] = row
    specialist = {"numbers": "pocket-numbers", "words": "pocket-words"}
    by_model["by domain"] = {
        key: by_model[specialist[TASKS[example.task].domain]][key] for key, example in tested.items()
    }
    print(f"\ntest: {len(tested)} prompts of {len(examples)}")
    print(f"{'':16s}{'quality':>9s}{'numbers':>9s}{'words':>9s}{'USD per 1k':>12s}")
    for name, outcomes in by_model.items():
        shares = []
        for domains in (("numbers", "words"), ("numbers",), ("words",)):
            marks = [row["quality"] for key, row in outcomes.items() if tested[key].domain in domains]
            shares.append(f"{sum(marks) / len(marks):9.4f}")
        cost = 1000 * sum(row["cost_usd"] for row in outcomes.values()) / len(outcomes)
        print(f"{name:16s}{''.join(shares)}{cost:12.6f}")
