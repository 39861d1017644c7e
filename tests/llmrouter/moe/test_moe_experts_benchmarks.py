"""The benchmarks of the experts run at a small size, compare the same outputs, and know the roofline."""

import json

import pytest

from benchmarks.gpu import moe as on_gpu
from benchmarks.gpu.__main__ import main as run_on_gpu
from benchmarks.moe.__main__ import main as on_cpu
from llmrouter.moe.experts import Shape


def test_the_roofline_is_memory_for_few_tokens_and_arithmetic_for_many():
    shape = Shape(64, 2048, 1024, 8)
    few = on_gpu.roofline_s(shape, 1, 8, 2, 4e12, 8e14)
    assert few == pytest.approx((8 * 3 * 2048 * 1024 * 2 + 2 * 2048 * 2) / 4e12)
    many = on_gpu.roofline_s(shape, 4096, 64, 2, 4e12, 8e14)
    assert many == pytest.approx(6 * 2048 * 1024 * 8 * 4096 / 8e14)


def test_the_cpu_benchmark(tmp_path):
    settings = ["--tokens", "1", "3", "--rounds", "2", "--dtypes", "fp32", "--shapes", "olmoe-1b-7b / 4"]
    assert on_cpu(["--out", str(tmp_path), *settings]) == 0
    document = json.loads((tmp_path / "moe.json").read_text())
    assert [row["tokens"] for row in document["rows"]] == [1, 3]
    assert set(document["rows"][0]["times_ours"]) == {"eager", "grouped_mm", "batched_mm", "ours, deterministic"}
    assert all(0 < error < 1e-5 for row in document["rows"] for error in row["errors"].values())
    assert "| olmoe-1b-7b / 4 | 3 |" in (tmp_path / "moe.md").read_text()


def test_the_gpu_benchmark_on_a_cpu(tmp_path):
    settings = ["--device", "cpu", "--shrink", "32", "--tokens", "1", "17", "--shapes", "olmoe-1b-7b"]
    assert run_on_gpu(["moe", "--out", str(tmp_path), *settings]) == 0
    document = json.loads((tmp_path / "moe.json").read_text())
    assert {row["way"] for row in document["layers"]} >= {"ours", "grouped_mm", "batched_mm", "ours, deterministic"}
    assert any("fused kernels" in reason for reason in document["skipped"])
    assert "these are figures of a CPU" in (tmp_path / "moe.md").read_text()


def test_a_wrong_output_is_an_error(tmp_path, monkeypatch):
    right = on_gpu.our_ways

    def broken(layer, table=None):
        return {name: lambda *batch, way=way: way(*batch) * 1.1 for name, way in right(layer, table).items()}

    monkeypatch.setattr(on_gpu, "our_ways", broken)
    settings = ["--device", "cpu", "--shrink", "32", "--tokens", "1", "--shapes", "olmoe-1b-7b"]
    assert run_on_gpu(["moe", "--out", str(tmp_path), *settings]) == 1


def test_a_way_that_fails_is_left_out_and_ours_may_not_fail(tmp_path, monkeypatch):
    theirs = on_gpu.hugging_face_ways

    def dies(*batch):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(on_gpu, "hugging_face_ways", lambda layer: {**theirs(layer), "grouped_mm": dies})
    settings = ["--device", "cpu", "--shrink", "32", "--tokens", "1", "--shapes", "olmoe-1b-7b"]
    assert run_on_gpu(["moe", "--out", str(tmp_path), *settings]) == 0
    document = json.loads((tmp_path / "moe.json").read_text())
    assert "olmoe-1b-7b, grouped_mm: failed at 1 tokens: RuntimeError: no such kernel" in document["skipped"]
    monkeypatch.setattr(on_gpu, "our_ways", lambda layer, table=None: {"ours": dies, "ours, deterministic": dies})
    assert run_on_gpu(["moe", "--out", str(tmp_path), *settings]) == 1
