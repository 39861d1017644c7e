"""The overlay: changes of the pool in a file of their own."""

import asyncio
import multiprocessing
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrouter.exceptions import ConfigError
from service.models.overlay import Overlay, locked, parse_overlay, read_overlay, write_overlay
from service.reload import Reloader
from service.settings import load_settings

CONFIG = """\
pool:
  - {{name: a, backend: scripted, price: {{input: 1, output: 2}}}}
  - {{name: b, backend: scripted, price: {{input: 3, output: 4}}}}
router: {{text: last_user_turn}}
learning: {{models: {{overlay: "{overlay}"}}}}
"""
NEW = {"name": "c", "backend": "scripted", "price": {"input": 5, "output": 6}}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(overlay=tmp_path / "models.yaml"))
    return path


def names(config, overlay=None):
    return [model.name for model in load_settings(config, overlay=overlay).pool]


def test_a_missing_overlay_changes_nothing(config):
    assert names(config) == ["a", "b"]


def test_changes_are_merged_over_the_configuration(config, tmp_path):
    overlay = (
        Overlay(artifact="artifacts/current").with_entry(NEW).without("a").with_price("b", {"input": 9, "output": 9})
    )
    write_overlay(tmp_path / "models.yaml", overlay)
    settings = load_settings(config)
    assert [model.name for model in settings.pool] == ["b", "c"]
    assert settings.pool[0].price.input == 9
    assert settings.router.artifact == Path("artifacts/current")
    assert settings.router.text == "last_user_turn"
    assert read_overlay(tmp_path / "models.yaml") == overlay


def test_an_entry_stands_in_place_of_the_configured_one_of_its_name(config, tmp_path):
    write_overlay(tmp_path / "models.yaml", Overlay().with_entry({**NEW, "name": "a"}))
    assert sorted(names(config)) == ["a", "b"]


def test_what_is_removed_can_come_back(config):
    gone = Overlay().without("a")
    assert names(config, gone) == ["b"]
    assert sorted(names(config, gone.with_entry({**NEW, "name": "a"}))) == ["a", "b"]


def test_a_candidate_stands_in_place_of_the_file(config, tmp_path):
    write_overlay(tmp_path / "models.yaml", Overlay().without("a"))
    assert names(config, Overlay()) == ["a", "b"]


def test_problems_name_configuration_and_overlay(config, tmp_path):
    write_overlay(tmp_path / "models.yaml", Overlay().with_entry({"name": "c", "backend": "scripted", "contxt": 1}))
    with pytest.raises(ConfigError) as caught:
        load_settings(config)
    assert "pool[2].contxt" in str(caught.value)
    assert "models.yaml" in str(caught.value)


def test_an_emptied_pool_is_refused(config):
    with pytest.raises(ConfigError, match="empty"):
        load_settings(config, overlay=Overlay().without("a").without("b"))


def test_variables_of_an_entry_come_from_the_environment(config, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "secret")
    entry = {**NEW, "backend": "openai", "base_url": "http://127.0.0.1:1/v1", "api_key": "${SOME_KEY}"}
    settings = load_settings(config, overlay=Overlay().with_entry(entry))
    assert settings.pool[-1].api_key.get_secret_value() == "secret"
    assert "${SOME_KEY}" in Overlay().with_entry(entry).text()  # never the value


def test_the_overlay_s_own_place_may_hold_a_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("PLACE", str(tmp_path))
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(overlay="${PLACE}/models.yaml"))
    write_overlay(tmp_path / "models.yaml", Overlay().without("a"))
    assert names(path) == ["b"]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("pools: []", "unknown key 'pools'"),
        ("pool: 3", "pool must be a list"),
        ("pool: [{price: 1}]", "each with a name"),
        ("remove: a", "remove must be a list"),
        ("prices: [1]", "prices must be a mapping"),
        ("prices: {a: 3}", "prices must be a mapping"),
        ("artifact: [1]", "artifact must be a path"),
        ("pool: [", "not valid YAML"),
        ("[1]", "must hold a mapping"),
    ],
)
def test_a_wrong_overlay_is_named(text, what):
    with pytest.raises(ConfigError, match=what) as caught:
        parse_overlay(text, source="models.yaml")
    assert "models.yaml" in str(caught.value)


