"""A changed configuration takes effect as a whole or not at all, and nothing under way notices."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmrouter.exceptions import ArtifactError
from service.reload import Reloader, ReloadResult
from service.settings import Settings, load_settings

POOL = "pool: [{{name: {name}, backend: scripted, price: {{input: 1, output: 1}}}}]\n"


class FakeGateway:
    """Records what happens to it."""

    def __init__(self, settings: Settings, *, fails_to_start: bool = False) -> None:
        self.settings = settings
        self.events: list[Any] = []
        self.release = asyncio.Event()
        self._fails = fails_to_start

    async def start(self) -> None:
        if self._fails:
            raise ArtifactError("the collector cannot be reached")
        self.events.append("started")

    async def retire(self, successor: FakeGateway, *, within_s: float) -> None:
        self.events.append(("retiring", successor, within_s))
        if within_s:
            await self.release.wait()
        self.events.append("retired")


class Bench:
    """A reloader over fakes, and a file to change."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "config.yaml"
        self.write("first")
        self.first = FakeGateway(load_settings(self.file))
        self.app: Any = SimpleNamespace(state=SimpleNamespace(gateway=self.first))
        self.results: list[ReloadResult] = []
        self.build: Callable[[Settings, Any], Any] = lambda settings, old: FakeGateway(settings)
        self.builder_threads: set[str] = set()

    def write(self, name: str, more: str = "") -> None:
        self.file.write_text(POOL.format(name=name) + more)

    def reloader(self, interval_s: float = 0.0, **options: Any) -> Reloader:
        return Reloader(
            self.app, self.file, build=self._build, interval_s=interval_s, on_result=self.results.append, **options
        )

    def _build(self, settings: Settings, old: Any) -> Any:
        self.builder_threads.add(threading.current_thread().name)
        return self.build(settings, old)

    @property
    def gateway(self) -> FakeGateway:
        return self.app.state.gateway

    @property
    def serves(self) -> str:
        return self.gateway.settings.pool[0].name


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_good_configuration_takes_the_place_of_the_old_one(bench: Bench) -> None:
    reloader = bench.reloader()
    bench.write("second")
    result = await reloader.reload("test")
    assert result.ok, result.error
    assert result.trigger == "test"
    assert bench.serves == "second"
    assert bench.gateway.events == ["started"]
    assert threading.current_thread().name not in bench.builder_threads, "the event loop went on meanwhile"
    await until(lambda: bench.first.events)
    assert bench.first.events == [("retiring", bench.gateway, 3600.0)], "requests under way still need it"
    bench.first.release.set()
    await until(lambda: bench.first.events[-1] == "retired")
    assert reloader.state()["status"] == "ok"
    assert reloader.state()["reloads"] == 1


