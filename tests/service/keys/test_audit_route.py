"""GET /admin/audit and ``llmrouter audit``: which outcomes drove a decision."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from gateway_process import MODELS, SUMS, make_artifact, write_config
from keyed_gateway import CHAT, HELLO, Keyed, error_of

from llmrouter import artifact, cli
from llmrouter.engine import RoutingEngine
from llmrouter.exceptions import DataError
from llmrouter.outcomes import open_store
from llmrouter.policy import UtilityPolicy
from llmrouter.types import ModelCard, Outcome, Price
from service.learning.audit import audit_request, audit_text
from service.learning.trust_settings import TrustSettings

PATH = "/admin/audit"
NOW = time.time()
DAY = 86_400.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_artifact(tmp_path_factory.mktemp("audited"))


@pytest.fixture(scope="module")
def engine(folder: Path) -> RoutingEngine:
    cards = [ModelCard(name, Price(1.0, 2.0)) for name in MODELS]
    return artifact.load(folder, cards, policy=UtilityPolicy(0.3))


def logged(days: float = 30.0) -> list[Outcome]:
    """Return two months of sums: alpha is good by eight keys' word, beta by that of one that came yesterday."""
    honest = [
        Outcome(
            f"h{i}",
            time=NOW - 60 * DAY + i * DAY / 4,
            model="alpha" if i % 2 else "beta",
            key_id=f"key{i % 8}",
            prompt=SUMS[i % len(SUMS)],
            quality=float(i % 2),
        )
        for i in range(int(days * 8))
    ]
    return honest + [
        Outcome(f"p{i}", time=NOW - DAY + i, model="beta", key_id="mallory", prompt=SUMS[i % len(SUMS)], quality=1.0)
        for i in range(60)
    ]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SimpleNamespace]:
    url = f"sqlite:///{tmp_path}/outcomes.db"
    opened = open_store(url)
    opened.append(logged())
    yield SimpleNamespace(url=url, opened=opened)
    opened.close()


def test_a_planted_source_drives_nothing_and_is_shown_as_new(store: SimpleNamespace, engine: RoutingEngine) -> None:
    found = audit_text(store.opened, engine, TrustSettings(), "What is 4 plus 7?")
    assert found.decided == "alpha"
    assert found.choice == "alpha"
    assert found.decisive == ()
    assert "mallory" not in {effect.source for effect in found.without if effect.influence > 0.02}


def test_where_it_is_trusted_it_is_named_as_what_decides(store: SimpleNamespace, engine: RoutingEngine) -> None:
    few = [f"h{i}" for i in range(240)]
    assert store.opened.get(few[-1]) is not None
    found = audit_text(store.opened, engine, TrustSettings(trusted=("mallory",)), "What is 4 plus 7?", most=70)
    assert "mallory" in {effect.source for effect in found.without}
    beta = next(model for model in found.models if model.model == "beta")
    assert beta.influence["mallory"] > 0.5
    assert all(near.source == "mallory" for near in found.nearest if near.model == "beta")


def test_a_request_is_explained_by_what_came_before_it(store: SimpleNamespace, engine: RoutingEngine) -> None:
    early = store.opened.get("h100")
    found = audit_request(store.opened, engine, TrustSettings(), outcome=early)
    assert found.decided == early.model
    assert {near.source for near in found.nearest} <= {f"key{i}" for i in range(8)}
    first = store.opened.get("h0")
    with pytest.raises(DataError, match="was judged"):
        audit_request(store.opened, engine, TrustSettings(), outcome=first)


def test_without_prompt_or_embedding_there_is_nothing_to_look_near(
    store: SimpleNamespace, engine: RoutingEngine
) -> None:
    bare = Outcome("bare", time=NOW, model="alpha")
    with pytest.raises(DataError, match="neither text nor embedding"):
        audit_request(store.opened, engine, TrustSettings(), outcome=bare)


def test_stored_embeddings_do_for_texts(store: SimpleNamespace, engine: RoutingEngine) -> None:
    vector = engine.encoder.encode(["What is 4 plus 7?"])[0]
    asked = Outcome("vector", time=NOW, model="alpha", embedding=tuple(float(value) for value in vector))
    by_vector = audit_request(store.opened, engine, TrustSettings(), outcome=asked)
    by_text = audit_text(store.opened, engine, TrustSettings(), "What is 4 plus 7?")
    assert {m.model: m.estimate for m in by_vector.models} == pytest.approx(
        {m.model: m.estimate for m in by_text.models}, abs=1e-5
    )
    with pytest.raises(DataError, match="another encoder"):
        audit_request(
            store.opened, engine, TrustSettings(), outcome=Outcome("w", time=NOW, model="alpha", embedding=(1.0, 0.0))
        )


# The command


def test_the_command_says_who_drives_a_decision(
    store: SimpleNamespace, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(write_config(tmp_path, "http://127.0.0.1:9", folder))
    assert cli.main(["audit", "--config", config, "--text", "What is 4 plus 7?"]) == 0
    shown = capsys.readouterr().out
    assert "the router decided   alpha" in shown
    assert "no single source decides this" in shown
    assert cli.main(["audit", "--config", config, "--request", "h200", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["decided"] == "beta"
    assert cli.main(["audit", "--config", config, "--request", "nothing"]) == 1
    assert "no outcome is recorded under 'nothing'" in capsys.readouterr().err


# The route


def test_the_audit_is_for_administrators(gateway: Keyed) -> None:
    error_of(gateway.ask("GET", f"{PATH}/x", key=None), 401, "missing_api_key")
    error_of(gateway.ask("GET", f"{PATH}/x"), 403, "insufficient_permissions")
    error_of(gateway.ask("GET", f"{PATH}/x", key="admin"), 404, "outcome_not_found")


def test_a_request_is_audited_over_http(gateway: Keyed, engine: RoutingEngine) -> None:
    def ask() -> str:
        answer = gateway.ask("POST", CHAT, json={"model": "alpha", "messages": HELLO})
        return str(answer.headers["x-request-id"])

    running, before = gateway.live.gateway, gateway.live.gateway.engine
    first = ask()
    gateway.ask("POST", "/v1/feedback", json={"request_id": first, "quality": 1.0})
    second = ask()
    error_of(gateway.ask("GET", f"{PATH}/{second}", key="admin"), 409, "no_evidence")  # no artifact's router
    running.engine = engine
    try:
        answer = gateway.ask("GET", f"{PATH}/{second}", key="admin")
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert found["object"] == "audit"
        assert found["decided"] == "alpha"
        assert first in {near["request_id"] for near in found["nearest"]}
        (effect,) = found["without"]
        assert effect["influence"] == 1.0
        schema = gateway.live.client.get("/openapi.json").json()["components"]["schemas"]["Audit"]
        assert set(schema["required"]) == set(found)
    finally:
        running.engine = before
