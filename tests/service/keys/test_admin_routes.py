"""/admin/keys over HTTP, on an application that has nothing else."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from service import errors
from service.keys import schema
from service.keys.authenticator import Authenticator
from service.keys.settings import AuthSettings
from service.keys.store import open_key_store
from service.keys.token import digest_of, new_id, new_token
from service.limits.settings import LimitsSettings
from service.limits.subjects import Subjects
from service.routes.admin import routes as admin_routes
from service.settings import ServerSettings


class Limiter:
    """Tells what it is asked about."""

    def __init__(self) -> None:
        self.fails = False

    async def usage(self, subjects: Any) -> list[dict[str, Any]]:
        if self.fails:
            raise errors.APIError("gone", status=503)
        return [{"kind": subject.kind, "id": subject.id, "spent_usd": 0.25} for subject in subjects]


class Site:
    """The application, its parts, and a client with the admin's key."""

    def __init__(self, folder: Path, *, auth: bool = True) -> None:
        settings = AuthSettings(store=f"sqlite:///{folder}/keys.db", failures_per_minute=10)
        self.authenticator = Authenticator(settings, open_key_store(settings)) if auth else None
        self.limiter = Limiter()
        app = FastAPI()
        app.state.gateway = SimpleNamespace(
            authenticator=self.authenticator,
            limiter=self.limiter,
            settings=SimpleNamespace(server=ServerSettings()),
            shared=SimpleNamespace(subjects=Subjects(LimitsSettings())),
        )
        errors.install(app)
        app.include_router(admin_routes)
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")

    async def ask(self, method: str, path: str = "", body: Any = None, *, key: str | None = "", **more: Any) -> Any:
        """Send a request with the admin's key, `key` or none; return the answer, whose body is a JSON object."""
        token = self.token if key == "" else key
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        answer = await self.client.request(method, f"/admin/keys{path}", json=body, headers=headers, **more)
        answer.data = answer.json()
        return answer

    async def open(self) -> None:
        assert self.authenticator is not None
        self.admin, self.token = await self.authenticator.keys.create({"name": "boss", "scopes": ["admin"]})


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    opened = Site(tmp_path)
    await opened.open()
    yield opened
    await opened.client.aclose()
    assert opened.authenticator is not None
    await opened.authenticator.aclose()


def error_of(answer: Any, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    error = answer.data["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


async def test_a_key_made_over_http_works(site: Site) -> None:
    made = await site.ask("POST", "", {"name": "ci", "models": ["small"], "limits": {"rpm": 3}})
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    assert made.data["state"] == "active"
    assert made.data["limits"] == {"rpm": 3}
    assert site.authenticator is not None
    principal = await site.authenticator.authenticate(made.data["token"])
    assert (principal.key_id, principal.models) == (made.data["id"], ("small",))


async def test_no_answer_but_the_making_one_shows_the_token_and_none_its_digest(site: Site) -> None:
    made = (await site.ask("POST", "", {"name": "ci"})).data
    answers = [
        await site.ask("GET"),
        await site.ask("GET", f"/{made['id']}"),
        await site.ask("PATCH", f"/{made['id']}", {"team": "red"}),
        await site.ask("DELETE", f"/{made['id']}"),
    ]
    for answer in answers:
        assert answer.status_code == 200
        assert made["id"] in answer.text
        assert made["token"][-20:] not in answer.text
        assert digest_of(made["token"]).hex() not in answer.text
        assert "digest" not in answer.text


async def test_listing_page_by_page(site: Site) -> None:
    for i in range(5):
        await site.ask("POST", "", {"name": f"n{i}"})
    names, after = [], ""
    while True:
        page = (await site.ask("GET", f"?limit=2{after}")).data
        names += [key["name"] for key in page["data"]]
        if not page["has_more"]:
            break
        after = f"&after={page['last_id']}"
    assert sorted(names) == ["boss", "n0", "n1", "n2", "n3", "n4"]
    assert names[0] == "boss"


@pytest.mark.parametrize(
    ("query", "param"),
    [("limit=0", "limit"), ("limit=x", "limit"), ("limit=99999999999999", "limit"), ("after=x", "after"), ("a=1", "a")],
)
async def test_a_wrong_page(site: Site, query: str, param: str) -> None:
    assert error_of(await site.ask("GET", f"?{query}"), 400)["param"] == param


async def test_usage_is_shown_where_there_are_limits(site: Site) -> None:
    plain = (await site.ask("POST", "", {"name": "plain"})).data["id"]
    limited = (await site.ask("POST", "", {"name": "limited", "limits": {"budget_usd": 1}})).data["id"]
    assert "usage" not in (await site.ask("GET", f"/{plain}")).data
    shown = (await site.ask("GET", f"/{limited}")).data
    assert shown["usage"] == {"kind": "key", "id": limited, "spent_usd": 0.25}
    site.limiter.fails = True
    assert "usage" not in (await site.ask("GET", f"/{limited}")).data


async def test_a_change_holds_at_once(site: Site) -> None:
    made = (await site.ask("POST", "", {"name": "ci"})).data
    assert site.authenticator is not None
    await site.authenticator.authenticate(made["token"])
    await site.ask("PATCH", f"/{made['id']}", {"models": ["small"]})
    assert (await site.authenticator.authenticate(made["token"])).models == ("small",)
    await site.ask("DELETE", f"/{made['id']}")
    assert error_of(await site.ask("GET", "", key=made["token"]), 401)["code"] == "revoked_api_key"


@pytest.mark.parametrize("body", [None, {}, {"grace_s": 0}, {"grace_s": "1h"}])
async def test_rotation(site: Site, body: Any) -> None:
    made = (await site.ask("POST", "", {"name": "ci"})).data
    rotated = await site.ask("POST", f"/{made['id']}/rotate", body)
    assert rotated.status_code == 200
    assert rotated.data["token"] != made["token"]
    assert site.authenticator is not None
    assert (await site.authenticator.authenticate(rotated.data["token"])).key_id == made["id"]
    if body == {"grace_s": 0}:
        assert error_of(await site.ask("GET", "", key=made["token"]), 401)["code"] == "expired_api_key"
    else:
        assert (await site.authenticator.authenticate(made["token"])).key_id == made["id"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "", {"name": "a", "scopes": ["x"]}, 400, "invalid_value"),
        ("POST", "", {}, 400, "missing_required_parameter"),
        ("POST", "", [], 400, "invalid_type"),
        ("GET", "/AAAAAAAAAAAA", None, 404, "key_not_found"),
        ("GET", "/..%2F..%2Fetc", None, 404, None),
        ("DELETE", "/AAAAAAAAAAAA", None, 404, "key_not_found"),
        ("POST", "/AAAAAAAAAAAA/rotate", {"grace": 5}, 400, "unknown_key"),
        ("PATCH", "/AAAAAAAAAAAA", {"revoked": None}, 400, "unknown_key"),
        ("PUT", "", None, 405, "method_not_allowed"),
    ],
)
async def test_what_is_wrong_is_said(site: Site, method: str, path: str, body: Any, status: int, code: Any) -> None:
    error = error_of(await site.ask(method, path, body), status)
    assert code is None or error["code"] == code