async def test_every_problem_is_told_and_the_last_good_stays(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    reloader = bench.reloader()
    bench.file.write_text("pool: [{name: a, backend: openal}]\nserver: {port: high}\n")
    result = await reloader.reload()
    assert not result.ok
    for part in ("pool[0].backend", "did you mean 'openai'", "pool[0].price", "server.port"):
        assert part in result.error
        assert part in caplog.text
    assert bench.gateway is bench.first
    assert bench.first.events == []
    state = reloader.state()
    assert state["status"] == "failing"
    assert state["failures"] == 1
    assert "3 problems" in state["error"], "the headline alone: details quote the file"
    bench.write("mended")
    assert (await reloader.reload()).ok
    assert reloader.state()["status"] == "ok"
    assert reloader.state()["error"] == ""


@pytest.mark.parametrize("fault", [ArtifactError("no such artifact"), RuntimeError("a bug")])
async def test_a_state_that_cannot_be_built_changes_nothing(bench: Bench, fault: Exception) -> None:
    def build(settings: Settings, old: Any) -> Any:
        raise fault

    bench.build = build
    bench.write("second")
    result = await bench.reloader().reload()
    assert str(fault) in result.error
    assert bench.gateway is bench.first
    assert bench.first.events == []


async def test_a_state_that_does_not_start_is_closed_again_but_for_what_it_shares(bench: Bench) -> None:
    built: list[FakeGateway] = []

    def build(settings: Settings, old: Any) -> Any:
        built.append(FakeGateway(settings, fails_to_start=True))
        return built[0]

    bench.build = build
    bench.write("second")
    result = await bench.reloader().reload()
    assert "collector" in result.error
    assert bench.gateway is bench.first
    assert built[0].events == [("retiring", bench.first, 0.0), "retired"]


async def test_what_needs_a_restart_is_kept_and_told(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    reloader = bench.reloader()
    bench.write("second", "server: {port: 9000, workers: 4, max_body_bytes: 1000}\n")
    result = await reloader.reload()
    assert result.ok
    assert len(result.ignored) == 2
    server = bench.gateway.settings.server
    assert (server.port, server.workers, server.max_body_bytes) == (8080, 1, 1000)
    assert "server.port: 9000 in the file, 8080 in effect" in caplog.text
    assert reloader.state()["needs_restart"] == ["server.port", "server.workers"]


async def test_keys_cannot_be_turned_off_while_others_reach_the_gateway(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    exposed = "server: {host: 0.0.0.0}\n"
    bench.write("first", exposed + "auth: {}\n")
    bench.first.settings = load_settings(bench.file)
    bench.write("second", exposed)
    result = await bench.reloader().reload()
    assert not result.ok
    assert "server.host" in result.error
    assert bench.gateway is bench.first


async def test_limits_that_several_workers_cannot_keep_are_refused(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write("first", "server: {workers: 2}\n")
    bench.first.settings = load_settings(bench.file)
    bench.write("second", "server: {workers: 2}\nlimits: {gateway: {rpm: 5}}\n")
    result = await bench.reloader().reload()
    assert "server.workers" in result.error
    assert bench.gateway is bench.first


async def test_old_states_are_closed_in_their_order(bench: Bench) -> None:
    reloader = bench.reloader()
    states = [bench.first]
    for name in ("second", "third"):
        bench.write(name)
        assert (await reloader.reload()).ok
        states.append(bench.gateway)
    first, second, _ = states
    second.release.set()
    await until(lambda: first.events)
    await asyncio.sleep(0.05)
    assert second.events == ["started"], "the first may still use what the second took over"
    first.release.set()
    await until(lambda: "retired" in second.events)


async def test_changes_are_seen_and_touches_are_none(bench: Bench) -> None:
    reloader = bench.reloader(interval_s=0.02)
    bench.write("first", "server: {watch_s: 0.02}\n")
    reloader.start()
    try:
        await until(lambda: len(bench.results) == 1)
        bench.file.touch()
        os.utime(bench.file, (1, 1))
        await asyncio.sleep(0.4)
        assert len(bench.results) == 1, "its text is the same"
        bench.write("second", "server: {watch_s: 0.02}\n")
        await until(lambda: bench.serves == "second")
        bench.file.write_text("pool: [")
        await until(lambda: len(bench.results) == 3)
        await asyncio.sleep(0.4)
        assert len(bench.results) == 3, "a wrong file is told of once"
        assert bench.serves == "second"
        bench.file.unlink()
        await until(lambda: len(bench.results) == 4)
        assert "cannot read" in bench.results[-1].error
        bench.write("third", "server: {watch_s: 0.02}\n")
        await until(lambda: bench.serves == "third")
        assert [result.trigger for result in bench.results] == ["change"] * 5
    finally:
        for state in (bench.first, bench.gateway):
            state.release.set()
        await reloader.stop()


async def test_a_file_that_is_being_written_is_not_read(bench: Bench) -> None:
    reloader = bench.reloader(interval_s=0.02)
    reloader.start()
    try:
        for i in range(8):
            bench.write(f"unfinished-{i}")
            await asyncio.sleep(0.1)
        assert bench.results == []
        bench.write("finished")
        await until(lambda: bench.serves == "finished")
        assert len(bench.results) == 1
    finally:
        bench.first.release.set()
        await reloader.stop()


async def test_a_link_that_leads_to_another_artifact_is_a_change(bench: Bench, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    link = tmp_path / "current"
    link.symlink_to("one")
    section = f"router: {{artifact: {link}}}\nserver: {{watch_s: 0.02}}\n"
    bench.write("first", section)
    bench.first.settings = load_settings(bench.file)
    reloader = bench.reloader(interval_s=0.02)
    reloader.start()
    try:
        await asyncio.sleep(0.1)
        assert bench.results == []
        (tmp_path / "next").symlink_to("two")
        (tmp_path / "next").rename(link)
        await until(lambda: bench.results)
        assert bench.results[0].ok
    finally:
        bench.first.release.set()
        await reloader.stop()


async def test_a_hangup_reloads_even_what_did_not_change(bench: Bench) -> None:
    before = signal.getsignal(signal.SIGHUP)
    reloader = bench.reloader()
    reloader.start()
    try:
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: bench.results)
        assert bench.results[0].trigger == "SIGHUP"
        assert bench.gateway is not bench.first
        bench.first.release.set()
        await reloader.stop()
        os.kill(os.getpid(), signal.SIGHUP)  # must not end the process, which is about to end by itself
        await asyncio.sleep(0.05)
        assert len(bench.results) == 1
    finally:
        signal.signal(signal.SIGHUP, before)


async def test_stopping_waits_for_what_is_being_built(bench: Bench) -> None:
    entered, leave = threading.Event(), threading.Event()

    def build(settings: Settings, old: Any) -> Any:
        entered.set()
        leave.wait(20)
        return FakeGateway(settings)

    bench.build = build
    reloader = bench.reloader()
    reloader.start()
    bench.first.release.set()
    bench.write("second")
    reload = asyncio.create_task(reloader.reload())
    await asyncio.to_thread(entered.wait, 20)
    stop = asyncio.create_task(reloader.stop())
    await asyncio.sleep(0.05)
    assert not stop.done()
    leave.set()
    await stop
    assert (await reload).ok
    assert bench.serves == "second"
    assert bench.first.events[-1] == "retired"
