"""Where the prompts of a profile come from: a folder of outcomes, or the gateway's own log."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from llmrouter.exceptions import DataError
from llmrouter.outcomes import OutcomeStore, OutcomeTable, load_table, open_store, store_to_table

if TYPE_CHECKING:
    from llmrouter.learning import References
    from llmrouter.types import Outcome
    from service.settings import Settings

_POCKET = Path(__file__).parents[2] / "llmrouter" / "assets" / "pocket" / "outcomes"
_DAY_S = 86_400.0
_TRAIN = "train"
_CASE_TASKS = frozenset({"upper_case", "lower_case", "title_case"})
_LIST_TASKS = frozenset({"sort_numbers", "sort_words"})
_PROMPTS = "prompts.parquet"
_EXPECTED = "expected"


def table_of_folder(name: str) -> OutcomeTable:
    """Return the train split of a folder of outcomes; ``pocket`` is the one that ships.

    Raises
    ------
    DataError
        If it cannot be read.
    """
    return _train_part(load_table(_folder(name)))


def references_of_folder(name: str) -> References | None:
    """Return the right answers that a folder of outcomes holds beside its prompts (a column ``expected``).

    The pocket data's answers are compared as its own scorer does: the case of some tasks counts, and in lists commas do
    not.
    """
    from llmrouter.learning import References

    file = _folder(name) / _PROMPTS
    if not file.is_file():
        return None
    import pyarrow.parquet as pq

    names = pq.read_schema(file).names
    if _EXPECTED not in names or "prompt_id" not in names:
        return None
    columns = pq.read_table(file, columns=[one for one in ("prompt_id", _EXPECTED, "task") if one in names]).to_pylist()
    by_id = {}
    for row in columns:
        if row[_EXPECTED] is None:
            continue
        found: dict[str, object] = {"answer": row[_EXPECTED]}
        if row.get("task") in _CASE_TASKS:
            found["case"] = True
        if row.get("task") in _LIST_TASKS:
            found["commas"] = True
        by_id[row["prompt_id"]] = found
    return References(by_id=by_id)


def table_of_log(settings: Settings, store: OutcomeStore | None = None) -> OutcomeTable:
    """Return the newest prompts of the log, without those that a later evaluation holds back.

    Parameters
    ----------
    settings : Settings
        Of the gateway.
    store : OutcomeStore, optional
        By default opened, and closed again.

    Raises
    ------
    DataError
        If the log has no prompt with its text.
    StoreError
        If it cannot be read.
    """
    models = settings.learning.models
    days, most = (30.0, 5000) if models is None else (models.window_days, models.most_prompts)
    since = time.time() - days * _DAY_S
    if store is not None:
        return _as_table(settings, store.scan(since), most)
    opened = open_store(settings.log.store)
    try:
        return _as_table(settings, opened.scan(since), most)
    finally:
        opened.close()


def _as_table(settings: Settings, outcomes: Iterable[Outcome], most: int) -> OutcomeTable:
    newest = deque(_with_text(outcomes), maxlen=most)
    if not newest:
        raise DataError(
            "the log has no prompt with its text; let the gateway serve requests with log.prompts: text, or give "
            "prompts of your own with --data"
        )
    prices = {model.name: model.price.price for model in settings.pool}
    return _train_part(store_to_table(newest, prices=prices))


def _with_text(outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
    return (outcome for outcome in outcomes if outcome.prompt)


def _train_part(table: OutcomeTable) -> OutcomeTable:
    """Return the rows that may be learned from; all of them where nothing is held back or nothing else is there."""
    return table.split(_TRAIN) if _TRAIN in table.splits else table


def _folder(name: str) -> Path:
    return _POCKET if name == "pocket" else Path(name)
