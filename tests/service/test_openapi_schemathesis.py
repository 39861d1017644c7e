"""schemathesis over the OpenAPI document: no 5xx, and nothing in the document that is not so.

Which checks are left out, and why, is in `openapi_target.EXCLUDED`; what no schema can say is in `openapi_hooks`.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest
from openapi_target import schemathesis, start

from service import openapi

ADMIN = "/admin"
EXAMPLES = int(os.environ.get("LLMROUTER_EXAMPLES", "3"))
"""Tried of each operation; whoever looks for a bug asks for more."""
FEW = ("--phases", "examples,fuzzing,stateful")
"""Without the cases that are counted up, one by one for each field, which take longest; the long trials have them."""


def operations(*, but: str = "none") -> int:
    """Return how many operations are asked; the document itself is not."""
    paths = openapi.document()["paths"].items()
    methods = {"get", "post", "put", "patch", "delete"}
    return sum(len(item.keys() & methods) for path, item in paths if not path.startswith(but)) - 1


@pytest.mark.slow
def test_the_document_is_true_with_keys(tmp_path: Path) -> None:
    with ExitStack() as stack:
        status, said = schemathesis(start(stack, tmp_path, keys=True), tmp_path, *FEW, examples=EXAMPLES, seed=1)
    assert status == 0, said[-20_000:]
    assert f"Tested: {operations()}" in said, "an operation was left out"


@pytest.mark.slow
def test_the_document_is_true_without_keys(tmp_path: Path) -> None:
    few = (*FEW, "--exclude-path-regex", f"^{ADMIN}")
    with ExitStack() as stack:
        status, said = schemathesis(start(stack, tmp_path, keys=False), tmp_path, *few, examples=2 * EXAMPLES, seed=1)
    assert status == 0, said[-20_000:]
    assert f"Tested: {operations(but=ADMIN)}" in said, "an operation was left out"


@pytest.mark.soak
@pytest.mark.parametrize("keys", [False, True], ids=["open", "keys"])
@pytest.mark.parametrize("seed", range(2, 6))
def test_the_document_is_true_for_long(tmp_path: Path, seed: int, keys: bool) -> None:
    with ExitStack() as stack:
        target = start(stack, tmp_path, keys=keys)
        status, said = schemathesis(target, tmp_path, "--continue-on-failure", examples=150, seed=seed)
    print(said[-2_000:])
    assert status == 0, said[-20_000:]
