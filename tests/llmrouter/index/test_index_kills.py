"""kill -9 while an index is changed: it opens, and nothing acknowledged is missing."""

import collections
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from llmrouter.index import StoredIndex

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[2] / "faults"))
from index_writer import NAMES, step, stored_after
from soak_results import record

WRITER = Path(__file__).with_name("index_writer.py")
ROOT = Path(__file__).parents[3]
# Steps between the start of a writer and its end; the plan has every kind of step among any ten or so.
MOST_STEPS = 40
# About how long a step takes; it has several files to synchronise.
LONGEST_STEP_S = {"bulk": 0.025, "compact": 0.025, "snapshot": 0.025}
TRIALS_OF_ONE_FOLDER = 10


def run_and_kill(folder, kind, first, phase, rng):
    """Start a writer, kill it in a step of the kind `phase`, and return how many steps it said were done."""
    command = [sys.executable, str(WRITER), str(folder), kind, str(first)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    not_before = first + int(rng.integers(0, MOST_STEPS))
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as writer:
        done, killed = first, False
        for line in writer.stdout:
            word, number, *name = line.split()
            if word == "done":
                done = int(number) + 1
            elif not killed and name == [phase] and int(number) >= not_before:
                time.sleep(float(rng.uniform(0, LONGEST_STEP_S.get(phase, 0.004))))  # somewhere in the step
                writer.kill()
                killed = True  # and read on: it may have said more before it died
    assert killed, f"the writer ended by itself with {writer.returncode}"
    return done


def check(folder, done):
    """Open the index; it holds what was acknowledged, and the step that was cut short wholly or not at all."""
    before = stored_after(done)
    after = step(done, before)[3]
    with StoredIndex.open(folder) as index:
        index.verify()
        ids, _, rows = index._state.content()
        order = np.argsort(ids)
        found = dict(zip(ids[order].tolist(), rows[order]))
    for steps, expected in ((done, before), (done + 1, after)):
        if found.keys() == expected.keys() and all((found[key] == expected[key]).all() for key in found):
            return steps
    missing = sorted(before.keys() - found.keys())
    raise AssertionError(f"after {done} steps: {len(found)} rows, expected {len(before)}; missing {missing[:5]}")


def trials(folder, count, kinds, seed):
    rng = np.random.default_rng(seed)
    told = collections.Counter()
    for trial in range(count):
        if trial % TRIALS_OF_ONE_FOLDER == 0:
            shutil.rmtree(folder, ignore_errors=True)
            steps, kind = 0, kinds[(trial // TRIALS_OF_ONE_FOLDER) % len(kinds)]
        phase = NAMES[trial % len(NAMES)]
        done = run_and_kill(folder, kind, steps, phase, rng)
        steps = check(folder, done)
        told[f"{phase}: {'step there' if steps > done else 'step not there'}"] += 1
    return told


@pytest.mark.parametrize("kind", ["flat", "flat:background=True"])
def test_killed_in_every_kind_of_step(tmp_path, kind):
    told = trials(tmp_path / "index", 6, [kind], seed=0)
    assert sum(told.values()) == 6


@pytest.mark.soak
def test_killed_two_hundred_times(tmp_path):
    pytest.importorskip("faiss", reason="faiss is not installed")
    told = trials(tmp_path / "index", 200, ["flat", "hnsw:background=True", "int8", "flat:background=True"], seed=1)
    kept = sum(told.values())  # `check` ends the test at a row missing
    record("an index killed in every kind of step", {"opened whole": kept, "ends": dict(sorted(told.items()))})
    assert kept == 200
