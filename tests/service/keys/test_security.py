"""What docs/security.md promises, tried on a live gateway with keys on."""

from __future__ import annotations

import fnmatch
import json
import logging
import re
import socket
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from contracts.misbehaving_upstream import Exchange, MisbehavingUpstream
from keyed_gateway import (
    CHAT,
    GENERATING,
    HELLO,
    PROMPT,
    UPSTREAM_HEADER,
    UPSTREAM_KEY,
    Keyed,
    admin_token,
    error_of,
)
from live_gateway import Live

from service.keys import schema
from service.keys.token import new_id, new_token

Start = Callable[..., Live]

OPEN_PATHS = {"/healthz", "/readyz", "/openapi.json"}


# Who is let in


def test_every_route_asks_for_a_key_but_the_open_ones(gateway: Keyed) -> None:
    paths = set()
    documented = {**schema.paths(), **gateway.live.client.get("/openapi.json").json()["paths"]}
    for path, operations in documented.items():
        for method in operations:
            if method not in ("get", "post", "patch", "delete"):
                continue
            concrete = path.replace("{name}", "alpha").replace("{request_id}", "req_1").replace("{key_id}", "A" * 12)
            answer = gateway.live.client.request(method.upper(), concrete, json={} if method != "get" else None)
            if path in OPEN_PATHS:
                assert answer.status_code == 200, (path, answer.text)
            else:
                assert answer.status_code == 401, (path, answer.text)
                paths.add(path)
    assert {CHAT, "/v1/models", "/v1/outcomes/{request_id}", "/metrics", "/v1/route", "/v1/feedback"} <= paths


def test_the_admin_routes_ask_for_an_administrator(gateway: Keyed) -> None:
    for method, path in (("GET", "/admin/keys"), ("POST", "/admin/keys"), ("DELETE", f"/admin/keys/{'A' * 12}")):
        error_of(gateway.ask(method, path, key=None), 401, "missing_api_key")
        error_of(gateway.ask(method, path), 403, "insufficient_permissions")


def test_metrics_ask_for_their_scope(gateway: Keyed) -> None:
    error_of(gateway.ask("GET", "/metrics"), 403, "insufficient_permissions")
    gateway.make("scraper", scopes=["metrics"])
    assert gateway.ask("GET", "/metrics", key="scraper").status_code == 200
    error_of(gateway.ask("POST", CHAT, key="scraper", json=GENERATING[CHAT]), 403, "insufficient_permissions")


@pytest.mark.parametrize("path", GENERATING)
def test_generation_needs_a_key_that_holds(path: str, gateway: Keyed, upstream: MisbehavingUpstream) -> None:
    gateway.tokens["wrong"] = new_token(new_id())
    for key in (None, "wrong"):
        answer = gateway.ask("POST", path, key=key, json=GENERATING[path])
        assert answer.status_code == 401
    assert upstream.exchanges == []
    assert gateway.ask("POST", path, json=GENERATING[path]).status_code == 200
    assert len(upstream.exchanges) == 1


def test_the_key_is_asked_for_before_the_body_is_read(gateway: Keyed) -> None:
    answer = gateway.ask("POST", CHAT, key=None, content=b"x" * 100_000)
    error_of(answer, 401, "missing_api_key")


def test_models_that_a_key_may_not_use_do_not_exist_for_it(gateway: Keyed, upstream: MisbehavingUpstream) -> None:
    gateway.make("narrow", models=["alph*"])
    names = [model["id"] for model in gateway.ask("GET", "/v1/models", key="narrow").json()["data"]]
    assert "alpha" in names
    assert "beta" not in names
    error_of(gateway.ask("GET", "/v1/models/beta", key="narrow"), 404, "model_not_found")
    error_of(gateway.ask("POST", CHAT, key="narrow", json={"model": "beta", "messages": HELLO}), 404, "model_not_found")
    for _ in range(3):
        body = {"model": "auto", "messages": [{"role": "user", "content": "beta"}]}  # beta would be best
        answer = gateway.ask("POST", CHAT, key="narrow", json=body)
        assert answer.headers["x-llmrouter-model"] == "alpha"
    restricted = {"model": "auto", "messages": HELLO, "llmrouter": {"models": ["beta"]}}
    assert gateway.ask("POST", CHAT, key="narrow", json=restricted).status_code in (400, 404)
    assert {exchange.body["model"] for exchange in upstream.exchanges} == {"alpha"}