async def test_a_body_that_is_too_large(site: Site) -> None:
    assert error_of(await site.ask("POST", "", {"name": "a", "metadata": {"a": "x" * 70_000}}), 413)


EVERY_ROUTE = [
    ("POST", ""), ("GET", ""), ("GET", "/AAAAAAAAAAAA"), ("PATCH", "/AAAAAAAAAAAA"), ("DELETE", "/AAAAAAAAAAAA"),
    ("POST", "/AAAAAAAAAAAA/rotate"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), EVERY_ROUTE)
async def test_only_administrators_are_let_in(site: Site, method: str, path: str) -> None:
    assert site.authenticator is not None
    _, plain = await site.authenticator.keys.create({"name": "plain", "scopes": ["inference", "metrics"]})
    assert error_of(await site.ask(method, path, {}, key=None), 401)["code"] == "missing_api_key"
    assert error_of(await site.ask(method, path, {}, key=new_token(new_id())), 401)["code"] == "invalid_api_key"
    refused = error_of(await site.ask(method, path, {}, key=plain), 403)
    assert refused["code"] == "insufficient_permissions"
    assert "'admin'" in refused["message"]


@pytest.mark.parametrize(("method", "path"), EVERY_ROUTE)
async def test_without_keys_there_is_nothing_to_administer(tmp_path: Path, method: str, path: str) -> None:
    site = Site(tmp_path, auth=False)
    error = error_of(await site.ask(method, path, {}, key=None), 404)
    assert error["code"] == "auth_disabled"
    assert "auth: {}" in error["message"]


async def test_a_store_that_fails(site: Site, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "keys.db") as connection:
        connection.execute("DROP TABLE keys")
    connection.close()
    # The admin's own key is not known to this process yet.
    assert error_of(await site.ask("GET"), 503)["code"] == "key_store_unavailable"


async def test_a_store_that_fails_after_the_administrator_is_known(site: Site, tmp_path: Path) -> None:
    await site.ask("GET")
    with sqlite3.connect(tmp_path / "keys.db") as connection:
        connection.execute("DROP TABLE keys")
    connection.close()
    error = error_of(await site.ask("POST", "", {"name": "a"}), 503)
    assert error["code"] == "key_store_unavailable"
    assert "keys.db" not in error["message"]


def test_the_documented_routes_are_those_that_there_are() -> None:
    documented = {
        (method.upper(), path)
        for path, item in schema.paths().items()
        for method in item
        if method in ("get", "post", "patch", "delete")
    }
    assert documented == {(method, route.path) for route in admin_routes.routes for method in route.methods}  # type: ignore[attr-defined]
    named = set(json.dumps(schema.paths()).split("#/components/schemas/")[1:])
    assert {name.split('"')[0] for name in named} == {*schema.schemas(), "Error"}
