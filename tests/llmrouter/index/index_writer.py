"""Changes an index step by step until it is killed: ``python index_writer.py FOLDER KIND FIRST_STEP``.

Says ``begin STEP NAME`` before a step and ``done STEP`` after it. What a step does follows from its number and what is
stored, so that who kills the writer can tell what must be there.
"""

import sys

import numpy as np

from llmrouter.index import StoredIndex, _kinds, _segmented, parse_kind

DIMENSION = 8
NAMES = ("add", "update", "remove", "bulk", "compact", "snapshot")


def step(number, stored):
    """Return the name of a step, the ids and rows it touches, and what is stored after it."""
    rng = np.random.default_rng(number)
    name = NAMES[rng.choice(6, p=[0.4, 0.15, 0.15, 0.1, 0.1, 0.1])]
    known = np.array(sorted(stored), dtype=np.int64)
    if not len(known) and name in ("update", "remove"):
        name = "add"
    ids = np.empty(0, dtype=np.int64)
    if name in ("add", "bulk"):
        count = int(rng.integers(1, 8)) if name == "add" else 60
        ids = 1000 * number + np.arange(count)
    elif name in ("update", "remove"):
        most = 5 if len(known) < 400 or name == "update" else 100
        ids = rng.choice(known, min(most, len(known)), replace=False)
    rows = rng.normal(size=(len(ids), DIMENSION)).astype(np.float32)
    if name == "remove":
        gone = set(ids.tolist())
        return name, ids, rows, {key: row for key, row in stored.items() if key not in gone}
    return name, ids, rows, stored | dict(zip(ids.tolist(), rows))


def stored_after(steps):
    stored = {}
    for number in range(steps):
        stored = step(number, stored)[3]
    return stored


def main(folder, kind, first):
    _segmented.TAIL_ROWS = 24
    _kinds.MIN_STRUCTURE_ROWS = 50
    stored = stored_after(first)
    with (
        StoredIndex.open(folder)
        if first
        else StoredIndex.create(folder, DIMENSION, parse_kind(kind, DIMENSION)) as index
    ):
        for number in range(first, 100_000):
            name, ids, rows, stored = step(number, stored)
            sys.stdout.write(f"begin {number} {name}\n")
            sys.stdout.flush()
            if name in ("add", "bulk"):
                index.add(ids, rows)
            elif name == "update":
                index.update(ids, rows)
            elif name == "remove":
                index.remove(ids)
            elif name == "compact":
                index.compact()
            else:
                index.snapshot()
            sys.stdout.write(f"done {number}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
