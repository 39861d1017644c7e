"""/admin/models of a running gateway: models join and leave while others ask."""

import asyncio
import json
import shutil
import threading
import time
from collections import Counter

import httpx
import pytest
from contracts.misbehaving_upstream import MisbehavingUpstream, completion
from gateway_process import MODELS, SUMS, WORDS, GatewayProcess, make_artifact, write_config
from live_gateway import start_gateway

from llmrouter import artifact
from llmrouter.cli import main
from service.keys import KeyManager, open_key_store
from service.keys.settings import AuthSettings
from service.models.states import JobFiles
from service.settings import load_settings

WAIT_S = 90.0
NOT_CONFIGURED = "models_not_configured"


async def _keys(store):
    manager = KeyManager(open_key_store(AuthSettings(store=store)))
    _, admin = await manager.create({"name": "admin", "scopes": ["admin"]})
    _, client = await manager.create({"name": "client", "scopes": ["inference", "feedback"]})
    await manager.aclose()
    return admin, client


class Place:
    """A gateway process with an overlay, keys, and an upstream that knows sums (alpha, gamma) or words (beta)."""

    def __init__(self, folder, upstream):
        self.folder, self.upstream = folder, upstream
        for name in (*MODELS, "gamma", "delta"):
            upstream.behaviours[name] = self._answer
        made = make_artifact(folder / "made")
        (folder / "artifacts").mkdir()
        shutil.copytree(made, folder / "artifacts" / made.name)
        artifact.promote(folder / "artifacts" / made.name)
        store = f"sqlite:///{folder}/keys.db"
        self.admin, self.client = asyncio.run(_keys(store))
        learning = {"models": {"overlay": str(folder / "models.yaml"), "max_usd": 5.0, "variables": ["GAMMA_KEY"]}}
        learning["models"]["niceness"] = 0  # or a busy machine would never come to them
        self.config = write_config(
            folder,
            upstream.base_url,
            folder / "artifacts" / "current",
            learning=learning,
            auth={"store": store, "failures_per_minute": 0},
            server={"port": 0, "watch_s": 0.2},
        )

    async def _answer(self, exchange):
        text = exchange.body["messages"][0]["content"]
        is_sum, model = text.startswith("What is"), exchange.body["model"]
        if is_sum and model in ("alpha", "gamma"):
            first, second = (int(part) for part in text.removeprefix("What is ").removesuffix("?").split(" plus "))
            await exchange.answer(completion(str(first + second)))
        elif not is_sum and model == "beta":
            await exchange.answer(completion(text.split()[3][::-1]))
        else:
            await exchange.answer(completion("no idea"))

    def entry(self, name="gamma", **changes):
        return {"name": name, "base_url": self.upstream.base_url, "price": {"input": 0.01, "output": 0.02}, **changes}

    def references(self):
        rows = [{"prompt": f"What is {i} plus {i + 3}?", "answer": str(2 * i + 3)} for i in range(20)]
        return rows + [{"prompt": text, "answer": text.split()[3][::-1]} for text in WORDS]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with MisbehavingUpstream() as upstream:
        yield Place(tmp_path_factory.mktemp("place"), upstream)


@pytest.fixture(scope="module")
def running(place):
    with GatewayProcess(place.config) as gateway:
        yield gateway


@pytest.fixture
def admin(place, running):
    headers = {"authorization": f"Bearer {place.admin}"}
    with httpx.Client(base_url=running.url, trust_env=False, timeout=30, headers=headers) as client:
        yield client


