"""RouterBench (arXiv 2403.12031): one wide row a prompt, as a pickled DataFrame or as CSV."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmrouter.exceptions import DataError
from llmrouter.outcomes._benchmark_files import check_columns, csv_header, csv_rows, list_files, split_in_name
from llmrouter.outcomes._benchmark_grid import BenchmarkGrid, BenchmarkPrompt
from llmrouter.outcomes._pickle_frame import PickledFrame
from llmrouter.outcomes._schema import Problems
from llmrouter.types import Price

SUFFIXES = (".pkl", ".pickle", ".csv")

# US dollars per million tokens: the figures of withmartian/routerbench, routers/common.py, which divides them by ten
# million; the logged costs are whole token counts only if they are prices per million.
PRICES: Mapping[str, Price] = {
    "WizardLM/WizardLM-13B-V1.2": Price(0.3, 0.3),
    "claude-instant-v1": Price(0.8, 2.4),
    "claude-v1": Price(8.0, 24.0),
    "claude-v2": Price(8.0, 24.0),
    "gpt-3.5-turbo-1106": Price(1.0, 2.0),
    "gpt-4-1106-preview": Price(10.0, 30.0),
    "meta/code-llama-instruct-34b-chat": Price(0.776, 0.776),
    "meta/llama-2-70b-chat": Price(0.9, 0.9),
    "mistralai/mistral-7b-chat": Price(0.2, 0.2),
    "mistralai/mixtral-8x7b-chat": Price(0.6, 0.6),
    "zero-one-ai/Yi-34B-Chat": Price(0.8, 0.8),
}

_COST = "|total_cost"
_ALWAYS = ("sample_id", "prompt", "eval_name")
# Worked examples in front of every prompt of a task are longer, an instruction ("answer with a letter") is shorter.
_SHARED_PREFIX = 200
_FEWEST_PROMPTS = 20


def is_routerbench(columns: Sequence[str]) -> bool:
    """Return whether a CSV file with these columns is RouterBench's."""
    return set(_ALWAYS) <= set(columns) and bool(_models(columns))


def read_routerbench(path: Path, grid: BenchmarkGrid, *, strip_shared_prefix: bool = True) -> None:
    """Read ``routerbench_0shot.pkl``, ``routerbench_5shot.pkl`` or CSV files with the same columns.

    Columns: sample_id, prompt, eval_name, and for each model its score under its own name and its cost in US dollars
    under ``<model>|total_cost``; responses and the oracle's choice are ignored. The prompt is a list of turns, or such
    a list as Python writes it: the router reads the first turn. CSV files are split as their names say
    (``arc_challenge_train.csv``).

    Parameters
    ----------
    path : Path
        A file, or a folder of them.
    grid : BenchmarkGrid
        Filled.
    strip_shared_prefix : bool
        Leave out what all prompts of a task begin with, where it is long: worked examples, which make all of them look
        alike to an encoder.

    Raises
    ------
    UnsafePickleError
        If a pickle asks for anything that no table needs.
    DataError
        If a file is broken or has other columns.
    """
    rows: list[tuple[str, str, BenchmarkPrompt, Mapping[str, Any], list[str]]] = []
    several_turns = 0
    for file in list_files(path, SUFFIXES):
        columns, records = _records(file, grid.problems)
        check_columns(columns, _ALWAYS, source=str(file), layout="RouterBench")
        models = _models(columns)
        if not models:
            check_columns(columns, ["<model>", f"<model>{_COST}"], source=str(file), layout="RouterBench")
        split = split_in_name(file.stem)[1]
        for where, record in records:
            turns = _turns(record["prompt"])
            if turns is None:
                grid.problems.add(where, "prompt is neither text nor a list of texts; export the row again")
                continue
            several_turns += len(turns) > 1
            prompt = BenchmarkPrompt(turns[0], _word(record["eval_name"]) or "unknown", split)
            rows.append((where, _word(record["sample_id"]), prompt, record, models))
    prefixes = _shared_prefixes([prompt for _, _, prompt, _, _ in rows]) if strip_shared_prefix else {}
    for where, key, prompt, record, models in rows:
        rest = (prompt.text or "")[prefixes.get(prompt.task, 0) :]
        shown = BenchmarkPrompt(rest, prompt.task, prompt.split) if rest.strip() else prompt
        if grid.add_prompt(key, shown, where=where):
            for model in models:
                values = {"quality": record[model], "cost_usd": record[model + _COST]}
                grid.add_cell(key, model, values, where=where, label=model)
    if several_turns:
        grid.notes.append(f"{several_turns} prompts have several turns: the router reads the first")
    if prefixes:
        grid.notes.append(
            f"left out of the texts: the worked examples that all prompts of {', '.join(sorted(prefixes))} begin with"
        )


def _models(columns: Sequence[str]) -> list[str]:
    present = set(columns)
    return [name for name in columns if name + _COST in present]


def _records(file: Path, problems: Problems) -> tuple[Sequence[str], Iterator[tuple[str, Mapping[str, Any]]]]:
    """Return the columns of a file, and the rows of those that are read: the responses are most of it."""
    if file.suffix == ".csv":
        header = csv_header(file)
        wanted = _wanted(header)
        rows = csv_rows(file, problems)
        return header, ((where, {name: row[name] for name in wanted}) for where, row in rows)
    frame = PickledFrame(file)
    return frame.columns, _frame_records(file, frame)


def _wanted(columns: Sequence[str]) -> list[str]:
    models = _models(columns)
    return [*_ALWAYS, *models, *(model + _COST for model in models)]


def _frame_records(file: Path, frame: PickledFrame) -> Iterator[tuple[str, Mapping[str, Any]]]:
    wanted = _wanted(frame.columns)
    columns = [frame.values(name) for name in wanted]
    for position, values in enumerate(zip(*columns, strict=True), start=1):
        yield f"{file.name} row {position}", dict(zip(wanted, values, strict=True))


def _word(value: Any) -> str:
    """Return a name as text, empty where there is none (pandas writes NaN)."""
    return "" if value is None or value != value else str(value)


def _turns(prompt: Any) -> list[str] | None:
    """Return the turns of a prompt, which is a list, the Python text of a list, or plain text; None if it is none."""
    if isinstance(prompt, str):
        if not prompt.startswith(("['", '["')):
            return [prompt]
        try:
            turns = ast.literal_eval(prompt)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return [prompt]
        return turns if _is_texts(turns) else [prompt]
    return list(prompt) if _is_texts(prompt) else None


def _is_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(turn, str) for turn in value)


def _shared_prefixes(prompts: Sequence[BenchmarkPrompt]) -> dict[str, int]:
    """Return task -> length of the whole lines that all its prompts begin with, where these are worked examples."""
    texts: dict[str, set[str]] = {}
    for prompt in prompts:
        texts.setdefault(prompt.task, set()).add(prompt.text or "")
    prefixes: dict[str, int] = {}
    for task, distinct in texts.items():
        if len(distinct) >= _FEWEST_PROMPTS:
            first, last = min(distinct), max(distinct)  # what these share, all share
            differ = next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
            length = first.rfind("\n", 0, differ) + 1
            if length >= _SHARED_PREFIX:
                prefixes[task] = length
    return prefixes


def routerbench_files(names: Sequence[str]) -> list[str]:
    """Return which files of the hub repository to fetch: the zero-shot table.

    Raises
    ------
    DataError
        If it is not there.
    """
    wanted = [name for name in names if name.endswith("routerbench_0shot.pkl")]
    if not wanted:
        raise DataError(f"the repository has no routerbench_0shot.pkl; it has: {', '.join(names)}")
    return wanted
