"""A user's own logs to an outcome table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from llmrouter.exceptions import DataError
from llmrouter.outcomes._calls import BadRowError, ChatText, ReadingOptions, UnusableRowError
from llmrouter.outcomes._chat import last_user_turn
from llmrouter.outcomes._collect import CallCollector
from llmrouter.outcomes._identity import DEFAULT_TEST_SHARE, assign_split
from llmrouter.outcomes._litellm_log import read_litellm
from llmrouter.outcomes._log_files import detect, find_logs, read_json
from llmrouter.outcomes._named_columns import check_mapping, read_csv, read_named
from llmrouter.outcomes._openai_log import BatchJoin, read_openai
from llmrouter.outcomes._schema import Problems
from llmrouter.outcomes._table import OutcomeTable
from llmrouter.types import Price

LogFormat = Literal["auto", "openai", "litellm", "csv", "jsonl"]
_FORMATS = ("auto", "openai", "litellm", "csv", "jsonl")
_READERS = {"openai": read_openai, "litellm": read_litellm, "csv": read_named, "jsonl": read_named}

_BAD_ROW = "bad row"
_TRUNCATED = "litellm_truncated"


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What became of the rows of a log.

    Attributes
    ----------
    format : str
        The format(s) as which the files were read.
    rows_read, rows_kept : int
        Calls found, and calls that went into the table.
    skipped : mapping of str to int
        Reason -> calls left out for it.
    problems : tuple of str
        One line a bad row: file, line, field, value, remedy.
    notes : tuple of str
        What to know about the result.
    """

    format: str
    rows_read: int
    rows_kept: int
    skipped: Mapping[str, int]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    SHOWN = 10

    def __str__(self) -> str:
        """Return the report for a terminal."""
        lines = [f"read {self.rows_read} rows as {self.format}, kept {self.rows_kept}"]
        lines += [f"skipped {count}: {reason}" for reason, count in self.skipped.items()]
        lines += [f"  {problem}" for problem in self.problems[: self.SHOWN]]
        if len(self.problems) > self.SHOWN:
            lines.append(f"  ... and {len(self.problems) - self.SHOWN} more")
        return "\n".join([*lines, *self.notes])


class ImportedLog(NamedTuple):
    """Result of `import_logs`."""

    table: OutcomeTable
    report: ImportReport


def import_logs(
    path: str | Path | Sequence[str | Path],
    *,
    format: LogFormat = "auto",  # noqa: A002 - the word users know
    columns: Mapping[str, str] | None = None,
    prices: Mapping[str, Price] | None = None,
    strict: bool = False,
    chat_text: ChatText = last_user_turn,
    aliases: Mapping[str, str] | None = None,
    default_model: str | None = None,
    quality_range: tuple[float, float] = (0.0, 1.0),
    test_share: float = DEFAULT_TEST_SHARE,
    name: str | None = None,
) -> ImportedLog:
    """Read logs of model calls into an outcome table.

    Calls with the same text are one prompt (`prompt_id`), their models its columns; several calls of one model on
    one prompt are averaged, and the weight of the cell is then the number of judged calls. Each prompt falls into
    train or test by a hash of its normalised text (`assign_split`).

    Parameters
    ----------
    path : str or Path, or a sequence of them
        Files, or folders whose ``.jsonl``, ``.ndjson``, ``.json``, ``.csv`` and ``.tsv`` files are read. A ``.json``
        file may hold an array. Batch API input and output files belong into one import.
    format : {"auto", "openai", "litellm", "csv", "jsonl"}
        ``openai``: lines with request and response bodies, Batch API files, stored completions, fine-tuning
        examples. ``litellm``: standard logging payloads or spend rows. ``csv``, ``jsonl``: one named value a
        column. ``auto`` tells them apart, file by file.
    columns : mapping, optional
        For csv and jsonl: field -> column, e.g. ``{"prompt": "question", "quality": "score"}``; fields are prompt,
        model, quality, cost_usd, input_tokens, output_tokens, cached_tokens, propensity, weight, task. Fields that
        are not mapped are looked for under their usual names.
    prices : mapping of model name to Price, optional
        List prices; a call without a logged cost is costed as tokens x price.
    strict : bool
        Raise if any row is bad, instead of skipping and counting it.
    chat_text : callable
        Messages -> the text the router reads; it must be the one used in serving.
    aliases : mapping, optional
        Logged model name -> name in the table, e.g. ``{"gpt-4o-mini-2024-07-18": "gpt-4o-mini"}``.
    default_model : str, optional
        The model of rows that name none.
    quality_range : (float, float)
        Worst and best value of the log's scale, e.g. ``(1, 5)``; mapped to [0, 1].
    test_share : float
        Share of prompts for the test split, in [0, 1].
    name : str, optional
        Of the table; by default the name of the first file or folder.

    Returns
    -------
    ImportedLog
        The table (quality NaN where nobody judged; propensity NaN where the log does not say) and the report.

    Raises
    ------
    RowError
        With `strict`, if rows are bad: all of them, with file, line, field, value and remedy.
    DataError
        If a file cannot be read, an option is wrong, or no row could be used.
    """
    _check_options(format, columns or {}, quality_range, test_share)
    options = ReadingOptions(
        chat_text, columns or {}, prices or {}, aliases or {}, default_model, (quality_range[0], quality_range[1])
    )
    files = find_logs(path)
    run = _Run(options)
    formats = [run.read(file, format) for file in files]
    run.finish()
    if strict:
        run.problems.raise_if_any(", ".join(file.name for file in files))
    skipped = Counter(run.unusable)
    if run.problems.lines:
        skipped[_BAD_ROW] = len(run.problems.lines)
    if not run.collector.calls:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in skipped.items()) or "there are no rows"
        first = f" (first: {run.problems.lines[0]})" if run.problems.lines else ""
        raise DataError(f"nothing to import from {', '.join(map(str, files))}: {reasons}{first}")
    given = [path] if isinstance(path, str | Path) else list(path)
    table = run.collector.table(
        name=Path(given[0]).stem if name is None else name, prices=options.prices, test_share=test_share
    )
    report = ImportReport(
        format=", ".join(dict.fromkeys(formats)),
        rows_read=run.collector.calls + sum(skipped.values()),
        rows_kept=run.collector.calls,
        skipped=dict(skipped),
        problems=tuple(run.problems.lines),
        notes=_notes(table, run.collector),
    )
    return ImportedLog(table, report)


