"""One address with load reports, and one way to ask it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
import orjson

from llmrouter.exceptions import DataError

if TYPE_CHECKING:
    from llmrouter.pool import HTTPSessions
    from service.settings import ModelSettings

_MOST_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Source:
    """Where a load report is read, with the headers that go there; models of one engine share it."""

    url: str
    headers: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, model: ModelSettings) -> Source | None:
        """Return the source of a model; None where it reports nothing, or has no address."""
        load = model.load
        if load is None or not (load.url or model.base_url):
            return None
        url = load.url or f"{(model.base_url or '').rstrip('/')}/load"
        if model.base_url is None or _origin(url) != _origin(model.base_url):
            return cls(url, ())
        headers = {} if model.api_key is None else {"authorization": f"Bearer {model.api_key.get_secret_value()}"}
        headers |= {name.lower(): value.get_secret_value() for name, value in model.headers.items()}
        return cls(url, tuple(sorted(headers.items())))

    async def read(self, sessions: HTTPSessions, *, timeout_s: float) -> Any:
        """Return the document.

        Raises
        ------
        DataError
            If there is none: no answer in time, another status than 200, or no JSON.
        """
        try:
            async with sessions.session(self.url).get(
                self.url,
                headers=dict(self.headers),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=timeout_s),
            ) as response:
                if response.status != 200:
                    raise DataError(f"the engine answered {response.status} where 200 was expected")
                body = await _limited(response)
        except DataError:  # a ValueError, too
            raise
        except TimeoutError:
            raise DataError(f"no answer within {timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise DataError(f"no answer ({type(error).__name__})") from error
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError:
            raise DataError("the answer is no JSON; check the address") from None


async def _limited(response: aiohttp.ClientResponse) -> bytes:
    pieces: list[bytes] = []
    size = 0
    async for piece in response.content.iter_chunked(64 * 1024):
        size += len(piece)
        if size > _MOST_BYTES:
            raise DataError(f"the answer is longer than {_MOST_BYTES} bytes")
        pieces.append(piece)
    return b"".join(pieces)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    default: Mapping[str, int] = {"http": 80, "https": 443}
    return parts.scheme, parts.hostname, parts.port or default.get(parts.scheme)
