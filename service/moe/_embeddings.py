"""POST /v1/embeddings: OpenAI's shapes over the embeddings of a local mixture-of-experts model."""

from __future__ import annotations

import asyncio
import base64
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response

from llmrouter.moe import EmbeddingRequest, EmbeddingResult, Engine
from service.moe._chat import CLIENT_CLOSED_REQUEST, disconnected, seen
from service.moe._schema import check_body, invalid


class EmbeddingBody(BaseModel):
    """OpenAI's request for embeddings, with `moee` and `moee_alpha` besides. Unknown fields are refused."""

    model_config = ConfigDict(strict=True, extra="forbid")

    model: str
    input: str | list[str] | list[int] | list[list[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    user: str | None = None  # changes nothing about the answer here
    moee: str | None = None
    moee_alpha: float | None = None

    def embedding_request(self) -> EmbeddingRequest:
        """Return it as the engine takes it.

        Raises
        ------
        APIError, GenerationRequestError
            If a value is not supported or out of its range.
        """
        if self.dimensions is not None:
            raise invalid(
                f"dimensions is {self.dimensions}; these vectors cannot be shortened, as no model was trained for it. "
                'Leave dimensions out; moee: "routing" gives the shortest ones',
                "dimensions",
            )
        single = isinstance(self.input, str) or (bool(self.input) and isinstance(self.input[0], int))
        values: dict[str, Any] = {"inputs": [self.input] if single else self.input}
        if self.moee is not None:
            values["kind"] = self.moee
        if self.moee_alpha is not None:
            values["alpha"] = self.moee_alpha
        return EmbeddingRequest(**values)


def parse_embedding_body(body: Any) -> EmbeddingBody:
    """Check a decoded JSON body.

    Raises
    ------
    APIError
        400 with `param` naming the first wrong field.
    """
    return check_body(EmbeddingBody, body)


async def answer_embeddings(request: Request, body: EmbeddingBody, engine: Engine) -> Response:
    """Embed the inputs; a client that hangs up cancels."""
    job = await asyncio.to_thread(engine.submit_embedding, body.embedding_request())
    result = asyncio.wrap_future(job.future)
    result.add_done_callback(seen)
    hang_up = asyncio.ensure_future(disconnected(request))
    both: set[asyncio.Future[Any]] = {result, hang_up}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        content = _content(await result, engine.name, as_base64=body.encoding_format == "base64")
    finally:
        hang_up.cancel()
        job.cancel()  # of no effect once it is finished
    return Response(content, media_type="application/json")


def _content(result: EmbeddingResult, model: str, *, as_base64: bool) -> bytes:
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(vector.astype("<f4").tobytes()).decode() if as_base64 else vector,
        }
        for index, vector in enumerate(result.vectors)
    ]
    usage = {"prompt_tokens": result.input_tokens, "total_tokens": result.input_tokens}
    body = {"object": "list", "data": data, "model": model, "usage": usage}
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
