"""Running finished checkpoints on generated prompts and counting right answers."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from training.pocket.scoring import score
from training.pocket.types import Example

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

ANSWER_TOKENS = 40


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said, and what it took."""

    text: str
    input_tokens: int
    output_tokens: int
    latency_ms: float | None = None


class Runner(Protocol):
    """Answers prompts in order."""

    def __call__(self, prompts: Sequence[str], /) -> list[Answer]:
        """Return one answer for each prompt."""
        ...


def load(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load a checkpoint folder with the standard classes, in single precision."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    return model, AutoTokenizer.from_pretrained(folder)


def batched_runner(folder: Path, *, batch_size: int = 128) -> Runner:
    """Return a greedy runner over plain `generate`, with prompts of like length side by side."""
    import torch

    model, tokenizer = load(folder)
    tokenizer.padding_side = "left"

    def run(prompts: Sequence[str], /) -> list[Answer]:
        rendered = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
            )
            for prompt in prompts
        ]
        lengths = [len(ids) for ids in tokenizer(rendered, add_special_tokens=False)["input_ids"]]
        order = sorted(range(len(prompts)), key=lengths.__getitem__)
        answers: dict[int, Answer] = {}
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            inputs = tokenizer(
                [rendered[row] for row in rows], padding=True, add_special_tokens=False, return_tensors="pt"
            )
            with torch.inference_mode():
                outputs = model.generate(
                    input_ids=inputs["input_ids"],
                    attention_mask=inputs["attention_mask"],
                    do_sample=False,
                    max_new_tokens=ANSWER_TOKENS,
                )
            for row, ids in zip(rows, outputs[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
                end = ids.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in ids else len(ids)
                text = tokenizer.decode(ids[:end], skip_special_tokens=True)
                answers[row] = Answer(text, lengths[row], end)
        return [answers[row] for row in range(len(prompts))]

    return run


def accuracy_table(examples: Sequence[Example], answers: Sequence[Answer]) -> dict[str, Any]:
    """Return the share of right answers: overall, by domain, by task, and by task and level."""
    marks: dict[str, dict[str, list[int]]] = {name: defaultdict(list) for name in ("domain", "task", "task_level")}
    everything: list[int] = []
    for example, answer in zip(examples, answers, strict=True):
        mark = score(answer.text, example.answer, task=example.task)
        everything.append(mark)
        marks["domain"][example.domain].append(mark)
        marks["task"][example.task].append(mark)
        marks["task_level"][f"{example.task}.{example.level}"].append(mark)
    table: dict[str, Any] = {"overall": round(sum(everything) / len(everything), 4)}
    for name, groups in marks.items():
        table[name] = {key: round(sum(values) / len(values), 4) for key, values in sorted(groups.items())}
    return table


def print_tables(tables: dict[str, dict[str, Any]]) -> None:
    """Print one row a task (levels 1/2/3 in percent) and one column a model."""
    names = list(tables)
    tasks = list(next(iter(tables.values()))["task"])
    print(f"{'task':16s}" + "".join(f"{name:>22s}" for name in names))
    for task in tasks:
        cells = []
        for name in names:
            levels = "/".join(
                f"{100 * tables[name]['task_level'][key]:.0f}"
                for key in sorted(tables[name]["task_level"])
                if key.rsplit(".", 1)[0] == task
            )
            cells.append(f"{100 * tables[name]['task'][task]:8.1f} {levels:>12s}")
        print(f"{task:16s}" + "".join(f"{cell:>22s}" for cell in cells))
    for domain in ("numbers", "words"):
        print(
            f"{domain.upper():16s}" + "".join(f"{100 * tables[name]['domain'][domain]:9.1f}{'':13s}" for name in names)
        )
    print(f"{'OVERALL':16s}" + "".join(f"{100 * tables[name]['overall']:9.1f}{'':13s}" for name in names))


def write_tables(tables: dict[str, Any], path: Path) -> None:
    """Write the tables as JSON."""
    path.write_text(json.dumps(tables, indent=1, sort_keys=True) + "\n")