@pytest.fixture
def asking(place, running):
    """Return a function that starts asking from four threads; it returns (status, model) counted as they come."""
    stop, threads = threading.Event(), []

    def start():
        seen = Counter()

        def keep_asking(offset):
            headers = {"authorization": f"Bearer {place.client}"}
            with httpx.Client(base_url=running.url, trust_env=False, timeout=30, headers=headers) as client:
                number = offset
                while not stop.is_set():
                    number += 1
                    text = (*SUMS, *WORDS)[number % 27]
                    body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
                    answer = client.post("/v1/chat/completions", json=body)
                    seen[answer.status_code, answer.headers.get("x-llmrouter-model", "")] += 1
                    time.sleep(0.05)

        threads.extend(threading.Thread(target=keep_asking, args=(7 * i,)) for i in range(4))
        for thread in threads:
            thread.start()
        return seen

    yield start
    stop.set()
    for thread in threads:
        thread.join(WAIT_S)


def done(admin, answer):
    """Wait for a job's end and return its state."""
    assert answer.status_code == 202, answer.text
    state, deadline = answer.json(), time.monotonic() + WAIT_S
    assert answer.headers["location"] == f"/admin/models/jobs/{state['id']}"
    while state["status"] == "running":
        assert time.monotonic() < deadline, state
        time.sleep(0.1)
        state = admin.get(f"/admin/models/jobs/{state['id']}").json()
    return state


def until(condition):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def names(admin):
    return [entry["name"] for entry in admin.get("/admin/models").json()["data"]]


@pytest.mark.slow
def test_a_model_joins_is_repriced_and_leaves_and_no_request_fails(place, admin, asking):
    seen = asking()
    until(lambda: sum(seen.values()) > 100)
    time.sleep(0.6)  # what was asked is in the log
    state = done(
        admin,
        admin.post("/admin/models", json={"model": place.entry(), "prompts": 12, "references": place.references()}),
    )
    assert state["status"] == "succeeded", state
    assert state["progress"] == {"done": 12, "total": 12, "failed": 0, "spent_usd": state["result"]["spent_usd"]}
    assert state["plan"]["prompts"] == 12
    until(lambda: "gamma" in names(admin))
    known = {entry["name"]: entry for entry in admin.get("/admin/models").json()["data"]}
    assert known["gamma"]["how"] == "profile"
    assert known["alpha"]["how"] == "training"
    until(lambda: seen[200, "gamma"] > 20)  # cheap and good at sums: it gets them
    assert state["result"]["placement"]["after"]["share"]["gamma"] > 0

    state = done(admin, admin.put("/admin/models/gamma/price", json={"input": 90.0, "output": 90.0}))
    assert state["status"] == "succeeded", state
    until(lambda: admin.get("/admin/models").json()["data"][-1]["price"]["input"] == 90.0)
    before = seen[200, "gamma"]
    time.sleep(1.0)
    assert seen[200, "gamma"] - before < 15  # those that were under way

    state = done(admin, admin.delete("/admin/models/gamma"))
    assert state["status"] == "succeeded", state
    until(lambda: "gamma" not in names(admin))
    assert {status for status, _ in seen} == {200}
    assert [model.name for model in load_settings(place.config).pool] == [*MODELS]
    listed = admin.get("/admin/models/jobs").json()["data"]
    assert [job["action"] for job in listed][:3] == ["remove", "reprice", "add"]
    assert all("pid" not in job for job in listed)


@pytest.mark.slow
def test_another_gateway_on_the_same_files_follows(place, admin):
    with GatewayProcess(place.config) as other:
        headers = {"authorization": f"Bearer {place.admin}"}
        with httpx.Client(base_url=other.url, trust_env=False, timeout=30, headers=headers) as theirs:
            scores = [{"prompt": text, "quality": 1.0, "output_tokens": 3, "input_tokens": 8} for text in SUMS]
            body = {"model": place.entry("delta"), "how": "scores", "scores": scores}
            state = done(admin, admin.post("/admin/models", json=body))
            assert state["status"] == "succeeded", state
            until(lambda: "delta" in names(theirs))
            until(
                lambda: admin.get("/admin/models").json()["artifact"] == theirs.get("/admin/models").json()["artifact"]
            )
            assert theirs.get(f"/admin/models/jobs/{state['id']}").json()["status"] == "succeeded"
            assert done(theirs, theirs.delete("/admin/models/delta"))["status"] == "succeeded"
            until(lambda: "delta" not in names(admin))


