"""RouterDC's protocol by task, and what its end-to-end run takes beyond a head's: scores, tasks, parts, rates."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmrouter.exceptions import ConfigError, DataError
from llmrouter.outcomes import OutcomeTable

torch = pytest.importorskip("torch", reason="the extra [encoders] is not installed")
from training.contrastive import _modules, _trainer  # noqa: E402
from training.contrastive._routerdc import EndToEnd, read_scores  # noqa: E402
from training.contrastive._trainer import TrainingSettings  # noqa: E402
from training.contrastive.tasks import best_singles, by_task, drawn, told_the_task  # noqa: E402

TASKS = ("mmlu",) * 6 + ("gsm8k",) * 2 + ("ceval",) * 4


def made(split="test"):
    n = len(TASKS)
    quality = np.zeros((n, 2))
    quality[:6, 0] = 1.0  # mmlu: the first model
    quality[6:8, 1] = 1.0  # gsm8k: the second
    quality[8:] = [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]
    nothing = np.full((n, 2), np.nan)
    return OutcomeTable(
        prompt_ids=tuple(f"p{row}" for row in range(n)), models=("a", "b"), texts=tuple("text" for _ in range(n)),
        tasks=TASKS, splits=(split,) * n, quality=quality, cost_usd=nothing, input_tokens=nothing,
        output_tokens=nothing, propensity=np.ones((n, 2)), prices=(None, None), name="made",
    )  # fmt: skip


def test_an_average_counts_tasks_and_not_prompts():
    table = made()
    found = by_task(np.zeros(12, dtype=int), table, {"b": np.ones(12, dtype=int)}, seed=0)
    assert found["mmlu"]["accuracy"] == 1.0
    assert found["gsm8k"]["accuracy"] == 0.0
    assert found["in_distribution"]["accuracy"] == 0.5  # six of eight prompts, one of two tasks
    assert found["in_distribution"]["minus"]["b"]["difference"] == 0.0
    assert found["out_of_distribution"]["minus"]["b"]["difference"] == -0.5
    low, high = found["ceval"]["interval"]
    assert low < 0.25 < high
    low, high = found["out_of_distribution"]["minus"]["b"]["interval"]
    assert low < -0.5 < high


def test_a_difference_to_itself_is_exactly_nothing():
    choices = np.arange(12) % 2
    found = by_task(choices, made(), {"itself": choices}, seed=3)
    for group in ("in_distribution", "out_of_distribution"):
        assert found[group]["minus"]["itself"] == {"difference": 0.0, "interval": [0.0, 0.0]}


def test_the_best_single_model_by_prompts_is_not_that_by_tasks():
    table = made("train")
    quality = table.quality.copy()
    quality[:6] = [0.6, 0.5]  # the first model on most prompts by little, the second on few by much
    assert best_singles(dataclasses.replace(table, quality=quality)) == {"best-single": 1, "best-single, by tasks": 1}
    quality[6:8] = [0.5, 0.8]
    quality[8:] = [1.0, 0.0]
    assert best_singles(dataclasses.replace(table, quality=quality)) == {"best-single": 0, "best-single, by tasks": 1}


def test_told_the_task_takes_its_best_model_and_for_others_the_given_one():
    train, test = made("train"), made()
    known = train.select(np.arange(8))
    np.testing.assert_array_equal(told_the_task(known, test, 0), [0] * 6 + [1] * 2 + [0] * 4)


def test_prompts_to_fit_on_can_be_of_some_tasks():
    table = made("train")
    rows, judged = drawn(table, train=0, per_task=0, seed=0, only=["gsm8k"])
    assert rows.tolist() == [6, 7]
    assert not len(judged)
    assert EndToEnd(tasks=("gsm8k",)).rows(table, seed=0).tolist() == [6, 7]
    with pytest.raises(DataError, match=r"has no 'arc'; it has \['ceval', 'gsm8k', 'mmlu'\]"):
        EndToEnd(tasks=("arc",)).rows(table, seed=0)
    with pytest.raises(ConfigError, match="part must be >= 0; got -1"):
        EndToEnd(part=-1)


def test_what_is_not_used_does_not_part_a_run_from_its_older_checkpoint():
    assert EndToEnd(longest=64).identity() == {"longest": 64}
    assert EndToEnd(longest=64, bf16=True).identity() == {"longest": 64, "bf16": True}


def test_scores_are_read_in_the_order_of_the_table(tmp_path):
    table = made("train")
    columns = {
        "prompt_id": ["p1", "p0", "p0", "elsewhere"], "model": ["b", "b", "a", "a"], "score_raw": [0.25, 0.5, 1.0, 0.0]
    }  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "outcomes.parquet")
    scores = read_scores(tmp_path, table, "score_raw")
    np.testing.assert_array_equal(scores[:2], [[1.0, 0.5], [np.nan, 0.25]])
    assert np.isnan(scores[2:]).all()
    with pytest.raises(DataError, match=r"no column 'p'; it has prompt_id, model, score_raw"):
        read_scores(tmp_path, table, "p")
    pq.write_table(pa.table(columns | {"score_raw": [0.25, 0.5, 1.5, 0.0]}), tmp_path / "outcomes.parquet")
    with pytest.raises(DataError, match=r"score_raw holds 0.25 to 1.5.*scores in \[0, 1\]"):
        read_scores(tmp_path, table, "score_raw")


class Ids:
    """Texts of one to nine tokens: what a module says of a text must not depend on how a batch is cut."""

    def lengths(self, rows):
        return rows % 9 + 1

    def batch(self, rows, device):
        ids = torch.zeros((len(rows), int(self.lengths(rows).max())))
        for place, row in enumerate(rows.tolist()):
            ids[place, : row % 9 + 1] = row
        return ids, (ids > 0).float()


def test_a_batch_in_parts_gives_the_vectors_of_the_batch_in_its_order():
    shapes = []

    def module(ids, mask):
        shapes.append(tuple(ids.shape))
        return (ids * mask).sum(dim=1, keepdim=True)

    rows = np.random.default_rng(0).permutation(np.arange(1, 21))
    whole = _modules.in_parts(module, Ids(), rows, "cpu", part=0)
    parts = _modules.in_parts(module, Ids(), rows, "cpu", part=6)
    np.testing.assert_array_equal(parts.numpy(), whole.numpy())
    assert shapes[0] == (20, 9)
    assert [count for count, _ in shapes[1:]] == [6, 6, 6, 2]
    assert sum(count * width for count, width in shapes[1:]) < 20 * 9  # less padding


def test_a_parameter_learns_at_its_own_rate_and_what_is_watched_is_kept(tmp_path):
    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.slow, self.fast = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))

    def loss_of(module, rows, generator, learning):
        return (module.slow + module.fast).sum() ** 2

    module, lines = Two(), []
    progress = _trainer.run(
        module, loss_of, rows=(np.arange(8), np.arange(2)), folder=tmp_path, identity={}, say=lines.append,
        settings=TrainingSettings(epochs=1, batch=8, learning_rate=1e-3, decay=0.0),
        rates={"fast": 0.1}, watch=lambda current: {"sum": float(current.slow + current.fast)},
    )  # fmt: skip
    assert float(module.slow.detach()) == pytest.approx(1 - 1e-3)
    assert float(module.fast.detach()) == pytest.approx(0.9)
    assert progress["history"][0]["sum"] == pytest.approx(1.899)
    assert "sum 1.899" in lines[-1]
