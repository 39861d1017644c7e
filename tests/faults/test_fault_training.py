"""A training killed before every single change that it makes to the disk, one after the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from trainer import Trainer, first_artifact, problems_of

from llmrouter import artifact
from llmrouter.learning import current_artifact, promote_artifact, read_history, rollback_artifact
from llmrouter.types import ModelCard, Price
from training.leftovers import remove_leftovers

PROGRAM = Path(__file__).with_name("train_and_die.py")
CARDS = [ModelCard(name, Price(0.0, 0.0)) for name in "ab"]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], list[dict[str, object]]]:
    """Return the folder, before what each training was killed, and what was there then."""
    out = tmp_path_factory.mktemp("killed") / "artifacts"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(out)], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    told = [json.loads(line) for line in lines if line.startswith("{")]
    return out, [line for line in lines if not line.startswith("{")], told


def test_whatever_a_kill_leaves_is_whole_or_ignored(
    killed: tuple[Path, list[str], list[dict[str, object]]],
) -> None:
    out, before, told = killed
    assert [one["problems"] for one in told] == [[]] * len(told)
    assert [one["status"] for one in told] == [-9] * (len(told) - 1) + [0]
    assert {"os.mkdir", "open", "os.rename", "os.symlink"} <= set(before)
    assert told[-1]["half"], "some were killed while they wrote"
    assert any(one["ahead"] for one in told), "and some between the note in the history and the move of the link"
    assert [one["moved"] for one in told] == [False] * (len(told) - 1) + [True]
    assert artifact.load(out / "current", CARDS).artifact_id == current_artifact(out)
    assert read_history(out)[-1].artifact == current_artifact(out)


def test_the_way_back_is_known_whatever_was_killed(
    killed: tuple[Path, list[str], list[dict[str, object]]],
) -> None:
    out, _, _ = killed
    first, last = read_history(out)[0].artifact, current_artifact(out)
    assert rollback_artifact(out).artifact == first != last
    artifact.promote(out / last)


def test_what_is_left_is_removed_when_it_is_old(killed: tuple[Path, list[str], list[dict[str, object]]]) -> None:
    out, _, _ = killed
    half = list(out.glob(".new-*"))
    link = out / ".current-1"
    link.symlink_to("nowhere")
    whole = sorted(path.name for path in out.iterdir() if not path.name.startswith(".new-") and path != link)
    assert remove_leftovers(out) == 0, "they may be another training's"
    for path in half:
        os.utime(path, (time.time() - 86_400, time.time() - 86_400))
    os.utime(link, (0, 0), follow_symlinks=False)
    assert remove_leftovers(out) == len(half) + 1
    assert sorted(path.name for path in out.iterdir()) == [n for n in whole if n != ".current-1"]
    assert problems_of(out) == []


@pytest.mark.parametrize("harm", ["file", "manifest", "link", "history"])
def test_the_trials_would_see_what_must_not_be(tmp_path: Path, harm: str) -> None:
    out = tmp_path / "artifacts"
    folder = first_artifact(out).resolve()
    promote_artifact(folder, reason="first")
    promote_artifact(folder, reason="again")
    assert problems_of(out) == []
    if harm == "file":
        (folder / "quality.safetensors").write_bytes(b"half")
    elif harm == "manifest":
        (folder / "manifest.json").unlink()
    elif harm == "link":
        (out / "current").unlink()
        (out / "current").symlink_to("nowhere")
    else:
        lines = (out / "history.jsonl").read_text()
        (out / "history.jsonl").write_text(lines.replace('"time"', '"tame"'))
    assert problems_of(out)


@pytest.mark.parametrize(
    ("named", "wrong"),
    [
        ({"models": {"a": 60, "b": 5}, "judged": 65, "trained_on": 50, "evaluated_on": 15}, False),
        ({"models": {"a": 59, "b": 6}, "judged": 65, "trained_on": 50, "evaluated_on": 15}, True),
        ({"models": {"a": 63, "b": 5}, "judged": 68, "trained_on": 50, "evaluated_on": 18}, True),
        ({"models": {"a": 60, "b": 5}, "judged": 66, "trained_on": 50, "evaluated_on": 16}, True),
        ({"models": {"a": 60}, "judged": 60, "trained_on": 45, "evaluated_on": 15}, True),
    ],
)
def test_counts_that_are_not_the_logs_are_seen(tmp_path: Path, named: dict[str, Any], wrong: bool) -> None:
    trainer = Trainer("memory:", tmp_path / "config.yaml", tmp_path, settle_s=0.0)
    trainer._compare(Counter(a=60, b=5), Counter(a=62, b=5), named)
    assert bool(trainer.found.problems) is wrong


@pytest.mark.parametrize(
    ("errors", "wrong"),
    [
        ("llmrouter: 127.0.0.1:1: ConnectionError: gone; ...", False),
        ("llmrouter: the log holds 3 judged answers that can be used; training needs 50.", False),
        ("Traceback (most recent call last):\n ConnectionError", True),
        ("llmrouter: artifacts/current is damaged", True),
        ("", True),
    ],
)
def test_an_error_that_the_kills_do_not_explain_is_seen(tmp_path: Path, errors: str, wrong: bool) -> None:
    trainer = Trainer("memory:", tmp_path / "config.yaml", tmp_path, settle_s=0.0)
    trainer._refused(errors)
    assert bool(trainer.found.problems) is wrong
    assert sum(trainer.found.refused.values()) == (not wrong)