def test_only_one_job_at_a_time_and_a_failed_one_changes_nothing(place, admin):
    before = admin.get("/admin/models").json()
    # Nothing listens there: every prompt fails, after some tries.
    entry = place.entry("nowhere", base_url="http://127.0.0.1:9/v1")
    first = admin.post("/admin/models", json={"model": entry, "prompts": 4, "references": place.references()})
    second = admin.delete("/admin/models/beta")
    assert second.status_code == 409, second.text
    assert second.json()["error"]["code"] == "job_running"
    state = done(admin, first)
    assert state["status"] == "failed"
    assert state["error"]
    assert admin.get("/admin/models").json() == before


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": None}, "model"),
        ({"name": "alpha"}, "model"),
        ({"model": {"name": "alpha"}}, "model.name"),
        ({"model": {"name": "gamma", "price": {"input": 1, "output": 1}}}, None),  # no base_url
        ({"model": {"name": "gamma", "backend": "scripted", "price": {"input": 1, "output": 1}, "x": 1}}, None),
        ({"model": {"name": "auto", "base_url": "http://x/v1", "price": {"input": 1, "output": 1}}}, None),
        ({"how": "guess"}, "how"),
        ({"prompts": 0}, "prompts"),
        ({"prompts": 2.5}, "prompts"),
        ({"max_usd": 6}, "max_usd"),
        ({"max_usd": "1"}, "max_usd"),
        ({"references": [1] * 3, "std": 7}, "std"),
        ({"references": {"a": 1}}, "references"),
        ({"card": {"qualty": 1}}, "card.qualty"),
        ({"card": {"scores": {"mmlu": 80}}}, "card.scores.mmlu"),
        ({"apply": "yes"}, "apply"),
        ({"promts": 3}, "promts"),
        ({"scorer": ""}, "scorer"),
    ],
)
def test_a_wrong_wish_is_refused_at_once(place, admin, change, param):
    body = {key: value for key, value in {"model": place.entry(), **change}.items() if value is not None}
    answer = admin.post("/admin/models", json=body)
    assert answer.status_code == 400, answer.text
    if param is not None:
        assert answer.json()["error"]["param"] == param


def test_the_gateway_s_environment_is_not_for_the_asking(place, admin, monkeypatch):
    for key in ("${HOME}", "a${HOME:-x}", "${HO"):
        answer = admin.post("/admin/models", json={"model": place.entry(api_key=key), "how": "zero-shot"})
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["param"] == "model.api_key"
        nested = place.entry(headers={"x-key": key})
        assert admin.post("/admin/models", json={"model": nested}).status_code == 400
    assert admin.put("/admin/models/alpha/price", json={"input": "${HOME}", "output": 1}).status_code == 400


def test_functions_are_no_scorers_over_http(place, admin):
    body = {"model": place.entry("fn"), "scorer": "os:getcwd", "references": place.references()}
    state = done(admin, admin.post("/admin/models", json=body))
    assert state["status"] == "failed"
    assert "unknown scorer" in state["error"]


def test_what_is_not_there_is_404(admin):
    assert admin.delete("/admin/models/nobody").status_code == 404
    assert admin.put("/admin/models/nobody/price", json={"input": 1, "output": 1}).status_code == 404
    assert admin.post("/admin/models", json={"name": "nobody"}).status_code == 404
    assert admin.get("/admin/models/jobs/mj_000000000000000000000000").status_code == 404
    assert admin.get("/admin/models/jobs/..%2f..%2fconfig").status_code == 404
    for path in ("jobs", "jobs/x", "alpha/price"):
        answer = admin.delete(f"/admin/models/{path}")
        assert answer.status_code == 405


