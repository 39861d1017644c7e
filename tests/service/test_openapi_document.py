"""The OpenAPI document itself: it has every route and no other, and what real answers hold."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from live_gateway import Live
from openapi_target import EMBEDDER, POOL, Target, start
from starlette.routing import Route

from service import openapi
from service.app import create_app
from service.control import CONTROL_SCHEMA, PREFIX
from service.dialects import _messages_request, _responses_request, completions, embeddings
from service.gateway import Gateway
from service.openapi._parts import typed
from service.settings import Settings

METHODS = {"get", "post", "patch", "delete", "put"}
MESSAGES = [{"role": "user", "content": "Hi"}]
ADMIN = "/admin/keys"


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with ExitStack() as stack:
        yield start(stack, tmp_path_factory.mktemp("openapi"), keys=True)


@pytest.fixture
def client(target: Target) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {target.token}"}
    with httpx.Client(base_url=target.url, headers=headers, timeout=30, trust_env=False) as client:
        yield client


def operations(document: Mapping[str, Any]) -> set[tuple[str, str]]:
    return {(method, path) for path, item in document["paths"].items() for method in item if method in METHODS}


def flat(routes: Iterable[Any]) -> Iterator[Route]:
    for route in routes:
        included = getattr(route, "original_router", None)
        if included is None:
            assert isinstance(route, Route), route
            yield route
        else:
            yield from flat(included.routes)


def test_every_route_is_in_the_document_and_nothing_else(tmp_path: Path) -> None:
    pool = [{"name": "alpha", "backend": "scripted", "price": {"input": 1, "output": 1}}]
    app = create_app(Settings.model_validate({"pool": pool, "log": {"store": f"sqlite:///{tmp_path}/log.db"}}))
    routes = set()
    for route in flat(app.routes):
        path = re.sub(r":\w+}", "}", route.path)
        routes |= {(method.lower(), path) for method in route.methods or () if method != "HEAD"}
    app.state.gateway.writer.close()
    assert routes == operations(openapi.document())


def test_every_reference_leads_somewhere_and_names_of_operations_are_unique() -> None:
    document = openapi.document()
    names = [item[method]["operationId"] for item in document["paths"].values() for method in METHODS & item.keys()]
    assert len(names) == len(set(names))
    references = set()

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                references.add(value["$ref"])
            if isinstance(value.get("operationId"), str):
                assert value["operationId"] in names
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(document)
    used: dict[str, set[str]] = {}
    for reference in references:
        _, kind, name = reference.removeprefix("#").strip("/").split("/")
        assert name in document["components"][kind], reference
        used.setdefault(kind, set()).add(name)
    for kind in ("schemas", "headers", "parameters"):
        assert document["components"][kind].keys() == used[kind], "what nobody refers to is in nobody's way"


@pytest.mark.parametrize(
    ("schema", "types"),
    [
        ("CompletionRequest", completions._TYPES),
        ("EmbeddingsRequest", embeddings._TYPES),
        ("MessagesRequest", _messages_request._TYPES),
        ("CountTokensRequest", _messages_request._TYPES),
        ("ResponsesRequest", _responses_request._TYPES),
    ],
)
def test_the_types_that_are_checked_are_those_in_the_document(
    schema: str, types: Mapping[str, tuple[str, ...]]
) -> None:
    properties = openapi.document()["components"]["schemas"][schema]["properties"]
    for name, kinds in types.items():
        assert name in properties
        if "type" in properties[name] and properties[name]["type"] != "array" and name != "max_tokens":
            assert set(typed(kinds)["type"]) == set(properties[name]["type"]), name


def test_the_names_of_the_gateway_in_effect_are_in_it(target: Target, client: httpx.Client) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    assert set(POOL) <= set(schemas["ChatRequest"]["properties"]["model"]["anyOf"][0]["enum"])
    assert schemas["Control"]["properties"]["models"]["items"] == {"enum": list(POOL)}
    assert schemas["EmbeddingsRequest"]["properties"]["model"] == {"enum": [EMBEDDER]}


def test_every_header_of_control_is_in_it() -> None:
    parameters = openapi.document()["components"]["parameters"].values()
    wanted = {PREFIX + name.replace("_", "-") for name in CONTROL_SCHEMA["properties"]}
    assert {parameter["name"] for parameter in parameters} == wanted


def test_the_document_follows_a_reload(live: Callable[..., Live]) -> None:
    first, second = live("alpha").gateway, live("alpha", "beta").gateway
    in_effect: list[Gateway] = [first]
    describe = openapi.describing(lambda: in_effect[0])
    before = describe()
    assert describe() is before
    in_effect[0] = second
    after = describe()
    models = after["components"]["schemas"]["ChatRequest"]["properties"]["model"]["anyOf"][0]["enum"]
    assert "beta" in models
    assert "beta" not in before["components"]["schemas"]["ChatRequest"]["properties"]["model"]["anyOf"][0]["enum"]


def test_keys_are_asked_for_as_they_are_configured(live: Callable[..., Live], tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/keys.db"
    assert openapi.document(live("alpha").gateway)["security"] == []
    required = openapi.document(live("alpha", auth={"store": store}).gateway)["security"]
    assert required
    assert {} not in required
    optional = openapi.document(live("alpha", auth={"store": store, "required": False}).gateway)["security"]
    assert optional == [*required, {}]


# Real answers


@dataclasses.dataclass(frozen=True)
class Asked:
    """One request whose answer is held against the document."""

    method: str
    path: str
    body: Any = None
    template: str = ""


def check(client: httpx.Client, asked: Asked, *, status: int) -> httpx.Response:
    answer = client.request(asked.method, asked.path, json=asked.body)
    assert answer.status_code == status, answer.text
    schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    schema[asked.template or asked.path][asked.method].validate_response(answer)
    return answer


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (Asked("POST", "/v1/chat/completions", {"model": "auto", "messages": MESSAGES, "tools": [TOOL]}), 200),
        (Asked("POST", "/v1/chat/completions", {"model": "auto", "messages": MESSAGES, "stream": True}), 200),
        (Asked("POST", "/v1/completions", {"model": "auto", "prompt": "Hi", "echo": True}), 200),
        (Asked("POST", "/v1/responses", {"model": "auto", "input": "Hi"}), 200),
        (Asked("POST", "/v1/messages", {"model": "auto", "messages": MESSAGES, "max_tokens": 5}), 200),
        (Asked("POST", "/v1/messages", {"model": "auto", "messages": MESSAGES}), 400),
        (Asked("POST", "/v1/messages/count_tokens", {"messages": MESSAGES}), 200),
        (Asked("POST", "/v1/embeddings", {"model": EMBEDDER, "input": "Hi"}), 200),
        (Asked("POST", "/v1/embeddings", {"model": "auto", "input": "Hi"}), 400),
        (Asked("POST", "/v1/route", {"model": "auto", "messages": MESSAGES}), 200),
        (Asked("POST", "/v1/route", {"model": "nobody", "messages": MESSAGES}), 404),
        (Asked("GET", "/v1/models/llmrouter/auto", template="/v1/models/{name}"), 200),
        (Asked("GET", "/metrics"), 200),
        (Asked("GET", "/readyz"), 200),
        (Asked("POST", "/v1/feedback", {"request_id": "req_1", "label": "good"}), 202),
    ],
)
def test_what_is_answered_is_what_the_document_says(client: httpx.Client, asked: Asked, status: int) -> None:
    check(client, asked, status=status)


def test_a_recorded_request_is_as_the_document_says(client: httpx.Client) -> None:
    body = {"model": "auto", "messages": MESSAGES, "llmrouter": {"session_id": "s"}}
    for changes in ({}, {"stream": True}, {"model": POOL[0]}):
        answer = client.post("/v1/chat/completions", json={**body, **changes})
        request_id = answer.headers["x-request-id"]
        path = f"/v1/outcomes/{request_id}"
        check(client, Asked("GET", path, template="/v1/outcomes/{request_id}"), status=200)
        judged = {"request_id": request_id, "quality": 0.5, "source": "judge", "weight": 2}
        stored = check(client, Asked("POST", "/v1/feedback", judged), status=202)
        assert stored.json()["status"] == "stored"
        check(client, Asked("GET", path, template="/v1/outcomes/{request_id}"), status=200)


def test_a_key_is_as_the_document_says_through_its_whole_life(client: httpx.Client) -> None:
    wanted = {"name": "ci", "team": "t", "limits": {"rpm": 5, "budget_usd": 1.5}, "metadata": {"a": "b"}}
    made = check(client, Asked("POST", ADMIN, {**wanted, "expires": "30d"}), status=201).json()
    one, template = f"{ADMIN}/{made['id']}", f"{ADMIN}/{{key_id}}"
    assert "usage" in check(client, Asked("GET", one, template=template), status=200).json()
    check(client, Asked("PATCH", one, {"models": ["pocket-*"], "limits": None}, template), status=200)
    check(client, Asked("POST", f"{one}/rotate", {"grace_s": "24h"}, f"{template}/rotate"), status=200)
    check(client, Asked("DELETE", one, template=template), status=200)
    check(client, Asked("PATCH", one, {"team": "u"}, template), status=409)
    check(client, Asked("GET", one, template=template), status=200)
    check(client, Asked("GET", f"{ADMIN}?limit=1", template=ADMIN), status=200)
