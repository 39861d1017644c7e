"""Online adaptation in a gateway: it follows the log, swaps engines whole, and survives what can go wrong."""

import threading
import time
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from contracts import online_pool as pool

from llmrouter.exceptions import StoreError
from llmrouter.learning import DriftMonitor, OnlineLearner, OnlineParameters
from llmrouter.outcomes import Feedback, MemoryOutcomeStore, open_store
from llmrouter.types import RoutingRequest
from service.learning.online import OnlineUpdater, build_updater, snapshot_path
from service.learning.online_settings import OnlineSettings
from service.settings import LogSettings, parse_settings

POOL = """
pool:
- {name: alpha, backend: scripted, price: {input: 1, output: 2}}
- {name: beta, backend: scripted, price: {input: 1, output: 2}}
- {name: gamma, backend: scripted, price: {input: 1, output: 2}}
"""


class Log:
    """A store behind what the gateway submits jobs to; may be away."""

    def __init__(self, store=None):
        self.store = store or MemoryOutcomeStore()
        self.away = False
        self.reads = 0

    def submit(self, job):
        future = Future()
        self.reads += 1
        try:
            if self.away:
                raise StoreError("the log is away")
            future.set_result(job(self.store))
        except Exception as error:
            future.set_exception(error)
        return future

    def add(self, count, *, start=0, model="alpha", quality=0.0):
        self.store.append(
            [
                pool.event(
                    i + 1, model=model, quality=quality, row=i % pool.N, candidates={model: {"quality": 0.9}}
                ).outcome
                for i in range(start, start + count)
            ]
        )


def updater(log, *, engine=None, drift=False, snapshot=None, before=None, swapped=None, **settings):
    wanted = OnlineSettings(**{"interval_s": 0.05, **settings})
    return OnlineUpdater(
        OnlineLearner(pool.engine_of() if engine is None else engine, parameters=wanted.parameters()),
        monitor=DriftMonitor() if drift else None,
        submit=log.submit,
        swap=(lambda _: None) if swapped is None else swapped.append,
        settings=wanted,
        snapshot=snapshot,
        before=before,
    )


def wait_for(condition, within_s=20.0):
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.01)


def expected(engine, row=5):
    return engine.estimate([str(row)], [3])[0].quality


def test_feedback_acts_within_seconds_and_engines_are_swapped_whole():
    log, swapped = Log(), []
    online = updater(log, swapped=swapped)
    online.start()
    try:
        wait_for(lambda: online.state()["status"] == "ok")
        assert swapped == []
        log.store.append([pool.event(1, quality=None, row=5).outcome])
        log.store.feedback(Feedback("r1", 0.0))
        began = time.monotonic()
        wait_for(lambda: swapped)
        assert time.monotonic() - began < 5.0
        assert expected(swapped[-1])[0] < expected(online.learner.base)[0]
        wait_for(lambda: online.state()["learned"] == 1)
        state = online.state()
        assert state["cursor"] == log.store.last_event()
        assert (state["swaps"], state["trouble"], state["behind_s"]) == (1, "", 0.0)
        assert state["moved"]["alpha"] < 0
    finally:
        online.close()


def test_a_long_log_is_read_to_its_end_in_one_step():
    log, swapped = Log(), []
    log.add(1203)
    online = updater(log, swapped=swapped, window=50)
    assert online.step()
    assert online.state()["events"] == 1203
    assert online.learner.base.encoder.encoded == 50
    assert len(swapped) == 1
    assert not online.step()


def test_while_the_log_is_away_the_last_engine_stays():
    log, swapped = Log(), []
    log.add(3)
    online = updater(log, swapped=swapped)
    online.start()
    try:
        wait_for(lambda: swapped)
        log.away = True
        wait_for(lambda: online.state()["status"] == "failing")
        assert "away" in online.state()["trouble"]
        wait_for(lambda: online.state()["behind_s"] > 0)
        log.add(2, start=3)
        assert len(swapped) == 1
        log.away = False
        wait_for(lambda: len(swapped) == 2)
        wait_for(lambda: online.state()["status"] == "ok")
        assert online.state()["events"] == 5
    finally:
        online.close()


