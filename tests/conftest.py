"""Fixtures shared by all tests, and the account of who read the shared outcome data."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# What a property test tries unless it says otherwise; `make soak` and whoever looks for a bug ask for more.
settings.register_profile("llmrouter", max_examples=int(os.environ.get("LLMROUTER_EXAMPLES", "30")), deadline=None)
settings.load_profile("llmrouter")

# Long runs over code that other tests reach too; they are not traced, which would take half as much time again. What is
# reported as covered is covered without them.
NOT_TRACED = {
    "conformance.test_conformance_corpus",
    "faults.test_fault_fuzz",
    "llmrouter.evaluation.test_off_policy.test_intervals_hold_the_truth",
    "llmrouter.flows.test_flow_cascade_routing.test_with_one_call_it_is_routing",
    "llmrouter.learning.test_drift_monitor.test_a_change_is_found",
    "llmrouter.learning.test_drift_monitor.test_false_alarms_are_as_rare_as_promised",
    "llmrouter.learning.test_online_learner.test_replicas_answer_a_thousand_dry_runs_alike",
    "llmrouter.moe.test_moe_experts_invariance.test_a_request_keeps_its_bits_whoever_joins_and_leaves",
    "llmrouter.policy.test_explore_policy.test_models_come_first_as_often_as_their_propensities_say",
    "llmrouter.policy.test_explore_policy.test_the_mean_probability_keeps_to_the_share",
    "llmrouter.policy.test_policy_contracts.test_contract",
    "llmrouter.policy.test_quality_floor.test_the_promise_is_broken_no_more_often_than_stated",
    "llmrouter.policy.test_quota.test_shares_hold_within_the_stated_tolerance",
    "llmrouter.routers.test_sklearn_checks.test_estimator_check",
    "service.dialects.test_dialect_fuzz",
    "service.learning.test_canary_guard.test_a_canary_that_is_no_worse_is_taken_back_seldom_though_it_is_watched_all_the_time",
    "service.limits.test_ledger_twins",
    "service.limits.test_lost_messages",
    "service.test_openapi_schemathesis",
    "training.test_pocket_tasks",
}

_DATA_READERS: set[str] = set()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function):
            module = ".".join(item.path.relative_to(Path(__file__).parent).with_suffix("").parts)
            if module in NOT_TRACED or f"{module}.{item.originalname}" in NOT_TRACED:
                item.add_marker("no_cover")


@pytest.fixture(autouse=True)
def _isolated_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep embedding caches of the tests out of the user's home, yet shared within one run."""
    cache = os.environ.get("LLMROUTER_TEST_CACHE") or str(tmp_path_factory.getbasetemp() / "cache")
    monkeypatch.setenv("LLMROUTER_CACHE", cache)


@pytest.fixture(scope="session")
def torch_in_one_thread() -> Iterator[None]:
    """Small products in several threads spend their time waiting for each other, on a busy machine minutes of it."""
    pytest.importorskip("sentence_transformers", reason="the extra [encoders] is not installed")
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_folder(torch_in_one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny sentence encoder of random weights."""
    from tests.contracts.tiny_sentence_encoder import save_tiny_bert

    return save_tiny_bert(tmp_path_factory.mktemp("tiny") / "tiny-bert")


@pytest.fixture(scope="session")
def tiny_onnx_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tiny encoder's fp32 export. Tracing it takes seconds, so that it is done once a run."""
    for package in ("onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason="the extra [encoders] is not installed")
    from llmrouter.encoders._sources import resolve_source
    from training.export_onnx import export

    folder = tmp_path_factory.mktemp("onnx") / "tiny"
    export(resolve_source(tiny_folder), folder)
    return folder


@pytest.fixture(scope="session")
def tiny_int8_folder(tiny_folder: Path, tiny_onnx_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tiny encoder's int8 export, by the command, on the graph that the fp32 export traced."""
    from tests.contracts.tiny_sentence_encoder import graph_of
    from training import export_onnx

    folder = tmp_path_factory.mktemp("onnx") / "tiny-int8"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_onnx, "_export_graph", graph_of(tiny_onnx_folder))
        export_onnx.main(["--source", str(tiny_folder), "--out", str(folder), "--int8"])
    return folder


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
