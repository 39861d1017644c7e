"""/admin/keys: make, list, change, rotate and revoke virtual keys; for keys with the scope ``admin``."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.body import read_object
from service.errors import APIError, json_response
from service.keys import refusals
from service.keys.manager import DEFAULT_GRACE_S, KeyManager
from service.keys.principal import ADMIN, Principal
from service.keys.record import KeyRecord, limits_of
from service.keys.store import KeyStoreError
from service.keys.wanted import bad, check_fields
from service.routes.state import gateway_of

if TYPE_CHECKING:
    from service.gateway import Gateway

logger = logging.getLogger(__name__)

routes = APIRouter(prefix="/admin", tags=["admin"])

_CREATED = 201
_MAX_BODY_BYTES = 64 * 1024
_PAGE = 100
# A token is in some of these answers: nobody on the way is to keep them.
_PRIVATE = {"cache-control": "no-store"}


@routes.post("/keys", status_code=_CREATED)
async def create_key(request: Request) -> Response:
    """Make a key. Its token is in the answer, and nowhere else: it cannot be shown again."""
    keys, principal = await _admitted(request)
    wanted = await _body(request)
    with _translated():
        record, token = await keys.create(wanted, by=_actor(principal))
    return _answer(keys, record, status=_CREATED, token=token)


@routes.get("/keys")
async def list_keys(request: Request) -> Response:
    """List keys, oldest first, a page at a time; never tokens, nor what is stored of them."""
    keys, _ = await _admitted(request)
    given = request.query_params
    check_fields(given, ("limit", "after"))
    limit = given.get("limit", str(_PAGE))
    if not (limit.isascii() and limit.isdecimal()):
        raise bad("limit", f"must be a whole number; got {limit!r}")
    with _translated():
        records, more = await keys.page(after=given.get("after"), limit=int(limit[:9]))
    return json_response(
        {
            "object": "list",
            "data": [_document(keys, record) for record in records],
            "has_more": more,
            "last_id": records[-1].id if records else None,
        },
        headers=_PRIVATE,
    )


@routes.get("/keys/{key_id}")
async def get_key(request: Request, key_id: str) -> Response:
    """Return a key, with what it has used where it has limits."""
    keys, _ = await _admitted(request)
    with _translated():
        record = await keys.get(key_id)
    return _answer(keys, record, usage=await _usage(gateway_of(request), record))


@routes.patch("/keys/{key_id}")
async def update_key(request: Request, key_id: str) -> Response:
    """Change the given fields of a key; null takes a team, a limit, an expiry or a note away."""
    keys, principal = await _admitted(request)
    wanted = await _body(request)
    with _translated():
        record = await keys.update(key_id, wanted, by=_actor(principal))
    return _answer(keys, record)


@routes.post("/keys/{key_id}/rotate")
async def rotate_key(request: Request, key_id: str) -> Response:
    """Give a key a new token, shown in this answer only; the old one holds for ``grace_s`` seconds more."""
    keys, principal = await _admitted(request)
    body: dict[str, Any] = {}
    if request.headers.get("content-length") != "0" and _has_body(request):
        body = await _body(request)
    check_fields(body, ("grace_s",))
    with _translated():
        record, token = await keys.rotate(key_id, grace_s=body.get("grace_s", DEFAULT_GRACE_S), by=_actor(principal))
    return _answer(keys, record, token=token)


@routes.delete("/keys/{key_id}")
async def revoke_key(request: Request, key_id: str) -> Response:
    """Revoke a key for good: at once in this process, in others as soon as they look it up again (auth.cache_s)."""
    keys, principal = await _admitted(request)
    with _translated():
        record = await keys.revoke(key_id, by=_actor(principal))
    return _answer(keys, record)


async def _admitted(request: Request) -> tuple[KeyManager, Principal]:
    """Return the keys and who administers them.

    Raises
    ------
    APIError
        404 where there are no keys, 401 without one, 403 for one that is not an administrator's.
    """
    authenticator = gateway_of(request).authenticator
    if authenticator is None:
        raise refusals.keys_are_off()
    principal = await authenticator.of_request(request.scope)
    if not principal.may(ADMIN):
        raise refusals.lacking_scope(principal, ADMIN)
    return authenticator.keys, principal


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except KeyStoreError as error:
        logger.error("the store of keys fails: %s", error)
        raise refusals.store_unavailable() from error


async def _body(request: Request) -> dict[str, Any]:
    timeout_s = gateway_of(request).settings.server.body_timeout_s
    return await read_object(request, max_bytes=_MAX_BODY_BYTES, timeout_s=timeout_s)


def _actor(principal: Principal) -> str:
    return f"key {principal.key_id}"


def _has_body(request: Request) -> bool:
    return "content-length" in request.headers or "transfer-encoding" in request.headers


def _document(keys: KeyManager, record: KeyRecord) -> dict[str, Any]:
    return {"object": "key", **record.document(keys.now)}


def _answer(keys: KeyManager, record: KeyRecord, *, status: int = 200, **further: Any) -> Response:
    given = {name: value for name, value in further.items() if value is not None}
    return json_response({**_document(keys, record), **given}, status=status, headers=_PRIVATE)


async def _usage(gateway: Gateway, record: KeyRecord) -> Any:
    """Return what the limiter knows of the key, None where there is none or it does not answer."""
    subjects = gateway.shared.subjects.of_request(record.id, limits=limits_of(record.limits))
    own = [subject for subject in subjects if subject.kind == "key"]
    if not own:
        return None
    try:
        return (await gateway.limiter.usage(own))[0]
    except (APIError, OSError, IndexError) as error:
        logger.warning("the usage of key %s is not known: %s", record.id, error)
        return None
