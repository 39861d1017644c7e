"""Downloads from the hub, with a hub that is not there: what is asked for, and what a user without a network reads."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from pickle_samples import dumps, frame

from llmrouter.exceptions import DataError, MissingExtraError
from llmrouter.outcomes import _hub, import_benchmark

COLUMNS = {"sample_id": ["a"], "prompt": ["x"], "eval_name": ["t"], "m": [1.0], "m|total_cost": [0.5]}
TABLE = dumps(frame(COLUMNS))
EMBED = "prompt_id,prompt,model_name,category,label\n{0},question {0},m,t,1\n"


class Hub:
    """As much of huggingface_hub as is used, over files in memory."""

    def __init__(self, folder: Path, files: dict[str, bytes]) -> None:
        self.folder, self.files, self.asked = folder, files, []

    def HfApi(self) -> Hub:
        return self

    def dataset_info(self, repository: str, *, revision: str | None, timeout: float) -> SimpleNamespace:
        assert timeout <= 10
        self.asked.append((repository, revision))
        return SimpleNamespace(sha="abc123", siblings=[SimpleNamespace(rfilename=name) for name in self.files])

    def hf_hub_download(self, repository: str, name: str, *, repo_type: str, revision: str, etag_timeout: float) -> str:
        assert (repo_type, revision) == ("dataset", "abc123"), "all files of one commit"
        self.asked.append(name)
        path = self.folder / "snapshots" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.files[name])
        return str(path)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def put(files: dict[str, bytes]) -> Hub:
        hub = Hub(tmp_path, files)
        monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
        return hub

    return put


def test_a_known_data_set_is_downloaded_and_read(install) -> None:
    hub = install({"README.md": b"", "routerbench_0shot.pkl": TABLE, "routerbench_5shot.pkl": b"not fetched"})
    table, report = import_benchmark("hub:withmartian/routerbench")
    assert (table.name, table.models, report.format) == ("routerbench", ("m",), "routerbench")
    assert hub.asked == [("withmartian/routerbench", None), "routerbench_0shot.pkl"]


def test_one_file_at_a_revision(install) -> None:
    hub = install({"more/routerbench_5shot.pkl": TABLE})
    import_benchmark("hub:withmartian/routerbench/more/routerbench_5shot.pkl@v1")
    assert hub.asked == [("withmartian/routerbench", "v1"), "more/routerbench_5shot.pkl"]
    with pytest.raises(DataError, match="has no file 'routerbench_0shot.pkl'; it has: more/routerbench_5shot.pkl"):
        import_benchmark("hub:withmartian/routerbench/routerbench_0shot.pkl")


def test_several_files_are_read_as_a_folder(install) -> None:
    parts = {f"{name}.csv": EMBED.format(number).encode() for number, name in enumerate(("test", "train", "val"))}
    install({**parts, "model_order.csv": b"x"})
    table, _ = import_benchmark("hub:RZ412/EmbedLLM")
    assert dict(zip(table.prompt_ids, table.splits)) == {"0": "test", "1": "train", "2": "train"}
    with pytest.raises(DataError, match="the repository has no Parquet files; it has: model_order.csv, test.csv"):
        import_benchmark("hub:RZ412/EmbedLLM", format="sprout")


def test_an_unknown_data_set_needs_a_format(install) -> None:
    install({"data/routerbench_0shot.pkl": TABLE})
    with pytest.raises(DataError, match="give format as one of"):
        import_benchmark("hub:some.one/copy")
    assert len(import_benchmark("hub:some.one/copy", format="routerbench").table) == 1
    with pytest.raises(DataError, match="names no data set; write hub:ORG/NAME"):
        import_benchmark("hub:routerbench", format="routerbench")


@pytest.mark.parametrize(
    "error", [OSError("Name or service not known"), RuntimeError("401: accept the terms\nlong"), KeyError("x")]
)
def test_what_fails_at_the_hub_says_what_to_do(install, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    hub = install({})

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(hub, "dataset_info", fail)
    with pytest.raises(DataError) as caught:
        import_benchmark("hub:RZ412/EmbedLLM")
    message = str(caught.value)
    assert str(error).splitlines()[0] in message
    assert "download it by hand from https://huggingface.co/datasets/RZ412/EmbedLLM and give the path" in message


def test_a_hub_that_never_answers_is_given_up(install, monkeypatch: pytest.MonkeyPatch) -> None:
    hub, release = install({}), threading.Event()
    monkeypatch.setattr(hub, "dataset_info", lambda *_, **__: release.wait(30))
    monkeypatch.setattr(_hub, "_SECONDS", 0.05)
    try:
        with pytest.raises(DataError, match=r"\(no answer within 0.05 s\).*by hand"):
            import_benchmark("hub:RZ412/EmbedLLM")
    finally:
        release.set()


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"downloading from the hub needs .*\[encoders\]"):
        import_benchmark("hub:RZ412/EmbedLLM")
