"""Our router as a plugin of LiteLLM's Router and proxy: their deployments, our choice among them.

::

    router = litellm.Router(model_list=[...], plugins=[LLMRouterPlugin(cost_weight=0.3)])

LiteLLM is not imported here: the plugin has the one method that LiteLLM asks for.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from llmrouter import artifact as artifacts
from llmrouter.encoders import Encoder, TextMode, chat_text
from llmrouter.engine import RoutingEngine
from llmrouter.exceptions import ConfigError
from llmrouter.policy import Policy, policy_from_config
from llmrouter.pool import PriceBook
from llmrouter.types import Capability, Decision, ModelCard, Preference, Price, RoutingRequest, estimate_tokens

logger = logging.getLogger(__name__)

SIGNAL = "llmrouter"
"""Under this key the decision stands among the signals, and a request's own wishes in its metadata."""

_BACKEND = "litellm"
_MOST_TOLD = 100
_PREFERENCES = ("cost_weight", "quality_floor", "max_cost_usd")


class Context(Protocol):
    """What the plugin needs of ``litellm.types.router.RoutingContext``."""

    structured_messages: list[dict[str, object]]
    candidate_models: list[str]
    metadata: dict[str, object]
    signals: dict[str, object]


C = TypeVar("C", bound=Context)


class LLMRouterPlugin:
    """Narrow the candidates of a request to the best ones, as ``litellm.types.router.RoutingPlugin`` asks.

    LiteLLM chooses at random (or by its routing strategy) among what is left, so by default one model is. Where it
    retries, the next model of the ranking takes its place. On any trouble the candidates stay as they are, and the
    trouble is logged: a request never fails for want of a decision.

    Parameters
    ----------
    artifact : Path or str, optional
        Folder that training wrote; by default the artifact that ships with the package, which knows the pocket pool.
    pool : mapping of str to (ModelCard or Price or str), optional
        LiteLLM's name of a model (``litellm_params.model``, e.g. ``anthropic/claude-sonnet-4-5``) to its card, or its
        price, or the name by which the artifact knows it. What is left out is looked up: the name with and without
        its provider in the artifact, the rest in the price file and LiteLLM's price list.
    policy : Policy or mapping, optional
        E.g. ``{"kind": "quality_floor", "floor": 0.97}``; by default the utility policy.
    cost_weight : float, optional
        Of the utility policy, in place of `policy`.
    keep : int
        How many models of the ranking are left to LiteLLM. With more than one it may take any of them.
    prices : Path or str, optional
        A price file; by default the one that ``LLMROUTER_PRICES`` names.
    encoder : Encoder, optional
        By default the one the artifact was made with.
    text : {"last_user_turn", "system_and_last_turns"}
        What the router reads of a chat.
    turns : int
        See `llmrouter.encoders.chat_text`.

    Raises
    ------
    ConfigError, ArtifactError, EncoderError
        If the parameters, the artifact or the encoder cannot be used.

    Notes
    -----
    A request can say what it wants in its metadata: ``metadata={"llmrouter": {"cost_weight": 0.5}}``, or
    ``quality_floor`` or ``max_cost_usd``. Its ``session_id`` there is the conversation, for the sticky policy.
    """

    def __init__(
        self,
        *,
        artifact: Path | str | None = None,
        pool: Mapping[str, ModelCard | Price | str] | None = None,
        policy: Policy | Mapping[str, Any] | None = None,
        cost_weight: float | None = None,
        keep: int = 1,
        prices: Path | str | None = None,
        encoder: Encoder | None = None,
        text: TextMode = "last_user_turn",
        turns: int = 1,
    ) -> None:
        if keep < 1:
            raise ConfigError(f"must be at least 1; got {keep}", path="keep")
        if policy is not None and cost_weight is not None:
            raise ConfigError("is a parameter of the policy where one is given; write it there", path="cost_weight")
        self.keep = keep
        self.text: TextMode = text
        self.turns = turns
        self._given = dict(pool or {})
        self._book = PriceBook.from_environment(file=prices)
        if policy is None:
            policy = {"kind": "utility"} if cost_weight is None else {"kind": "utility", "cost_weight": cost_weight}
        self._policy = policy_from_config(policy) if isinstance(policy, Mapping) else policy
        folder = artifacts.default_artifact() if artifact is None else Path(artifact)
        # The pool is what LiteLLM offers, and not known yet.
        models = artifacts.read_manifest(folder)["models"]
        loaded = artifacts.load(folder, [ModelCard(name, Price(0.0, 0.0)) for name in models], encoder=encoder)
        self._trained, self._encoder, self._artifact_id = loaded.trained, loaded.encoder, loaded.artifact_id
        self._cards: dict[str, ModelCard] = {}
        self._engine: RoutingEngine | None = None
        self._lock = threading.Lock()
        self._told: set[str] = set()
        # Embedding a long prompt takes a while, and LiteLLM's event loop has other requests to serve.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="llmrouter-plugin")

    async def run(self, context: C) -> C:
        """Return the context with the candidates narrowed and the decision among its signals; never raises."""
        try:
            # A name stands once for each of its deployments.
            candidates = list(dict.fromkeys(context.candidate_models))
            if len(candidates) > 1:
                request = self._request(context)
                loop = asyncio.get_running_loop()
                decision, ranking = await loop.run_in_executor(self._thread, self._decide, candidates, request)
                kept = _head(ranking, self.keep, skip=_failures(context.metadata))
                context.signals = {**context.signals, SIGNAL: _signal(decision, kept)}
                context.candidate_models = [name for name in kept for _ in range(context.candidate_models.count(name))]
        except Exception as error:  # whatever it is, LiteLLM can still choose
            self._tell(f"{type(error).__name__}: {error}")
        return context

    def _tell(self, trouble: str) -> None:
        """Log a trouble as a warning when it comes for the first time: it may come with every request."""
        known = trouble in self._told or len(self._told) >= _MOST_TOLD
        if not known:
            self._told.add(trouble)
        logger.log(logging.DEBUG if known else logging.WARNING, "the choice is left to LiteLLM: %s", trouble)

    def _request(self, context: Context) -> RoutingRequest:
        messages = context.structured_messages
        text = chat_text(messages, self.text, turns=self.turns)
        parts = [part for message in messages for part in _parts(message)]
        read = [message["content"] for message in messages if isinstance(message.get("content"), str)]
        read += [part["text"] for part in parts if isinstance(part.get("text"), str)]
        session = context.metadata.get("session_id")
        return RoutingRequest(
            text=text,
            prompt_tokens=sum(estimate_tokens(str(piece)) for piece in read),
            needs=_needs(messages, parts),
            preference=_preference(context.metadata.get(SIGNAL)),
            conversation_id=session if isinstance(session, str) else None,
        )

    def _decide(self, candidates: Sequence[str], request: RoutingRequest) -> tuple[Decision, list[str]]:
        """Return the decision, and the candidates (LiteLLM's names) in its order."""
        engine = self._engine_over(candidates)
        names = {candidate: self._cards[candidate].name for candidate in candidates}
        decision = engine.route(replace(request, allowed_models=tuple(dict.fromkeys(names.values()))))
        return decision, [name for entry in decision.eligible for name in candidates if names[name] == entry.model]

    def _engine_over(self, candidates: Sequence[str]) -> RoutingEngine:
        """Return an engine whose pool holds the candidates; it grows with what LiteLLM offers."""
        with self._lock:
            new = [candidate for candidate in candidates if candidate not in self._cards]
            if self._engine is None or new:
                self._cards |= {candidate: self._card(candidate) for candidate in new}
                self._engine = RoutingEngine(
                    # Two providers of one model are one card: the dearer of them is not told apart.
                    list({card.name: card for card in self._cards.values()}.values()),
                    self._encoder,
                    trained=self._trained,
                    policy=self._policy,
                    artifact_id=self._artifact_id,
                )
            return self._engine

    def _card(self, model: str) -> ModelCard:
        given = self._given.get(model)
        if isinstance(given, ModelCard):
            return given
        name = given if isinstance(given, str) else self._known_name(model)
        known = self._book.lookup(model, _BACKEND, name=name)
        price = given if isinstance(given, Price) else None if known is None else known.price
        if price is None:
            raise ConfigError(f"no price is known of {model!r}; give it in `pool`, or in a price file")
        # What nobody says of a model is no reason to rule it out: LiteLLM's operator configured it.
        capabilities = None if known is None else known.capabilities
        return ModelCard(
            name,
            price,
            context_window=None if known is None else known.context_window,
            capabilities=frozenset(Capability) if capabilities is None else capabilities,
        )

    def _known_name(self, model: str) -> str:
        """Return the artifact's name of a model, or LiteLLM's where it knows none."""
        models = self._trained.models
        bare = model.partition("/")[2]
        return bare if model not in models and bare in models else model


