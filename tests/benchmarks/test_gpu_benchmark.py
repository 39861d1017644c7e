"""The benchmark of a GPU, at a size and on a device that a test has."""

import json
import subprocess
import sys

import numpy as np
import pytest

from llmrouter.index import create_index
from tests.contracts.index_kit import unit_rows

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

from benchmarks.gpu import __main__, device, encoders, index  # noqa: E402 -- they import torch

SMALL_INDEX = ["--rows", "4500", "--dimension", "8", "--batches", "1", "3", "--k", "5", "--device", "cpu"]
SMALL_ENCODER = ["--batches", "1", "2", "--layers", "1", "--hidden", "32", "--device", "cpu"]


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Few rounds: what is asserted are the answers, not the times."""
    real = device.Device.seconds
    monkeypatch.setattr(
        device.Device, "seconds", lambda self, work, **_: real(self, work, least=1, longest_s=0.0), raising=True
    )
    monkeypatch.setattr(encoders, "_COMPARED", 4)


def run(folder, part, *words):
    status = __main__.main([part, "--out", str(folder), *words])
    return status, json.loads((folder / f"{part}.json").read_text()), (folder / f"{part}.md").read_text()


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_searches_are_checked_and_set_against_the_floor(tmp_path, dtype):
    status, document, page = run(tmp_path, "index", *SMALL_INDEX, "--dtype", dtype)
    assert (status, document["wrong"]) == (0, 0)
    assert [(row["index"], row["rows"], row["batch"]) for row in document["searches"]] == [
        ("torch", 4500, 1),
        ("torch", 4500, 3),
    ]
    read = 4512 * 8 * {"bf16": 2, "fp32": 4}[dtype]  # in whole groups of 32 rows
    for row in document["searches"]:
        assert row["bytes"] == read
        assert row["memory_floor_s"] == pytest.approx(read / document["rates"]["copy_bytes_per_s"], rel=1e-4)
        assert row["passes_per_search"] >= 1.0
    assert document["skipped"] == ["faiss: not on a CPU"]
    assert "No GPU was at hand" in page
    assert "0 differ from double precision" in page
    assert document["versions"]["torch"]


def test_wrong_answers_are_counted_and_the_command_fails(tmp_path, monkeypatch):
    class Wrong:
        def __init__(self, real):
            self._real = real

        def __getattr__(self, name):
            return getattr(self._real, name)

        def __len__(self):
            return len(self._real)

        def search(self, queries, k):
            found = self._real.search(queries, k + 1)
            return type(found)(found.ids[:, 1:], found.similarities[:, 1:])  # without the nearest

    monkeypatch.setattr(index, "create_index", lambda *arguments: Wrong(create_index(*arguments)))
    status, document, _ = run(tmp_path, "index", *SMALL_INDEX)
    assert status == 1
    assert document["wrong"] >= 8


def test_the_check_sees_repeats_missing_rows_and_wrong_similarities():
    rows, queries = unit_rows(300, dimension=8), unit_rows(4, dimension=8, seed=1)
    real = create_index("exact", 8)
    real.add(np.arange(300), rows)
    cpu = device.Device("cpu", budget_s=1.0)
    found = real.search(queries, 6)

    def counted(ids, similarities):
        stand_in = type("Index", (), {"search": lambda *_: type(found)(ids, similarities)})()
        return index.wrong_answers(cpu, stand_in, rows, queries, 6)

    assert counted(found.ids, found.similarities) == 0
    similarities = found.similarities.copy()
    similarities[1, 2] += 0.01
    assert counted(found.ids, similarities) == 1
    ids = found.ids.copy()
    ids[2, 5] = ids[2, 4]
    assert counted(ids, found.similarities) >= 1


def test_the_encoder_gives_the_same_vectors_in_any_batch(tmp_path):
    status, document, page = run(tmp_path, "encoders", *SMALL_ENCODER)
    assert (status, document["wrong"]) == (0, 0)
    assert [(row["way"], row["batch"]) for row in document["encoders"]] == [("eager", 1), ("eager", 2)]
    assert document["skipped"] == ["CUDA graphs: the device is a CPU"]
    assert "No GPU was at hand" in page
    options = type("Options", (), {"layers": 1, "hidden": 32, "seed": 0})
    cpu = device.Device("cpu", budget_s=1.0)
    model = encoders.made_model(cpu, options, torch.float32)
    prompts = encoders.made_prompts(7, seed=1)
    encoder = encoders.Encoder(cpu, model, encoders.pooled(model), 32)
    together = encoder.encode(prompts)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, rtol=1e-5)
    for number, prompt in enumerate(prompts):
        with torch.inference_mode():
            plain = model(input_ids=torch.tensor([prompt])).last_hidden_state.mean(dim=1)[0].numpy()
        np.testing.assert_allclose(together[number], plain / np.linalg.norm(plain), atol=2e-5)


def test_vectors_far_from_those_of_float32_fail_the_command(tmp_path, monkeypatch):
    real = encoders.made_model

    def made(cpu, options, dtype):
        if dtype != torch.float32:
            options = type("Options", (), {**vars(options), "seed": 5})
        return real(cpu, options, dtype)

    monkeypatch.setattr(encoders, "made_model", made)
    status, document, _ = run(tmp_path, "encoders", *SMALL_ENCODER)
    assert (status, document["wrong"]) == (1, 1)


@pytest.mark.parametrize(("part", "words"), [("index", SMALL_INDEX), ("encoders", SMALL_ENCODER)])
def test_without_time_nothing_is_measured_and_that_is_told(tmp_path, part, words):
    status, document, page = run(tmp_path, part, *words, "--budget-s", "0")
    assert status == 0
    assert not document["searches" if part == "index" else "encoders"]
    assert any("no time was left" in line for line in document["skipped"])
    assert "no time was left" in page


def test_a_device_that_is_not_there_is_told(tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("a GPU is there")
    _, document, _ = run(tmp_path, "index", *SMALL_INDEX[:-1], "cuda", "--budget-s", "0")
    assert document["device"] == "cpu"
    assert "measuring the CPU, since this torch" in capsys.readouterr().out


def test_a_machine_with_torch_and_transformers_alone_can_run_it(tmp_path):
    absent = (
        "faiss", "fastapi", "starlette", "pydantic", "orjson", "aiohttp", "uvicorn", "sklearn", "scipy", "pandas",
        "pyarrow", "sentence_transformers", "litellm", "matplotlib",
    )  # fmt: skip
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({absent!r}))\n"
        "from benchmarks.gpu import __main__\n"
        f"out = ['--out', {str(tmp_path)!r}, '--budget-s', '0']\n"
        f"assert __main__.main(['index', *out, *{SMALL_INDEX!r}]) == 0\n"
        f"assert __main__.main(['encoders', *out, *{SMALL_ENCODER!r}]) == 0\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"index.json", "index.md", "encoders.json", "encoders.md"}


@pytest.mark.parametrize("words", [[], ["disk"], ["index"], ["index", "--rows", "many", "--out", "x"], ["--help"]])
def test_what_is_asked_wrongly_is_told_before_anything_is_measured(words, capsys):
    with pytest.raises(SystemExit) as ended:
        __main__.main(words)
    told = capsys.readouterr()
    assert ended.value.code == (0 if words == ["--help"] else 2)
    assert "usage: python -m benchmarks.gpu" in told.out + told.err
    assert len(words) != 1 or words[0] == "index" or "moe" in told.out + told.err
