"""What every store of keys does alike, and what is special about each."""

from __future__ import annotations

import asyncio
import dataclasses
import sqlite3
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from contracts.redis_server import RedisServer
from key_stores import Clock

from llmrouter.exceptions import ConfigError, LLMRouterError
from service.errors import APIError
from service.keys.authenticator import Authenticator
from service.keys.manager import KeyManager
from service.keys.record import KeyRecord
from service.keys.redis_store import RedisKeyStore
from service.keys.settings import AuthSettings
from service.keys.sqlite_store import SQLiteKeyStore
from service.keys.store import KeyStore, KeyStoreError, MemoryKeyStore, open_key_store
from service.keys.token import new_id, new_token
from service.limits.settings import RedisSettings
from service.redis_link import RedisLink

NOW = 1_000_000.0


@pytest.fixture(params=["memory", "sqlite", "redis"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[KeyStore]:
    if request.param == "memory":
        opened: KeyStore = MemoryKeyStore()
    elif request.param == "sqlite":
        opened = SQLiteKeyStore(tmp_path / "folder" / "keys.db")
    else:
        server = request.getfixturevalue("redis_server")
        server.flush()
        link = RedisLink(RedisSettings(url=server.url, timeout_s=5))
        opened = RedisKeyStore(link)
    yield opened
    await opened.aclose()
    if request.param == "redis":
        await link.aclose()


def record(created: float = NOW, **fields: Any) -> KeyRecord:
    return KeyRecord.new(now=created, name=fields.pop("name", "mine"), **fields)[0]


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def modes_of(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


async def test_a_key_comes_back_as_it_went_in(store: KeyStore) -> None:
    key = record(team="red", models=("a", "b*"), limits={"rpm": 5}, metadata={"x": "ü"}, expires=NOW + 0.125)
    await store.add(key)
    assert await store.get(key.id) == key
    assert await store.get("unknownid000") is None


async def test_an_id_is_taken_once(store: KeyStore) -> None:
    key = record()
    await store.add(key)
    with pytest.raises(KeyStoreError, match="taken"):
        await store.add(dataclasses.replace(key, name="other"))
    assert await store.get(key.id) == key


async def test_change(store: KeyStore) -> None:
    key = record()
    await store.add(key)
    changed = await store.change(key.id, lambda old: dataclasses.replace(old, team="blue"))
    assert changed == dataclasses.replace(key, team="blue")
    assert await store.get(key.id) == changed
    assert await store.change("unknownid000", lambda old: old) is None


async def test_a_change_that_raises_changes_nothing(store: KeyStore) -> None:
    key = record()
    await store.add(key)

    def refuse(old: KeyRecord) -> KeyRecord:
        raise LLMRouterError("no")

    with pytest.raises(LLMRouterError, match="no"):
        await store.change(key.id, refuse)
    assert await store.get(key.id) == key
    assert await store.change(key.id, lambda old: old.revoke(now=NOW)) is not None  # nothing is left locked


async def test_changes_at_the_same_time_are_all_kept(store: KeyStore) -> None:
    key = record()
    await store.add(key)

    def add(name: str) -> Any:
        return lambda old: dataclasses.replace(old, metadata={**old.metadata, name: name})

    await asyncio.gather(*(store.change(key.id, add(f"n{i}")) for i in range(10)))
    found = await store.get(key.id)
    assert found is not None
    assert len(found.metadata) == 10


async def test_pages_show_every_key_once_oldest_first(store: KeyStore) -> None:
    keys = [record(NOW + i // 3) for i in range(10)]  # some at the very same time
    for key in reversed(keys):
        await store.add(key)
    expected = sorted(keys, key=lambda key: (key.created, key.id))
    seen: list[KeyRecord] = []
    while page := await store.page(after=seen[-1].id if seen else None, limit=4):
        seen += page
    assert [key.id for key in seen] == [key.id for key in expected]
    assert await store.page(after="unknownid000", limit=4) == []


async def test_last_use_only_moves_on(store: KeyStore) -> None:
    key, other = record(), record()
    await store.add(key)
    await store.add(other)
    await store.touch({key.id: NOW + 5.5, "unknownid000": NOW})
    await store.touch({key.id: NOW + 1})
    await store.touch({})
    found = await store.get(key.id)
    assert found is not None
    assert found.last_used == NOW + 5.5
    assert [item.last_used for item in await store.page(after=None, limit=5) if item.id == other.id] == [None]
    changed = await store.change(key.id, lambda old: dataclasses.replace(old, team="blue"))
    assert changed is not None
    assert changed.last_used == NOW + 5.5
    assert (await store.get(key.id)) == changed
    assert await store.get("unknownid000") is None


async def test_the_token_is_not_in_the_sqlite_files(tmp_path: Path) -> None:
    store = SQLiteKeyStore(tmp_path / "keys.db")
    keys = KeyManager(store)
    key, token = await keys.create({"name": "mine"})
    _, rotated = await keys.rotate(key.id)
    files = b"".join(content_of(tmp_path).values())
    assert key.id.encode() in files
    for secret in (token, rotated):
        assert secret.encode() not in files
        assert secret[-43:].encode() not in files
        assert secret[-12:].encode() not in files
    await store.aclose()


async def test_the_token_is_not_in_redis(redis_link: RedisLink) -> None:
    keys = KeyManager(RedisKeyStore(redis_link))
    _, token = await keys.create({"name": "mine"})
    names = await redis_link.run(lambda redis: redis.keys("*"))
    assert sorted(names) == [b"llmrouter:keys", b"llmrouter:keys:created"]
    content = b"".join((await redis_link.run(lambda redis: redis.hgetall("llmrouter:keys"))).values())
    assert b"mine" in content
    assert token[-43:].encode() not in content


@pytest.mark.parametrize("before", [None, 0o644])
async def test_only_the_owner_reads_the_file(tmp_path: Path, before: int | None) -> None:
    path = tmp_path / "keys.db"
    if before is not None:
        path.touch()
        path.chmod(before)
    store = SQLiteKeyStore(path)
    await store.add(record())
    assert set(modes_of(tmp_path).values()) == {0o600}
    await store.aclose()


async def test_the_database_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE outcomes (x)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(KeyStoreError, match="another database"):
        SQLiteKeyStore(path)
    assert path.read_bytes() == before


async def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.db"
    await SQLiteKeyStore(path).aclose()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE llmrouter_keys_schema SET version = 99")
    connection.close()
    with pytest.raises(KeyStoreError, match="version 99"):
        SQLiteKeyStore(path)


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "keys.db"
    path.write_bytes(b"hello" * 1000)
    with pytest.raises(KeyStoreError, match="cannot be used"):
        SQLiteKeyStore(path)
    with pytest.raises(KeyStoreError, match="cannot be"):
        SQLiteKeyStore(tmp_path)


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = SQLiteKeyStore(tmp_path / "keys.db")
    await store.aclose()
    await store.aclose()
    with pytest.raises(KeyStoreError, match="closed"):
        await store.get("unknownid000")


async def test_a_damaged_key_is_an_error_of_the_store(tmp_path: Path) -> None:
    store = SQLiteKeyStore(tmp_path / "keys.db")
    key = record()
    await store.add(key)
    with sqlite3.connect(tmp_path / "keys.db") as connection:
        connection.execute("UPDATE keys SET record = '{}'")
    connection.close()
    with pytest.raises(KeyStoreError, match="cannot be read"):
        await store.get(key.id)
    await store.aclose()


CHILD = """
import asyncio, dataclasses, sys
from service.keys.manager import KeyManager
from service.keys.sqlite_store import SQLiteKeyStore

async def main(path, shared, name):
    store = SQLiteKeyStore(path)
    keys = KeyManager(store)
    for i in range(20):
        await keys.create({"name": f"{name} {i}"})
        await store.change(shared, lambda old: dataclasses.replace(old, metadata={**old.metadata, f"{name}{i}": "x"}))
    await store.aclose()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_several_processes_share_one_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.db"
    store = SQLiteKeyStore(path)
    shared = record(name="shared")
    await store.add(shared)
    children = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", CHILD, str(path), shared.id, name) for name in "abc"
    ]
    assert await asyncio.gather(*(child.wait() for child in children)) == [0, 0, 0]
    found = await store.get(shared.id)
    assert found is not None
    assert len(found.metadata) == 60
    assert len(await store.page(after=None, limit=1000)) == 61
    await store.aclose()


async def test_several_replicas_share_redis(redis_link: RedisLink) -> None:
    one, other = KeyManager(RedisKeyStore(redis_link)), KeyManager(RedisKeyStore(redis_link))
    key, _ = await one.create({"name": "mine"})
    await asyncio.gather(*(keys.update(key.id, {"metadata": {f"{i}": "x"}}) for i in range(6) for keys in (one, other)))
    assert len((await one.get(key.id)).metadata) == 6
    await other.revoke(key.id)
    assert (await one.get(key.id)).revoked is not None


async def test_a_prefix_keeps_deployments_apart(redis_link: RedisLink, redis_server: RedisServer) -> None:
    key = record()
    await RedisKeyStore(redis_link).add(key)
    other = RedisLink(RedisSettings(url=redis_server.url, timeout_s=5, prefix="other"))
    assert await RedisKeyStore(other).get(key.id) is None
    assert await RedisKeyStore(redis_link).get(key.id) == key
    await other.aclose()


async def test_redis_out_of_reach_is_an_error_of_the_store() -> None:
    with RedisServer() as server:
        url = server.url
    link = RedisLink(RedisSettings(url=url, timeout_s=0.2))
    with pytest.raises(KeyStoreError, match="cannot be reached"):
        await RedisKeyStore(link).get("unknownid000")
    await link.aclose()


async def test_known_keys_hold_on_while_redis_is_frozen() -> None:
    with RedisServer() as server:
        link = RedisLink(RedisSettings(url=server.url, timeout_s=0.3))
        clock = Clock()
        authenticator = Authenticator(AuthSettings(store="redis"), RedisKeyStore(link), clock=clock)
        _, token = await authenticator.keys.create({"name": "mine"})
        principal = await authenticator.authenticate(token)
        server.freeze()
        clock.now += 31
        assert await authenticator.authenticate(token) is principal
        with pytest.raises(APIError) as caught:
            await authenticator.authenticate(new_token(new_id()))
        assert caught.value.status == 503
        server.thaw()
        await authenticator.aclose()
        await link.aclose()


async def test_the_configured_store(tmp_path: Path) -> None:
    opened = open_key_store(AuthSettings(store=f"sqlite:///{tmp_path}/k.db"))
    assert (tmp_path / "k.db").exists()
    await opened.aclose()
    with pytest.raises(ConfigError, match=r"auth\.store"):
        open_key_store(AuthSettings(store="redis"))