def test_a_wrong_price_is_refused(admin):
    for price in ({}, {"input": -1, "output": 1}, {"input": 1}, {"input": 1, "output": 1, "inptu": 3}):
        assert admin.put("/admin/models/alpha/price", json=price).status_code == 400


def test_the_last_model_cannot_be_removed(place, tmp_path, admin):
    first = done(admin, admin.delete("/admin/models/beta"))
    assert first["status"] == "succeeded", first
    until(lambda: names(admin) == ["alpha"])
    assert admin.delete("/admin/models/alpha").status_code == 400
    # Back by hand: the overlay is a file like the configuration.
    (place.folder / "models.yaml").unlink()
    until(lambda: "beta" in names(admin))
    del tmp_path


def test_only_administrators(place, running):
    asked = [
        ("GET", ""),
        ("POST", ""),
        ("GET", "/jobs"),
        ("GET", "/jobs/x"),
        ("DELETE", "/alpha"),
        ("PUT", "/alpha/price"),
    ]
    with httpx.Client(base_url=running.url, trust_env=False, timeout=30) as client:
        for method, path in asked:
            url = f"/admin/models{path}"
            assert client.request(method, url).status_code == 401
            headers = {"authorization": f"Bearer {place.client}"}
            assert client.request(method, url, headers=headers, json={}).status_code == 403


def test_without_keys_or_without_a_place_there_is_nothing_to_change(upstream, tmp_path_factory):
    from contextlib import ExitStack

    with ExitStack() as stack:
        open_one = start_gateway(stack, upstream, tmp_path_factory.mktemp("open"))
        assert open_one.client.get("/admin/models").json()["error"]["code"] == "auth_disabled"
        folder = tmp_path_factory.mktemp("keyed")
        store = f"sqlite:///{folder}/keys.db"
        admin, _ = asyncio.run(_keys(store))
        keyed = start_gateway(stack, upstream, folder, auth={"store": store})
        headers = {"authorization": f"Bearer {admin}"}
        assert keyed.client.get("/admin/models", headers=headers).json()["data"][0]["name"] == "alpha"
        for method, path in (("POST", ""), ("GET", "/jobs"), ("DELETE", "/alpha")):
            answer = keyed.client.request(method, f"/admin/models{path}", headers=headers, json={"name": "alpha"})
            assert answer.status_code == 404
            assert answer.json()["error"]["code"] == NOT_CONFIGURED


# States


def test_a_job_whose_process_has_gone_is_interrupted(tmp_path):
    files = JobFiles(tmp_path)
    state = files.create("mj_" + "0" * 24, action="add", model="m")
    assert files.read(state["id"])["status"] == "running"
    files.write({**state, "pid": 2**22 + 5})
    assert files.read(state["id"])["status"] == "interrupted"
    files.write({**state, "created": time.time() - 3600})
    assert files.read(state["id"])["status"] == "interrupted"  # it never got a process
    assert files.read("../../etc/passwd") is None
    (tmp_path / f"mj_{'1' * 24}.json").write_text("{")
    assert [one["id"] for one in files.all()] == [state["id"]]


def test_old_jobs_are_forgotten_and_running_ones_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr("service.models.states._MOST_KEPT", 3)
    files = JobFiles(tmp_path)
    for number in range(6):
        state = files.create(f"mj_{number:024x}", action="add", model="m")
        files.write({**state, "status": "succeeded", "created": number})
    assert len(files.all()) <= 4
    assert json.loads((tmp_path / f"mj_{5:024x}.json").read_text())["model"] == "m"


def test_the_command_line_and_the_gateway_agree(place, running, admin, capsys):
    assert main(["models", "list", "--config", str(place.config), "--json"]) == 0
    listed = {entry["name"]: entry["how"] for entry in json.loads(capsys.readouterr().out)}
    assert listed == {entry["name"]: entry["how"] for entry in admin.get("/admin/models").json()["data"]}
    del running