def test_a_fault_in_learning_does_not_end_the_thread(monkeypatch):
    log = Log()
    log.add(1)
    online = updater(log)
    monkeypatch.setattr(online.learner, "encode", lambda _: 1 / 0)
    online.start()
    try:
        wait_for(lambda: "ZeroDivisionError" in online.state()["trouble"])
        monkeypatch.undo()
        wait_for(lambda: online.state()["status"] == "ok")
        assert online.state()["learned"] == 1
    finally:
        online.close()


def test_a_restart_goes_on_from_its_snapshot_and_answers_alike(tmp_path):
    log, path = Log(), tmp_path / "log.online"
    log.add(40)
    first, engines = updater(log, drift=True, snapshot=path), []
    first.start()
    wait_for(lambda: first.state()["events"] == 40)
    first.close()
    assert path.exists()
    log.add(10, start=40)
    again = updater(log, drift=True, snapshot=path, swapped=engines)
    again.start()
    try:
        wait_for(lambda: again.state()["events"] == 50)
        assert again.learner.base.encoder.encoded == 10
        assert again.drift_state()["models"]["alpha"]["outcomes"] == 50
        fresh, others = updater(log, drift=True), []
        fresh._swap = others.append
        fresh.step()
        wait_for(lambda: engines)
        for row in range(0, pool.N, 40):
            assert np.array_equal(expected(engines[-1], row), expected(others[-1], row))
        assert again.drift_state()["models"] == fresh.drift_state()["models"]
    finally:
        again.close()


def test_what_was_learned_holds_although_the_log_is_away_at_the_start(tmp_path):
    log, path, swapped = Log(), tmp_path / "log.online", []
    log.add(20)
    first = updater(log, snapshot=path)
    first.start()
    wait_for(lambda: first.state()["events"] == 20)
    first.close()
    log.away = True
    again = updater(log, snapshot=path, swapped=swapped)
    again.start()
    try:
        wait_for(lambda: again.state()["status"] == "failing")
        assert np.array_equal(expected(swapped[0]), expected(first.learner.engine()))
    finally:
        again.close()


def test_a_damaged_snapshot_costs_a_second_reading_only(tmp_path, caplog):
    log, path = Log(), tmp_path / "log.online"
    path.write_bytes(b"damaged")
    log.add(5)
    online = updater(log, snapshot=path)
    online.start()
    try:
        wait_for(lambda: online.state()["events"] == 5)
        assert "log.online is damaged" in caplog.text
    finally:
        online.close()
    assert updater(log, snapshot=path).snapshot == path
    assert path.read_bytes() != b"damaged"


def test_another_log_under_the_old_name_is_read_from_its_beginning(tmp_path):
    log, path = Log(), tmp_path / "log.online"
    log.add(8)
    first = updater(log, drift=True, snapshot=path)
    first.start()
    wait_for(lambda: first.state()["events"] == 8)
    first.close()
    replaced = Log()
    replaced.add(2, model="beta")
    again = updater(replaced, drift=True, snapshot=path)
    again._restore()
    assert again.state()["cursor"] != ""
    again.step()
    assert (again.state()["events"], again.state()["rows"]) == (2, {"beta": 2})
    assert set(again.drift_state()["models"]) == {"beta"}


def test_a_reload_takes_over_at_once_and_ends_the_one_before(tmp_path):
    log, swapped = Log(), []
    log.add(30)
    old = updater(log, drift=True)
    old.start()
    wait_for(lambda: old.state()["events"] == 30)
    engine = pool.engine_of()
    new = updater(log, engine=engine, drift=True, before=old, swapped=swapped)
    log.away = True
    new.start()
    try:
        assert not old._thread.is_alive()
        assert len(swapped) == 1
        assert np.array_equal(expected(swapped[0]), expected(old.learner.engine()))
        assert engine.encoder.encoded <= 1
        assert new.drift_state()["models"] == old.drift_state()["models"]
    finally:
        new.close()


def test_a_reload_with_another_artifact_begins_at_the_end_of_its_training():
    log, swapped = Log(), []
    log.add(30)
    old = updater(log)
    old.start()
    wait_for(lambda: old.state()["events"] == 30)
    trained = pool.engine_of(training={"log": {"until": 1e6 + 20}})
    trained.artifact_id = "test-2"
    new = updater(log, engine=trained, before=old, swapped=swapped)
    new.start()
    try:
        wait_for(lambda: new.state()["events"] == 30)
        assert new.state()["passed_over"] == {"trained_on": 20}
        assert new.state()["learned"] == 10
    finally:
        new.close()


