"""Fixtures shared by all tests, and the account of who read the shared outcome data."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import is_hypothesis_test, settings

_settrace = sys.settrace


def _settrace_in_turn(function: Any, /) -> None:
    while True:
        try:
            return _settrace(function)
        except RuntimeError:
            time.sleep(0)


# A thread that starts while coverage is measured sets a trace function first, and Python refuses that, which ends the
# thread before it has begun, while another thread is at it. A library's audit hook in Python (filelock's, which torch
# brings) makes that likely: it runs in the midst, so that threads may be switched there.
sys.settrace = _settrace_in_turn

# What a property test tries unless it says otherwise; `make soak` and whoever looks for a bug ask for more.
settings.register_profile("llmrouter", max_examples=int(os.environ.get("LLMROUTER_EXAMPLES", "30")), deadline=None)
settings.load_profile("llmrouter")

# Long runs over code that other tests reach too; they are not traced, which takes as much time again, and twice as much
# where a library of pure Python does most of the work. What is reported as covered is covered without them. So it is
# with the properties of the library, which Hypothesis tries many times over (`_is_property_of_the_library`).
NOT_TRACED = {
    "conformance.test_conformance_corpus",
    "faults.test_fault_fuzz",
    "llmrouter.evaluation.test_off_policy.test_intervals_hold_the_truth",
    "llmrouter.evaluation.test_off_policy.test_rare_choices_that_have_not_come_up_widen_the_interval",
    "llmrouter.evaluation.test_reference_figures",
    "llmrouter.index.test_stored_index.test_every_flipped_byte_is_found_and_named",
    "llmrouter.learning.test_drift_monitor.test_a_change_is_found",
    "llmrouter.learning.test_drift_monitor.test_false_alarms_are_as_rare_as_promised",
    "llmrouter.learning.test_online_learner.test_replicas_answer_a_thousand_dry_runs_alike",
    "llmrouter.learning.test_promotion_gate.test_false_promotions_and_power",
    "llmrouter.learning.test_promotion_gate.test_needed_requests_would_do",
    "llmrouter.learning.test_promotion_gate.test_what_the_gate_says_is_needed_has_the_power_it_says",
    "llmrouter.moe.test_moe_experts_invariance.test_a_request_keeps_its_bits_whoever_joins_and_leaves",
    "llmrouter.policy.test_explore_policy.test_models_come_first_as_often_as_their_propensities_say",
    "llmrouter.policy.test_explore_policy.test_the_mean_probability_keeps_to_the_share",
    "llmrouter.policy.test_policy_contracts.test_contract",
    "llmrouter.policy.test_quality_floor.test_the_promise_is_broken_no_more_often_than_stated",
    "llmrouter.policy.test_quota.test_floors_and_sampling_below_are_held_to_the_quota_too",
    "llmrouter.policy.test_quota.test_several_quotas_hold_together",
    "llmrouter.policy.test_quota.test_the_best_requests_keep_the_scarce_model",
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
            names = {module, f"{module}.{item.originalname}"}
            if names & NOT_TRACED or _is_property_of_the_library(item, module):
                item.add_marker("no_cover")


def _is_property_of_the_library(item: pytest.Function, module: str) -> bool:
    # Not those of the service: tracing that stops for a test never goes on in threads that are there already, which in
    # its tests are gateways.
    return module.startswith("llmrouter.") and is_hypothesis_test(item.obj)


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