def _head(ranking: Sequence[str], count: int, *, skip: int) -> list[str]:
    """Return `count` models after the first `skip`, which failed; from the top again where all of them did."""
    start = skip % len(ranking)
    return list(ranking[start : start + count])


def _failures(metadata: Mapping[str, object]) -> int:
    """Return how many attempts at this request have failed, as LiteLLM counts them."""
    count = metadata.get("request_retry_count")
    return count if isinstance(count, int) and count > 0 else 0


def _signal(decision: Decision, kept: Sequence[str]) -> dict[str, object]:
    document = decision.document()
    ranking = [{key: _finite(value) for key, value in entry.items()} for entry in document["ranking"]]
    return {**document, "ranking": ranking, "router": decision.router, "kept": list(kept)}


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _parts(message: Mapping[str, object]) -> list[Mapping[str, object]]:
    content = message.get("content")
    return [part for part in content if isinstance(part, Mapping)] if isinstance(content, list) else []


def _needs(messages: Sequence[Mapping[str, object]], parts: Sequence[Mapping[str, object]]) -> frozenset[Capability]:
    """Return what the messages show to be needed; the plugin sees neither tools nor response format."""
    kinds = {part.get("type") for part in parts}
    needed = {
        Capability.TOOLS: any(message.get("tool_calls") or message.get("role") == "tool" for message in messages),
        Capability.VISION: bool(kinds & {"image_url", "input_image"}),
        Capability.AUDIO: "input_audio" in kinds,
    }
    return frozenset(capability for capability, is_needed in needed.items() if is_needed)


def _preference(wishes: object) -> Preference:
    if wishes is None:
        return Preference()
    if not isinstance(wishes, Mapping):
        raise ConfigError(f"must be a mapping; got {wishes!r}", path=f"metadata.{SIGNAL}")
    for key, value in wishes.items():
        path = f"metadata.{SIGNAL}.{key}"
        if key not in _PREFERENCES:
            raise ConfigError(f"unknown key; allowed: {', '.join(_PREFERENCES)}", path=path)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise ConfigError(f"must be a number of at least 0; got {value!r}", path=path)
    return Preference(**{key: float(value) for key, value in wishes.items()})