def test_the_file_is_its_owner_s_and_whole(tmp_path):
    path = tmp_path / "deep" / "models.yaml"
    write_overlay(path, Overlay().with_entry(NEW))
    assert path.stat().st_mode & 0o077 == 0
    assert [one.name for one in path.parent.iterdir()] == ["models.yaml"]
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="cannot write"):
        write_overlay(tmp_path / "folder", Overlay())
    with pytest.raises(ConfigError, match="cannot read"):
        read_overlay(tmp_path / "folder")


NAMES = st.sampled_from(["a", "b", "c", "d"])


@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "price"]), NAMES), max_size=8))
def test_the_last_word_on_a_model_holds_and_writing_loses_nothing(steps):
    overlay, there, prices = Overlay(), {"a": True, "b": True, "c": False, "d": False}, {}
    for action, name in steps:
        if action == "add":
            overlay, there[name] = overlay.with_entry({**NEW, "name": name}), True
            prices.pop(name, None)
        elif action == "remove":
            overlay, there[name] = overlay.without(name), False
            prices.pop(name, None)
        elif there[name]:
            overlay = overlay.with_price(name, {"input": 7, "output": 7})
            prices[name] = 7
    again = parse_overlay(overlay.text(), source="x")
    assert again == overlay
    tree = {"pool": [{"name": "a", "price": {"input": 1}}, {"name": "b", "price": {"input": 3}}]}
    merged = {entry["name"]: entry["price"]["input"] for entry in again.merged(tree)["pool"]}
    assert set(merged) == {name for name, is_there in there.items() if is_there}
    assert all(merged[name] == 7 for name in prices)


def _hold(path, held, leave):
    with locked(path):
        held.set()
        leave.wait(20)


def test_one_change_at_a_time(tmp_path):
    context = multiprocessing.get_context("spawn")
    held, leave = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path / "lock", held, leave))
    other.start()
    try:
        assert held.wait(20)
        with pytest.raises(ConfigError, match="another change"), locked(tmp_path / "lock", wait=False):
            pass
    finally:
        leave.set()
        other.join(20)
    with locked(tmp_path / "lock", wait=False):
        pass


# The watch


class Still:
    """A gateway that records nothing."""

    def __init__(self, settings):
        self.settings = settings

    async def start(self):
        pass

    async def retire(self, *_, **__):
        pass


async def test_a_changed_overlay_is_taken_in_and_a_wrong_one_is_not(config, tmp_path):
    app = SimpleNamespace(state=SimpleNamespace(gateway=Still(load_settings(config))))
    results = []
    reloader = Reloader(
        app, config, build=lambda settings, _: Still(settings), interval_s=0.02, on_result=results.append
    )
    reloader.start()
    try:
        write_overlay(tmp_path / "models.yaml", Overlay().with_entry(NEW))
        await _until(lambda: results)
        assert results[-1].ok, results[-1].error
        assert [model.name for model in app.state.gateway.settings.pool] == ["a", "b", "c"]
        (tmp_path / "models.yaml").write_text("pool: 3")
        await _until(lambda: len(results) == 2)
        assert not results[-1].ok
        assert [model.name for model in app.state.gateway.settings.pool] == ["a", "b", "c"]
        (tmp_path / "models.yaml").unlink()
        await _until(lambda: len(results) == 3)
        assert [model.name for model in app.state.gateway.settings.pool] == ["a", "b"]
    finally:
        await reloader.stop()


async def _until(condition):
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110 - nothing to wait on
            await asyncio.sleep(0.02)
