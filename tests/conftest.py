"""Fixtures shared by all tests, and the account of who read the shared outcome data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# What a property test tries unless it says otherwise; `make soak` and whoever looks for a bug ask for more.
settings.register_profile("llmrouter", max_examples=int(os.environ.get("LLMROUTER_EXAMPLES", "40")), deadline=None)
settings.load_profile("llmrouter")

_DATA_READERS: set[str] = set()


@pytest.fixture(autouse=True)
def _isolated_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep embedding caches of the tests out of the user's home, yet shared within one run."""
    cache = os.environ.get("LLMROUTER_TEST_CACHE") or str(tmp_path_factory.getbasetemp() / "cache")
    monkeypatch.setenv("LLMROUTER_CACHE", cache)


@pytest.fixture
def shared_data(request: pytest.FixtureRequest) -> Path:
    """Return the folder of real outcome data; skip if LLMROUTER_DATA is unset, fail if unreadable."""
    value = os.environ.get("LLMROUTER_DATA")
    if not value:
        pytest.skip("LLMROUTER_DATA is not set: no real outcome data on this machine")
    folder = Path(value)
    if not (folder / "routerbench_subset" / "prompts.parquet").is_file():
        pytest.fail(f"LLMROUTER_DATA={value} holds no routerbench_subset/prompts.parquet")
    _DATA_READERS.add(request.node.nodeid)
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"shared data: read by {len(_DATA_READERS)} tests")
