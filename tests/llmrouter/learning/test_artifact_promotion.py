"""Which artifact is live, and the way back."""

import json
import multiprocessing

import pytest
from logged_traffic import KindEncoder, full_table

from llmrouter import artifact
from llmrouter.exceptions import ArtifactCorruptError, ArtifactError
from llmrouter.learning import (
    current_artifact,
    list_artifacts,
    promote_artifact,
    read_history,
    rollback_artifact,
)
from training.train import fit


@pytest.fixture
def root(tmp_path):
    """A folder of three artifacts, none of them current."""
    spec = artifact.EncoderSpec("kind", {}, KindEncoder.fingerprint)
    for seed in range(3):
        table, X = full_table(40, seed=seed)
        artifact.save(fit(table, X, name="ridge", parameters={}), tmp_path, encoder=spec, training={"seed": seed})
    return tmp_path


def folders(root):
    return sorted(folder for folder in root.iterdir() if folder.is_dir() and not folder.is_symlink())


def test_promote_moves_the_link_and_notes_it(root):
    first, second, _ = folders(root)
    assert current_artifact(root) == ""
    promote_artifact(first, reason="the first")
    move = promote_artifact(root / second.name, reason="better")
    assert current_artifact(root) == second.name
    assert not (root / "current").readlink().is_absolute()
    assert (move.artifact, move.previous, move.action) == (second.name, first.name, "promote")
    assert [(m.artifact, m.reason) for m in read_history(root)] == [(first.name, "the first"), (second.name, "better")]


def test_rollbacks_go_back_step_by_step(root):
    first, second, third = folders(root)
    for folder in (first, second, third):
        promote_artifact(folder)
    assert rollback_artifact(root).artifact == second.name
    assert rollback_artifact(root, reason="worse still").artifact == first.name
    with pytest.raises(ArtifactError, match="no earlier artifact"):
        rollback_artifact(root)
    promote_artifact(third)
    assert rollback_artifact(root).artifact == first.name
    assert current_artifact(root) == first.name
    assert [move.action for move in read_history(root)] == ["promote"] * 3 + ["rollback"] * 2 + ["promote", "rollback"]


def test_promoting_the_live_one_again_is_no_step(root):
    first, second, _ = folders(root)
    for folder in (first, second, second):
        promote_artifact(folder)
    assert rollback_artifact(root).artifact == first.name


def test_a_link_that_was_set_by_hand_is_remembered(root):
    first, second, _ = folders(root)
    artifact.promote(first)  # before there was a history
    promote_artifact(second)
    assert rollback_artifact(root).artifact == first.name


def test_damaged_artifacts_are_neither_promoted_nor_gone_back_to(root):
    first, second, _ = folders(root)
    promote_artifact(first)
    promote_artifact(second)
    (first / "quality.safetensors").write_bytes(b"rotten")
    with pytest.raises(ArtifactCorruptError):
        rollback_artifact(root)
    with pytest.raises(ArtifactCorruptError):
        promote_artifact(first)
    with pytest.raises(ArtifactError, match="not an artifact"):
        promote_artifact(root / "nothing")
    assert current_artifact(root) == second.name
    listed = {found.id: found for found in list_artifacts(root)}
    assert "hash" in listed[first.name].problem
    assert listed[second.name].current
    assert listed[second.name].router == "ridge"
    assert listed[second.name].training["seed"] in range(3)


def test_half_a_line_of_history_is_left_out(root):
    first, second, _ = folders(root)
    promote_artifact(first)
    promote_artifact(second)
    with (root / "history.jsonl").open("a") as file:
        file.write('{"action": "prom')
    assert len(read_history(root)) == 2
    assert rollback_artifact(root).artifact == first.name
    assert [move.action for move in read_history(root)] == ["promote", "promote", "rollback"]


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(ArtifactError, match="not a folder"):
        list_artifacts(tmp_path / "none")
    assert list_artifacts(tmp_path) == ()
    with pytest.raises(ArtifactError, match="no earlier artifact"):
        rollback_artifact(tmp_path)


def _promote_often(folder, times):
    for _ in range(times):
        promote_artifact(folder)


def test_many_at_once_leave_a_whole_history_and_a_link_that_holds(root):
    made = folders(root)
    promote_artifact(made[0])
    workers = [multiprocessing.get_context("spawn").Process(target=_promote_often, args=(f, 20)) for f in made]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        assert (root / "current" / "manifest.json").exists()  # never a moment without
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    lines = (root / "history.jsonl").read_text().splitlines()
    assert len(lines) == 61
    assert all(json.loads(line)["artifact"] in {folder.name for folder in made} for line in lines)