def test_a_reload_that_turns_it_off_leaves_the_artifact():
    log = Log()
    log.add(30)
    only_drift = updater(log, enabled=False, drift=True, swapped=[])
    assert not only_drift.step()
    assert only_drift.learner.base.encoder.encoded == 0
    assert only_drift.drift_state()["models"]["alpha"]["outcomes"] == 30


def test_drift_is_told_in_the_log_and_in_the_state(caplog):
    log = Log()
    log.add(200)
    online = updater(log, drift=True)
    online.step()
    state = online.drift_state()
    assert (state["status"], state["drifting"], state["alarms"]) == ("alarm", 1, 1)
    assert state["models"]["alpha"]["alarm"] == "worse"
    assert online.calibration_errors()["alpha"] == pytest.approx(0.9)
    assert "drift: alpha is worse" in caplog.text


def test_decisions_go_on_while_engines_are_swapped():
    """Requests decided in threads see one state of the engine each: their estimates belong together."""
    log, current = Log(), {}
    online = updater(log)
    online._swap = lambda engine: current.update(engine=engine)
    current["engine"] = online.learner.base
    seen, stop, failures = {}, threading.Event(), []

    def decide():
        try:
            while not stop.is_set():
                engine = current["engine"]
                numbers = tuple(
                    entry.expected_quality
                    for decision in engine.route_many([RoutingRequest(str(row), 3) for row in range(5)])
                    for entry in sorted(decision.ranking, key=lambda entry: entry.model)
                )
                seen.setdefault(id(engine), (engine, set()))[1].add(numbers)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=decide) for _ in range(3)]
    for thread in threads:
        thread.start()
    for step in range(12):
        log.add(5, start=5 * step)
        online.step()
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(seen) > 1
    assert all(len(numbers) == 1 for _, numbers in seen.values())


def test_what_is_built_is_what_is_configured(tmp_path):
    def built(learning, engine=None, log="memory://"):
        settings = parse_settings(f"{POOL}\nlog: {{store: '{log}'}}\nlearning: {learning}", source="test")
        return build_updater(settings, engine or pool.engine_of(), submit=Log().submit, swap=print)

    assert built("{}") is None
    assert built("{online: {enabled: false}}") is None
    assert built("{online: {}}", engine=object()) is None
    plain = built("{online: {half_life_days: 3, max_influence: 0.1, window: 77, method: partial_fit}}")
    assert plain.learner.parameters == OnlineParameters("partial_fit", 3.0, 0.1, 77)
    assert plain.monitor is None
    assert plain.snapshot is None
    watched = built("{drift: {tolerance: 0.1, window: 50}}", log=f"sqlite:///{tmp_path}/log.db")
    assert not watched.settings.enabled
    assert watched.monitor.parameters.tolerance == 0.1
    assert watched.snapshot == tmp_path / "log.db.online"
    trusted = built("{online: {trust: true}}")
    trusted.learner.learn(pool.log_of(20))
    assert trusted.learner.engine() is not None


def test_each_worker_has_a_snapshot_of_its_own(monkeypatch):
    log = LogSettings(store="sqlite:///place/log.db")
    assert snapshot_path(log, None) == Path("place/log.db.online")
    assert snapshot_path(LogSettings(store="redis://host:1/0"), None) == Path("outcomes.online")
    monkeypatch.setenv("LLMROUTER_WORKER", "2")
    assert snapshot_path(log, None) == Path("place/log.db.online.2")
    assert snapshot_path(log, Path("mine")) == Path("mine.2")


def test_workers_of_one_machine_come_to_the_same_state_through_one_file(tmp_path):
    url = f"sqlite:///{tmp_path}/log.db"
    writer = Log(open_store(url))
    first, second = updater(Log(open_store(url))), updater(Log(open_store(url)))
    engines = [[], []]
    first._swap, second._swap = engines[0].append, engines[1].append
    for part in range(4):
        writer.add(7, start=7 * part)
        first.step()
        if part % 2:
            second.step()
    assert first.state()["cursor"] == second.state()["cursor"]
    assert np.array_equal(expected(engines[0][-1]), expected(engines[1][-1]))