def test_a_key_reads_only_its_own_outcomes(gateway: Keyed) -> None:
    gateway.make("other")
    request_id = gateway.ask("POST", CHAT, json=GENERATING[CHAT]).headers["x-request-id"]
    path = f"/v1/outcomes/{request_id}"
    mine = gateway.ask("GET", path)
    assert mine.status_code == 200
    assert mine.json()["key_id"] == gateway.tokens["plain"][5:17]
    theirs = error_of(gateway.ask("GET", path, key="other"), 404, "outcome_not_found")
    unknown = error_of(gateway.ask("GET", f"/v1/outcomes/{request_id[::-1]}", key="other"), 404, "outcome_not_found")
    assert theirs["message"].replace(request_id, "") == unknown["message"].replace(request_id[::-1], "")
    assert gateway.ask("GET", path, key="admin").status_code == 200


def test_a_revoked_key_is_refused_at_once(gateway: Keyed) -> None:
    token = gateway.make("leaked")
    assert gateway.ask("POST", CHAT, key="leaked", json=GENERATING[CHAT]).status_code == 200
    assert gateway.ask("DELETE", f"/admin/keys/{token[5:17]}", key="admin").status_code == 200
    error_of(gateway.ask("POST", CHAT, key="leaked", json=GENERATING[CHAT]), 401, "revoked_api_key")


# Headers of answers


@pytest.mark.parametrize(
    "text",
    ["x\r\nx-injected: yes", "x\nset-cookie: a=b", "x\rx-injected: yes", "x\x00y", "x\u2028y", "é\r\n\r\n<html>"],
)
def test_no_text_of_a_client_becomes_a_header(text: str, gateway: Keyed) -> None:
    bodies: list[dict[str, Any]] = [
        {"model": text, "messages": HELLO},
        {"model": "auto", "messages": HELLO, "llmrouter": {"session_id": text}},
        {"model": "auto", "messages": HELLO, "llmrouter": {"models": [text]}},
        {"model": "auto", "messages": HELLO, "user": text, "metadata": {"a": text}},
    ]
    for body in bodies:
        answer = gateway.ask("POST", CHAT, json=body)
        assert answer.status_code < 500, answer.text
        assert "x-injected" not in answer.headers
        assert "set-cookie" not in answer.headers
        for value in answer.headers.values():
            assert text not in value
            assert value.isprintable()


def test_headers_of_an_upstream_are_not_relayed_beyond_a_few(gateway: Keyed, upstream: MisbehavingUpstream) -> None:
    hostile = {
        "set-cookie": "a=b",
        "location": "http://evil.example",
        "access-control-allow-origin": "*",
        "strict-transport-security": "max-age=0",
        "x-llmrouter-model": "forged",
        "x-request-id": "forged",
        "server": "evil",
        "www-authenticate": "Basic realm=x",
    }

    async def answer_with(exchange: Exchange) -> None:
        body = b'{"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}'
        await exchange.answer(body, 200, **{name.replace("-", "_"): value for name, value in hostile.items()})

    upstream.behaviours["alpha"] = answer_with
    answer = gateway.ask("POST", CHAT, json=GENERATING[CHAT])
    assert answer.status_code == 200
    for name, value in hostile.items():
        assert answer.headers.get(name) != value
    assert answer.headers["x-llmrouter-model"] == "alpha"
    assert answer.headers["x-request-id"].startswith("req_")


# Requests that two servers would read differently


def raw(gateway: Keyed, request: bytes, *, wait_s: float = 2.0) -> bytes:
    """Send bytes and return what comes back until the connection closes or falls silent."""
    address = httpx.URL(gateway.live.url)
    received = b""
    with socket.create_connection((address.host, address.port or 80), timeout=wait_s) as connection:
        connection.sendall(request)
        try:
            while piece := connection.recv(65536):
                received += piece
        except (TimeoutError, ConnectionError):
            pass
    return received


def smuggled(gateway: Keyed, framing: bytes, body: bytes) -> bytes:
    key = gateway.tokens["plain"].encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer " + key + b"\r\n"
    return head + b"content-type: application/json\r\n" + framing + b"\r\n\r\n" + body


