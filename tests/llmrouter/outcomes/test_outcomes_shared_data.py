"""The real data sets: every folder loads, and says what its README says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llmrouter.outcomes import load_table, save_table

# folder: prompts, train, test, models, outcomes, outcomes with a cost, with output tokens (the README's overview)
OVERVIEW = {
    "routerbench_subset": (2876, 2203, 673, 11, 31636, 31636, 0),
    "routerarena_cached": (567, 407, 160, 2, 1134, 1134, 1134),
    "llmrouterbench_sample": (240, 167, 73, 33, 7860, 24 * 240 - 60, 7860),
    "routellm_pair": (10894, 7649, 3245, 2, 21788, 0, 0),
    "routerdc_open7": (16794, 7573, 9221, 7, 117558, 0, 0),
    "lookahead_open": (8753, 6157, 2596, 17, 54948, 0, 15160),
    "llmrouter_nim9": (5846, 5489, 357, 9, 52614, 0, 0),
}


@pytest.mark.parametrize("name", OVERVIEW)
def test_counts_match_the_overview(shared_data: Path, name: str) -> None:
    table = load_table(shared_data / name)
    counts = (
        len(table),
        len(table.split("train")),
        len(table.split("test")),
        len(table.models),
        int(table.observed.sum()),
        int(np.isfinite(table.cost_usd).sum()),
        int(np.isfinite(table.output_tokens).sum()),
    )
    assert counts == OVERVIEW[name]
    assert table.name == name
    np.testing.assert_array_equal(table.propensity, np.where(table.observed, 1.0, np.nan))
    listed = json.loads((shared_data / name / "models.json").read_text())["models"]
    assert list(table.models) == [entry["name"] for entry in listed]
    assert [price and (price.input, price.output) for price in table.prices] == [
        None if entry["price_in_per_1m"] is None else (entry["price_in_per_1m"], entry["price_out_per_1m"])
        for entry in listed
    ]


def test_the_folders_are_all_that_there_are(shared_data: Path) -> None:
    assert {folder.name for folder in shared_data.iterdir() if folder.is_dir()} == set(OVERVIEW)


def test_the_router_reads_the_query_where_there_is_one(shared_data: Path) -> None:
    table = load_table(shared_data / "routerbench_subset")
    arc = table.texts[table.prompt_ids.index("rb:arc-challenge.test.1")]
    assert arc is not None
    assert arc.startswith("A group of engineers"), "not the worked examples before it"
    assert max(len(text or "") for text in table.texts) < 1100
    assert set(load_table(shared_data / "llmrouterbench_sample").texts) == {None}


def test_logged_costs_are_near_tokens_times_price(shared_data: Path) -> None:
    table = load_table(shared_data / "routerarena_cached")
    computed = np.stack(
        [
            (table.input_tokens[:, j] * price.input + table.output_tokens[:, j] * price.output) / 1e6
            for j, price in enumerate(table.prices)
            if price is not None
        ],
        axis=1,
    )
    assert np.median(np.abs(computed / table.cost_usd - 1.0)) < 0.01


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_real_sets_survive_a_round_trip(shared_data: Path, tmp_path: Path, kind: str) -> None:
    for name in ("llmrouterbench_sample", "routerarena_cached"):
        table = load_table(shared_data / name)
        save_table(table, tmp_path / name, format=kind)
        again = load_table(tmp_path / name)
        for field in ("quality", "cost_usd", "input_tokens", "output_tokens", "propensity"):
            np.testing.assert_array_equal(getattr(again, field), getattr(table, field))
        assert (again.texts, again.prices, again.splits) == (table.texts, table.prices, table.splits)


CODE = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"pyarrow", "pandas", "torch", "litellm", "sklearn", "matplotlib", "faiss"}:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocked())
from pathlib import Path
from llmrouter.outcomes import import_logs, load_table, open_store, save_table
from llmrouter.types import Outcome
folder = Path(sys.argv[1])
(folder / "log.csv").write_text("prompt,model,score\\nx,m,1\\n")
table, _ = import_logs(folder / "log.csv")
save_table(table, folder / "t", format="jsonl")
assert load_table(folder / "t").quality[0, 0] == 1.0
store = open_store(f"sqlite:///{folder}/o.db")
store.append([Outcome("r", 1.0, "m")])
assert store.get("r") is not None
"""


def test_logs_jsonl_and_sqlite_need_no_extra(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", CODE, str(tmp_path)], check=True, timeout=60)
