"""An artifact is on disk before it has its name, and the link before a promotion is reported."""

import os
from pathlib import Path

from llmrouter import _files, artifact
from llmrouter.encoders import load_encoder
from llmrouter.types import ModelCard, Price

CARDS = [ModelCard("pocket-words", Price(1.0, 2.0))]


class Watched:
    """`os`, noting what is synced and whether it had its final name by then."""

    def __init__(self, parent):
        self.parent, self.synced = parent, []

    def __getattr__(self, name):
        if name != "fsync":
            return getattr(os, name)

        def fsync(handle):
            path = Path(f"/proc/self/fd/{handle}").readlink().relative_to(self.parent)
            self.synced.append((path, any(not place.name.startswith(".") for place in self.parent.iterdir())))
            os.fsync(handle)

        return fsync


def test_what_is_saved_and_promoted_outlives_a_loss_of_power(tmp_path, monkeypatch):
    trained = artifact.load(artifact.default_artifact(), CARDS).trained
    watched = Watched(tmp_path)
    monkeypatch.setattr(_files, "os", watched)
    spec = artifact.EncoderSpec("static", {}, load_encoder("static").fingerprint)
    folder = artifact.save(trained, tmp_path, encoder=spec, training={})
    before = {Path(*path.parts[1:]) for path, named in watched.synced if not named}
    before = {path for path in before if not path.name.startswith(".")}  # names of parts that were replaced since
    assert before == {path.relative_to(folder) for path in folder.rglob("*")} | {Path()}
    assert [path for path, named in watched.synced if named] == [Path()]
    watched.synced.clear()
    artifact.promote(folder)
    assert watched.synced == [(Path(), True)]