HIDDEN = b"DELETE /admin/keys/AAAAAAAAAAAA HTTP/1.1\r\nhost: x\r\n\r\n"
INNER = json.dumps({"model": "alpha", "messages": HELLO}).encode()
CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(INNER), INNER)
AMBIGUOUS = {
    "length and chunks": (b"content-length: 4\r\ntransfer-encoding: chunked", CHUNKED),
    "chunks and length": (b"transfer-encoding: chunked\r\ncontent-length: 4", CHUNKED),
    "two lengths": (b"content-length: %d\r\ncontent-length: 4" % len(INNER), INNER),
    "a list of lengths": (b"content-length: %d, 4" % len(INNER), INNER),
    "a signed length": (b"content-length: +%d" % len(INNER), INNER),
    "a hexadecimal length": (b"content-length: 0x%x" % len(INNER), INNER),
    "an unknown coding": (b"transfer-encoding: xchunked\r\ncontent-length: %d" % len(INNER), INNER),
    "a coding after chunks": (b"transfer-encoding: chunked, identity", CHUNKED),
    "a space before the colon": (b"transfer-encoding : chunked\r\ncontent-length: %d" % len(INNER), INNER),
    "a folded line": (b"x: y\r\n transfer-encoding: chunked\r\ncontent-length: %d" % len(INNER), INNER),
    "a bare carriage return": (b"x: y\rtransfer-encoding: chunked\r\ncontent-length: %d" % len(INNER), INNER),
    "a bad chunk size": (b"transfer-encoding: chunked", b"-5\r\n" + CHUNKED),
    "an extended chunk size": (b"transfer-encoding: chunked", b"fffffffffffffffff\r\n" + CHUNKED),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_ambiguous_requests_are_refused_and_hide_no_second_one(
    name: str, gateway: Keyed, upstream: MisbehavingUpstream
) -> None:
    framing, body = AMBIGUOUS[name]
    answer = raw(gateway, smuggled(gateway, framing, body + HIDDEN))
    assert answer.startswith(b"HTTP/1.1 4"), answer[:200]
    assert answer.count(b"HTTP/1.1") == 1, answer
    assert upstream.exchanges == []


# Floods

_FLOOD_BYTES = 32 * 1024 * 1024


def test_a_head_that_does_not_end_is_cut_off(gateway: Keyed) -> None:
    address = httpx.URL(gateway.live.url)
    with socket.create_connection((address.host, address.port or 80), timeout=10) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n")
        sent = 0
        with suppress(OSError):  # reset, or a broken pipe
            while sent < _FLOOD_BYTES:
                connection.sendall(b"x-flood: " + b"a" * 8000 + b"\r\n")
                sent += 8000
                time.sleep(0.001)
    assert sent < _FLOOD_BYTES
    assert gateway.live.client.get("/healthz").status_code == 200


def test_a_body_that_is_too_large_is_refused_before_it_is_read(gateway: Keyed) -> None:
    key = gateway.tokens["plain"].encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer " + key + b"\r\n"
    answer = raw(gateway, head + b"content-length: 99999999999\r\n\r\n{", wait_s=1)
    assert answer.startswith(b"HTTP/1.1 413")


def test_many_json_levels_and_keys_do_no_harm(gateway: Keyed) -> None:
    deep = b'{"model": "alpha", "messages": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    assert gateway.ask("POST", CHAT, content=deep).status_code == 400
    wide = {f"key{i}": i for i in range(50_000)}
    assert gateway.ask("POST", CHAT, json={**GENERATING[CHAT], "metadata": wide}).status_code == 200


# What is told to whom


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the gateway logged; the client of these tests logs too."""
    return [record.getMessage() for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]


def everything_told(gateway: Keyed) -> str:
    """Return every text that the gateway gives away, to an administrator too."""
    told = []
    for method, path, options in (
        ("GET", "/readyz", {}),
        ("GET", "/healthz", {}),
        ("GET", "/openapi.json", {}),
        ("GET", "/metrics", {}),
        ("GET", "/v1/models", {}),
        ("GET", "/admin/keys", {}),
        ("POST", "/v1/route", {"json": {"model": "auto", "messages": [{"role": "user", "content": "Hi"}]}}),
        ("POST", CHAT, {"json": {**GENERATING[CHAT], "temperature": "hot"}}),
        ("POST", CHAT, {"json": GENERATING[CHAT]}),
        ("GET", "/nothing", {}),
    ):
        answer = gateway.ask(method, path, key="admin", **options)
        told.append(f"{answer.headers}\n{answer.text}")
    return "\n".join(told)


def test_no_secret_is_told_or_logged(
    gateway: Keyed, upstream: MisbehavingUpstream, caplog: pytest.LogCaptureFixture, key_file: str
) -> None:
    async def refuse(exchange: Exchange) -> None:
        await exchange.answer(b'{"error": {"message": "no"}}', 503)

    with caplog.at_level(logging.DEBUG):
        told = everything_told(gateway)
        upstream.behaviours["alpha"] = refuse
        told += gateway.ask("POST", CHAT, json=GENERATING[CHAT]).text
    assert any("alpha" in line for line in logged(caplog))
    told += repr(gateway.live.gateway.settings) + repr(gateway.live.gateway.backends) + "\n".join(logged(caplog))
    assert UPSTREAM_KEY not in told
    assert UPSTREAM_HEADER not in told
    for name in ("admin", "plain"):
        assert gateway.tokens[name][-20:] not in told
    assert key_file not in told.replace(repr(gateway.live.gateway.settings), "")


def test_prompts_are_in_no_log_line_and_no_metric(
    gateway: Keyed, upstream: MisbehavingUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(exchange: Exchange) -> None:
        await exchange.answer(json.dumps({"error": {"message": f"I do not like {PROMPT}"}}).encode(), 503)

    with caplog.at_level(logging.DEBUG):
        for path, body in GENERATING.items():
            assert gateway.ask("POST", path, json=body).status_code == 200
        upstream.behaviours["alpha"] = refuse
        for path, body in GENERATING.items():
            gateway.ask("POST", path, json=body)
            gateway.ask("POST", path, json={**body, "model": PROMPT})
            gateway.ask("POST", path, content=PROMPT.encode())
    assert any("alpha" in line for line in logged(caplog))
    assert PROMPT not in "\n".join(logged(caplog))
    assert PROMPT not in gateway.ask("GET", "/metrics", key="admin").text
    assert PROMPT not in gateway.ask("GET", "/readyz", key=None).text


def test_no_text_of_a_client_begins_a_line_of_the_log(gateway: Keyed, caplog: pytest.LogCaptureFixture) -> None:
    forged = "x\n2030-01-01 ERROR forged line\r\x1b[31m"
    with caplog.at_level(logging.DEBUG):
        for body in (
            {"model": forged, "messages": HELLO},
            {"model": "auto", "messages": [{"role": forged, "content": forged}], "user": forged},
            {"model": "auto", "messages": HELLO, "llmrouter": {"session_id": forged}},
        ):
            gateway.ask("POST", CHAT, json=body)
        gateway.ask("GET", "/v1/models/x%0A2030-01-01 ERROR forged line")
        gateway.ask("POST", "/admin/keys", key="admin", json={"name": forged})
        gateway.ask("GET", "/admin/keys/x%0A2030-01-01 ERROR forged line", key="admin")
    for line in logged(caplog):
        assert "forged" not in line
        assert "\x1b" not in line


def test_stored_keys_hold_no_token(gateway: Keyed, key_file: str) -> None:
    with sqlite3.connect(key_file) as connection:
        content = "".join(text for (text,) in connection.execute("SELECT record FROM keys"))
    connection.close()
    assert gateway.tokens["plain"][5:17] in content
    assert gateway.tokens["plain"][-43:] not in content


def test_outcomes_hold_no_token(gateway: Keyed) -> None:
    answer = gateway.ask("POST", CHAT, json=GENERATING[CHAT])
    outcome = gateway.ask("GET", f"/v1/outcomes/{answer.headers['x-request-id']}").text
    assert gateway.tokens["plain"][18:] not in outcome


def test_wrong_keys_by_the_thousand(live: Start, upstream: MisbehavingUpstream, tmp_path: Any) -> None:
    running = live("alpha", auth={"store": f"sqlite:///{tmp_path}/keys.db", "failures_per_minute": 20})
    keyed = Keyed(running)
    keyed.tokens["admin"] = admin_token(f"{tmp_path}/keys.db")
    keyed.make("plain")
    assert keyed.ask("POST", CHAT, json=GENERATING[CHAT]).status_code == 200
    answers = []
    for _ in range(30):
        keyed.tokens["guess"] = new_token(new_id())
        answers.append(keyed.ask("POST", CHAT, key="guess", json=GENERATING[CHAT]))
    assert [answer.status_code for answer in answers] == [401] * 20 + [429] * 10
    assert answers[-1].headers["x-should-retry"] == "false"
    assert int(answers[-1].headers["retry-after"]) <= 60
    assert keyed.ask("POST", CHAT, json=GENERATING[CHAT]).status_code == 200  # a known key goes on


def test_every_test_that_the_threat_model_names_is_there() -> None:
    root = Path(__file__).parents[3]
    text = (root / "docs" / "security.md").read_text()
    named = re.findall(r"`([\w/]*test_\w+\.py)?(?:::([\w*]+))?`", text)
    file = ""
    for path, pattern in named:
        file = path or file
        source = root / file if "/" in file else Path(__file__).parent / file
        if not path and not pattern:
            continue
        functions = re.findall(r"^(?:async )?def (test_\w+)", source.read_text(), re.MULTILINE)
        assert fnmatch.filter(functions, pattern or "*"), (file, pattern)
    assert len(named) > 25