class _Run:
    """State of one import: what was gathered so far, over all files."""

    def __init__(self, options: ReadingOptions) -> None:
        self.options = options
        self.problems = Problems()
        self.unusable: Counter[str] = Counter()
        self.collector = CallCollector()
        self._batch = BatchJoin()
        self._never_seen: set[str] = set(options.columns.values())

    def read(self, file: Path, wanted: str) -> str:
        """Read one file; return the format as which it was read."""
        kind = detect(file, self.options) if wanted == "auto" else wanted
        for where, record in self._records(file, kind):
            self._never_seen -= record.keys()
            try:
                if kind == "openai" and BatchJoin.takes(record):
                    record = self._batch.add(record, where) or {}
                if record:
                    self.collector.add(_READERS[kind](record, self.options))
            except BadRowError as error:
                self.problems.add(where, str(error))
            except UnusableRowError as error:
                self.unusable[str(error)] += 1
        return kind

    def finish(self) -> None:
        """Account for the halves of batch calls that never met, and for mapped columns that no row has.

        Raises
        ------
        DataError
            If there is such a column.
        """
        if self._never_seen and self.collector.calls + len(self.problems.lines):
            raise DataError(f"no row has the column {sorted(self._never_seen)[0]!r}, which columns maps; mend its name")
        for where, error in self._batch.unmatched():
            if isinstance(error, BadRowError):
                self.problems.add(where, str(error))
            else:
                self.unusable[str(error)] += 1

    def _records(self, file: Path, kind: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        if kind == "csv":
            return read_csv(file, self.options, self.problems, source=file.name)
        return read_json(file, self.problems)


def _check_options(
    wanted: str, columns: Mapping[str, str], quality_range: tuple[float, float], test_share: float
) -> None:
    if wanted not in _FORMATS:
        raise DataError(f"format {wanted!r} is unknown; one of {', '.join(_FORMATS)}")
    if columns and wanted in ("openai", "litellm"):
        raise DataError(f"columns cannot be mapped in format {wanted!r}; use format 'jsonl' or 'csv'")
    check_mapping(columns)
    if len(quality_range) != 2 or not quality_range[0] < quality_range[1]:
        raise DataError(f"quality_range {quality_range!r} must be (worst, best) with worst < best, e.g. (1, 5)")
    assign_split("", test_share=test_share)


def _notes(table: OutcomeTable, collector: CallCollector) -> tuple[str, ...]:
    judged = int(table.observed.sum())
    models = ", ".join(table.models)
    notes = [f"{len(table)} prompts, {len(table.models)} models ({models}), {judged} of {collector.cells} cells judged"]
    if not judged:
        notes.append("no row has a quality: there is nothing to learn from until feedback comes in")
    if collector.repeats:
        notes.append(f"{collector.repeats} calls repeat the prompt and model of another and were averaged with it")
    unpriced = collector.cells - int(np.isfinite(table.cost_usd).sum())
    if unpriced:
        notes.append(f"{unpriced} cells have no cost: the log has none, and tokens or price are unknown (pass prices)")
    if not np.isfinite(table.propensity).any():
        notes.append("the log has no propensities: it can train a router, but not evaluate one off-policy")
    truncated = sum(_TRUNCATED in (text or "") for text in table.texts)
    if truncated:
        notes.append(f"{truncated} prompts were shortened by LiteLLM before they were logged")
    return tuple(notes)
