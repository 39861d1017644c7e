"""A language model of the pool picks the route (Arch-Router, arXiv 2506.16655)."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from llmrouter.exceptions import (
    BackendConnectError,
    BackendStatusError,
    BackendTimeoutError,
    ConfigError,
    LLMRouterError,
)
from llmrouter.pool import Backend, BackendResponse, Timeouts, usage_from_body
from llmrouter.routes._choosers import other
from llmrouter.routes._conversation import LEAST_TOKENS, Conversation, within
from llmrouter.routes._prompt import INSTRUCTIONS, parse_route, response_format, system_text, user_text
from llmrouter.routes._route import Route
from llmrouter.types import OTHER_ROUTE, ModelCard, RoutePick, estimate_tokens

WINDOW_TOKENS = 2048
"""Of the conversation, so many estimated tokens are shown, the newest, unless told otherwise; the paper's window."""

OUTPUT_TOKENS = 100
"""Of the reply, at most; it has about ten."""

_KIND = "model"
_NONCE_BYTES = 8
_WRAPPING_TOKENS = 64


class ModelChooser:
    """Ask a model which route a conversation is on; whatever goes wrong, the request is on none.

    The route set is part of the prompt, so that routes change without training. The model sees what user and assistant
    said, the newest within a window. Where it offers a JSON schema it can name only what there is; a reply that is not
    exactly one JSON object naming a route counts as broken. Picks are remembered by what the model was shown; picks
    that failed are not.

    Parameters
    ----------
    routes : sequence of Route
        Checked ones; at least one.
    backend : Backend
        Reaches the model.
    card : ModelCard
        Of the model: name, price, capabilities, context window.
    timeouts : Timeouts, optional
        Of the call; what has not picked within `Timeouts.total_s` has failed. By default 2 s.
    window_tokens : int
        Of the conversation, at least 64; less where the model's context window leaves less.
    instructions : str
        What the model is told to do.
    parameters : mapping, optional
        Further fields of the chat's body; None takes one away. By default ``temperature`` 0, `OUTPUT_TOKENS` as
        ``max_tokens``, and the ``response_format`` that the model offers.
    remembered : int
        Picks kept, the newest; 0 keeps none.

    Raises
    ------
    ConfigError
        If a number is out of range, the instructions are empty, or the routes do not fit into the context window.
    """

    def __init__(
        self,
        routes: Sequence[Route],
        backend: Backend,
        *,
        card: ModelCard,
        timeouts: Timeouts | None = None,
        window_tokens: int = WINDOW_TOKENS,
        instructions: str = INSTRUCTIONS,
        parameters: Mapping[str, Any] | None = None,
        remembered: int = 10_000,
    ) -> None:
        if window_tokens < LEAST_TOKENS:
            raise ConfigError(f"window_tokens must be at least {LEAST_TOKENS}; got {window_tokens!r}")
        if remembered < 0:
            raise ConfigError(f"the number of picks to remember must be at least 0; got {remembered!r}")
        if not instructions.strip():
            raise ConfigError(f"instructions are empty; got {instructions!r}: leave them out for the usual ones")
        self.routes = tuple(routes)
        self.backend = backend
        self.card = card
        self.timeouts = timeouts or Timeouts(first_byte_s=2.0, between_chunks_s=2.0, total_s=2.0)
        self.instructions = instructions
        self.remembered = remembered
        self.window_tokens = min(window_tokens, self._room())
        form = response_format(self.routes, card.capabilities)
        given = {
            "temperature": 0,
            "max_tokens": OUTPUT_TOKENS,
            **({} if form is None else {"response_format": form}),
            **(parameters or {}),
        }
        self.parameters = {key: value for key, value in given.items() if value is not None}
        self._names = frozenset([*(route.name for route in self.routes), OTHER_ROUTE])
        self._known: OrderedDict[bytes, str] = OrderedDict()

    @property
    def expected_cost_usd(self) -> float:
        """What a pick costs at most, by estimated tokens; US dollars."""
        shown = self._system_tokens() + self.window_tokens + _WRAPPING_TOKENS
        return self.card.price.cost_usd(shown, OUTPUT_TOKENS)

    def recall(self, conversation: Conversation) -> RoutePick | None:
        """Return the pick of an earlier request that showed the model the same, None where there was none."""
        key = self._key(within(conversation, self.window_tokens))
        name = self._known.get(key)
        if name is None:
            return None
        self._known.move_to_end(key)
        return RoutePick(name, _KIND, f"{self.card.name} picked it for the same conversation before", known=True)

    async def pick(self, conversation: Conversation, *, backend: Backend | None = None) -> RoutePick:
        """Return the route of a conversation; a pick that failed is on none, and says why in `failure`.

        Parameters
        ----------
        conversation : tuple of (str, str)
            See `llmrouter.routes.conversation_of`.
        backend : Backend, optional
            Reaches the model in place of the chooser's own, for this one call.
        """
        if not any(text.strip() for _, text in conversation):
            return other(_KIND, "the conversation has no text")
        if (known := self.recall(conversation)) is not None:
            return known
        shown = within(conversation, self.window_tokens)
        body = self._body(shown)
        before = time.perf_counter()
        try:
            answer = await (backend or self.backend).complete(body, timeouts=self.timeouts)
        except LLMRouterError as error:
            return self._failed(error, body, time.perf_counter() - before)
        return self._read(answer, body, shown, time.perf_counter() - before)

    def _read(
        self, answer: BackendResponse, body: Mapping[str, Any], shown: Conversation, latency_s: float
    ) -> RoutePick:
        reply = _text_of(answer.body)
        cost = self.card.price.cost_of(usage_from_body(answer.body))
        if cost is None:
            cost = self.card.price.cost_usd(_tokens_of(body), estimate_tokens(reply))
        name = parse_route(reply)
        model = self.card.name
        if name is None or name not in self._names:
            reason = f"{model} replied with " + ("no JSON object" if name is None else "a route that does not exist")
            failure = "broken" if name is None else "unknown_route"
            return RoutePick(OTHER_ROUTE, _KIND, reason, failure=failure, cost_usd=cost, latency_s=latency_s)
        self._remember(self._key(shown), name)
        reason = f"{model} finds that no route fits" if name == OTHER_ROUTE else f"{model} picked it"
        return RoutePick(name, _KIND, reason, cost_usd=cost, latency_s=latency_s)

    def _failed(self, error: LLMRouterError, body: Mapping[str, Any], latency_s: float) -> RoutePick:
        failure, said = _failure(error)
        # Who timed out has read the input: it is likely to be paid.
        cost = self.card.price.cost_usd(_tokens_of(body), 0) if failure == "timeout" else 0.0
        reason = f"{self.card.name} {said}"
        return RoutePick(OTHER_ROUTE, _KIND, reason, failure=failure, cost_usd=cost, latency_s=latency_s)

    def _body(self, shown: Conversation) -> dict[str, Any]:
        nonce = secrets.token_hex(_NONCE_BYTES)
        system = system_text(self.routes, self.instructions, nonce)
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user_text(shown, nonce)}]
        return {"messages": messages, **self.parameters}

    def _room(self) -> int:
        window = self.card.context_window
        taken = self._system_tokens() + _WRAPPING_TOKENS + OUTPUT_TOKENS
        if window is None:
            return WINDOW_TOKENS * WINDOW_TOKENS
        if window - taken < LEAST_TOKENS:
            raise ConfigError(
                f"the routes take about {taken} of the {window} tokens that {self.card.name!r} sees, which leaves less "
                f"than {LEAST_TOKENS} for the conversation; shorten descriptions and examples, or take a model with a "
                "larger context window"
            )
        return window - taken

    def _system_tokens(self) -> int:
        return estimate_tokens(system_text(self.routes, self.instructions, "0" * 2 * _NONCE_BYTES))

    def _key(self, shown: Conversation) -> bytes:
        told = json.dumps(shown, ensure_ascii=True)  # lone surrogates too
        return hashlib.sha256(told.encode()).digest()

    def _remember(self, key: bytes, name: str) -> None:
        if self.remembered:
            self._known[key] = name
            if len(self._known) > self.remembered:
                self._known.popitem(last=False)


def _failure(error: LLMRouterError) -> tuple[str, str]:
    if isinstance(error, BackendTimeoutError):
        return "timeout", "did not pick in time"
    if isinstance(error, BackendConnectError):
        return "unreachable", "could not be reached"
    if isinstance(error, BackendStatusError):
        return "status", f"answered with the status {error.status}"
    return "refused", "could not be asked"


def _tokens_of(body: Mapping[str, Any]) -> int:
    return sum(estimate_tokens(message["content"]) for message in body["messages"])


def _text_of(body: bytes) -> str:
    try:
        content = orjson.loads(body)["choices"][0]["message"]["content"]
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError):
        return ""
    return content if isinstance(content, str) else ""
