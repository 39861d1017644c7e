"""Published benchmarks of other projects to an outcome table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from llmrouter.exceptions import DataError, MissingExtraError
from llmrouter.outcomes import _embedllm, _llmrouterbench, _routerbench, _routerdc, _sprout
from llmrouter.outcomes._benchmark_files import csv_header, json_value, list_files, read_bytes
from llmrouter.outcomes._benchmark_grid import BenchmarkGrid, note_missing_costs
from llmrouter.outcomes._hub import HUB_PREFIX, download, parse_reference
from llmrouter.outcomes._identity import DEFAULT_TEST_SHARE, assign_split
from llmrouter.outcomes._import import ImportedLog, ImportReport
from llmrouter.types import Price

BenchmarkFormat = Literal["auto", "routerbench", "routerdc", "embedllm", "sprout", "llmrouterbench"]

_BAD = "bad row or cell"
_LOOK_AT = 20  # files of a folder, in search of one whose format is certain


@dataclass(frozen=True)
class _Source:
    read: Callable[..., None]
    choose: Callable[[Sequence[str]], list[str]]
    repositories: tuple[str, ...] = ()
    prices: Mapping[str, Price] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    unpriced_zero: bool = False


def _json_files(names: Sequence[str]) -> list[str]:
    return [name for name in names if name.endswith(".json")]


_SOURCES: Mapping[str, _Source] = {
    "routerbench": _Source(
        _routerbench.read_routerbench,
        _routerbench.routerbench_files,
        ("withmartian/routerbench",),
        _routerbench.PRICES,
        ("strip_shared_prefix",),
    ),
    "routerdc": _Source(_routerdc.read_routerdc, _json_files, options=("likelihood_scores",)),
    "embedllm": _Source(_embedllm.read_embedllm, _embedllm.embedllm_files, ("RZ412/EmbedLLM",)),
    "sprout": _Source(
        _sprout.read_sprout,
        _sprout.sprout_files,
        ("CARROT-LLM-Routing/SPROUT", "CARROT-LLM-Routing/SPROUT-o3mini"),
        _sprout.PRICES,
    ),
    "llmrouterbench": _Source(
        _llmrouterbench.read_llmrouterbench,
        _llmrouterbench.llmrouterbench_files,
        ("NPULH/LLMRouterBench",),
        unpriced_zero=True,
    ),
}
BENCHMARK_FORMATS: tuple[str, ...] = tuple(_SOURCES)


def import_benchmark(
    path: str | Path,
    *,
    format: BenchmarkFormat = "auto",  # noqa: A002 - the word users know
    prices: Mapping[str, Price] | None = None,
    strict: bool = True,
    test_share: float = DEFAULT_TEST_SHARE,
    name: str | None = None,
    likelihood_scores: _routerdc.ScoreReading = "binary",
    strip_shared_prefix: bool = True,
) -> ImportedLog:
    """Read the outcome files that another project published into an outcome table.

    ===============  =========================================================================  ==================
    format           files                                                                      source
    ===============  =========================================================================  ==================
    routerbench      routerbench_0shot.pkl, routerbench_5shot.pkl, CSV with the same columns    arXiv 2403.12031
    routerdc         split2_model7/*.json                                                       arXiv 2409.19886
    embedllm         train.csv, val.csv, test.csv                                               arXiv 2410.02223
    sprout           data/{train,validation,test}-*.parquet                                     arXiv 2502.03261
    llmrouterbench   <data set>/<split>/<model>/*.json, .tar.gz of these, CSV without texts     arXiv 2601.07206
    ===============  =========================================================================  ==================

    The source's own split is kept; where it has none, prompts are assigned by a hash of their text (`assign_split`).
    The task is the benchmark's name in the source. Of several prompts with the same task and text one is kept, a test
    one before a train one. A missing score is NaN; so is the cost of a model that the source did not price.

    Parameters
    ----------
    path : str or Path
        A file or folder, or ``hub:ORG/NAME[/FILE][@REVISION]`` to download one from the Hugging Face hub.
    format : {"auto", "routerbench", "routerdc", "embedllm", "sprout", "llmrouterbench"}
        ``auto`` takes the one that the files certainly have.
    prices : mapping of model name to Price, optional
        List prices; they go before those known for the source. A cell with tokens and no cost is costed with them.
    strict : bool
        Raise if a row or cell is bad; False leaves it out and counts it.
    test_share : float
        Share of the prompts assigned to test where the source has no split, in [0, 1].
    name : str, optional
        Of the table; by default the name of the file, folder or repository.
    likelihood_scores : {"binary", "source"}
        routerdc: probabilities of the right option as 1 where above 0, as its authors evaluate, or as they are.
    strip_shared_prefix : bool
        routerbench: leave out the worked examples that all prompts of a task begin with.

    Returns
    -------
    ImportedLog
        The table, and a report whose rows are outcomes (cells).

    Raises
    ------
    UnsafePickleError
        If a pickle asks for anything that no table needs; nothing of it was run.
    RowError
        With `strict`, if rows or cells are bad: all of them, with place, field, value and remedy.
    DataError
        If files are missing, broken or laid out otherwise (columns found and expected are listed), an option is
        wrong, no score is left, or a download fails.
    MissingExtraError
        If a Parquet file is read without pyarrow, or the hub is asked without huggingface_hub.
    """
    assign_split("", test_share=test_share)
    if format != "auto" and format not in _SOURCES:
        raise DataError(f"format {format!r} is unknown; one of auto, {', '.join(_SOURCES)}")
    kind = detect_benchmark(path) if format == "auto" else format
    if kind is None:
        raise DataError(f"{path} has no layout that is certain; give format as one of {', '.join(_SOURCES)}")
    source = _SOURCES[kind]
    place = _local(path, source)
    grid = BenchmarkGrid()
    chosen = {"likelihood_scores": likelihood_scores, "strip_shared_prefix": strip_shared_prefix}
    source.read(place, grid, **{option: chosen[option] for option in source.options})
    if strict:
        grid.problems.raise_if_any(str(place))
    table = grid.table(
        name=name or _name(path),
        prices={**source.prices, **(prices or {})},
        test_share=test_share,
        unpriced_zero=source.unpriced_zero,
    )
    skipped = dict(grid.skipped)
    if grid.problems.lines:
        skipped[_BAD] = len(grid.problems.lines)
    report = ImportReport(
        format=kind,
        rows_read=grid.seen,
        rows_kept=int(table.observed.sum()),
        skipped=skipped,
        problems=tuple(grid.problems.lines),
        notes=(*grid.notes, *note_missing_costs(table)),
    )
    return ImportedLog(table, report)


def detect_benchmark(path: str | Path) -> str | None:
    """Return the format of a published benchmark at `path`, None where that is not certain.

    Nothing is executed or downloaded; a file that cannot be read has no certain format.
    """
    if str(path).startswith(HUB_PREFIX):
        repository = parse_reference(str(path))[0]
        return next((kind for kind, source in _SOURCES.items() if repository in source.repositories), None)
    try:
        files = list_files(Path(path), _llmrouterbench.SUFFIXES + _routerbench.SUFFIXES + _sprout.SUFFIXES)
    except DataError:
        return None
    return next((kind for file in files[:_LOOK_AT] if (kind := _format_of(file)) is not None), None)


def _format_of(file: Path) -> str | None:
    try:
        if file.suffix in (".pkl", ".pickle"):
            return "routerbench"
        if file.suffix == ".parquet":
            return "sprout" if _sprout.struct_models(file) else None
        if file.suffix == ".csv":
            header = csv_header(file)
            tests = {
                "routerbench": _routerbench.is_routerbench,
                "embedllm": _embedllm.is_embedllm,
                "llmrouterbench": _llmrouterbench.is_llmrouterbench_csv,
            }
            return next((kind for kind, test in tests.items() if test(header)), None)
        if file.suffix != ".json":
            return "llmrouterbench" if file.name.endswith(_llmrouterbench.ARCHIVES) else None
        value = json_value(read_bytes(file), source=str(file))
    except (DataError, MissingExtraError):
        return None
    if _llmrouterbench.is_llmrouterbench(value):
        return "llmrouterbench"
    return "routerdc" if isinstance(value, list) and value and _routerdc.is_routerdc(value[0]) else None


def _local(path: str | Path, source: _Source) -> Path:
    return download(str(path), source.choose) if str(path).startswith(HUB_PREFIX) else Path(path)


def _name(path: str | Path) -> str:
    if str(path).startswith(HUB_PREFIX):
        return parse_reference(str(path))[0].rpartition("/")[2]
    return Path(path).name.split(".")[0] if Path(path).is_file() else Path(path).resolve().name
