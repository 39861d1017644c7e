"""The loads of the pool's local engines: read in the background, handed to what decides.

Nothing here is on the way of a request. Each source has a task of its own; a reading puts a card of the moment in the
place of the configured one, and a timer takes it away again when it has become stale, whatever became of the task.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from llmrouter.exceptions import DataError
from llmrouter.pool import HTTPSessions, read_load
from llmrouter.types import ModelCard
from service.loads.member import SOURCE, Member
from service.loads.source import Source

if TYPE_CHECKING:
    from service.settings import ModelSettings

logger = logging.getLogger(__name__)

_JITTER = 0.2
_GRAIN_S = 0.001


class Loads:
    """Read the loads of those models that have `load` in their settings.

    Parameters
    ----------
    models : iterable of ModelSettings
        The pool.
    sessions : HTTPSessions
        Connections, shared with the backends.
    use : callable
        Takes the cards by which is to be decided from now on, by pool name, those of the configuration left out;
        called in the event loop.
    reuse : Loads, optional
        Those of the configuration before: what was read of the same source goes on counting.

    Attributes
    ----------
    sources : dict of Source to list of Member
        What is read, and for which models.
    """

    def __init__(
        self,
        models: Iterable[ModelSettings],
        sessions: HTTPSessions,
        *,
        use: Callable[[Mapping[str, ModelCard]], None],
        reuse: Loads | None = None,
    ) -> None:
        self._sessions = sessions
        self._use = use
        self.sources: dict[Source, list[Member]] = {}
        self._members: dict[str, Member] = {}
        self._cards: dict[str, ModelCard] = {}
        for model in models:
            self._cards[model.name] = model.card
            source = Source.of(model)
            if source is not None and model.load is not None:
                member = Member(model.card, model.load, model.load.model or model.model or model.name)
                self.sources.setdefault(source, []).append(member)
                self._members[model.name] = member
                if reuse is not None:
                    _take_over(member, source, reuse)
        self._present: dict[str, ModelCard] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._expiry: asyncio.TimerHandle | None = None
        self._random = random.Random()

    @property
    def names(self) -> frozenset[str]:
        """The models whose engines report their load."""
        return frozenset(self._members)

    @property
    def present(self) -> Mapping[str, ModelCard]:
        """The cards by which is decided in place of the configured ones: another object whenever they change."""
        return self._present

    def start(self) -> None:
        """Begin to read; must run in the event loop."""
        if not self._members:
            return
        self._update()
        self._tasks = [asyncio.create_task(self._poll(source, members)) for source, members in self.sources.items()]

    async def aclose(self) -> None:
        """Stop reading; what was read goes stale as it would have (idempotent)."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task

    # What there is to see

    def account(self) -> dict[str, dict[str, Any]]:
        """Return by which price is decided for every model, and why; empty where no engine reports its load."""
        if not self._members:
            return {}
        now = time.monotonic()
        return {
            name: self._members[name].account(now)
            if name in self._members
            else {"input": card.price.input, "output": card.price.output, "from": "configuration"}
            for name, card in self._cards.items()
        }

    def ages(self) -> dict[str, float]:
        """Return the seconds since the last reading, by model; those that were never read are left out."""
        now = time.monotonic()
        return {name: now - member.read_at for name, member in self._members.items() if member.reading is not None}

    def failures(self) -> dict[str, float]:
        """Return how many readings failed, by model."""
        return {name: float(member.failures) for name, member in self._members.items()}

    def in_use(self) -> dict[str, float]:
        """Return 1 for a model that is decided about by its engine's price, else 0."""
        present = self._present
        return {name: float(name in present and present[name].price.source == SOURCE) for name in self._members}

    # Reading

    async def _poll(self, source: Source, members: list[Member]) -> None:
        every_s = min(member.settings.every_s for member in members)
        while True:
            await self._read(source, members)
            # Workers and replicas that started together do not go on asking together.
            await asyncio.sleep(every_s * self._random.uniform(1 - _JITTER, 1 + _JITTER))

    async def _read(self, source: Source, members: list[Member]) -> None:
        began = time.monotonic()
        timeout_s = min(member.settings.timeout_s for member in members)
        try:
            document = await source.read(self._sessions, timeout_s=timeout_s)
        except DataError as error:
            for member in members:
                _failed(member, str(error))
            return
        except Exception as error:  # a fault of ours must not end the task
            logger.exception("reading a load had a fault and goes on")
            for member in members:
                _failed(member, type(error).__name__)
            return
        for member in members:
            try:
                member.reading = read_load(document, member.wanted, price=member.settings.price)
            except DataError as error:
                _failed(member, str(error))
            else:
                _succeeded(member)
                member.read_at = began
        self._update()

    def _update(self) -> None:
        """Hand on what changed, and come back when the next reading becomes stale."""
        now = time.monotonic()
        present = {name: member.present(now) for name, member in self._members.items()}
        present = {name: card for name, card in present.items() if card is not self._members[name].card}
        if present != self._present:
            self._present = present
            self._use(present)
        if self._expiry is not None:
            self._expiry.cancel()
        ends = [member.read_at + member.settings.stale_s for member in self._members.values() if member.is_fresh(now)]
        # Timers may be early by what clocks differ in.
        wait_s = min(ends) - now + _GRAIN_S if ends else 0.0
        self._expiry = asyncio.get_running_loop().call_later(wait_s, self._update) if ends else None


def _failed(member: Member, trouble: str) -> None:
    member.failures += 1
    if not member.trouble:
        logger.warning("the load of %s cannot be read: %s; metrics count the next failures", member.card.name, trouble)
    member.trouble = trouble


def _succeeded(member: Member) -> None:
    if member.trouble:
        logger.info("the load of %s is read again", member.card.name)
    member.trouble = ""


def _take_over(member: Member, source: Source, before: Loads) -> None:
    for known in before.sources.get(source, ()):
        alike = known.wanted == member.wanted and known.settings.price == member.settings.price
        if alike and known.card.name == member.card.name:
            member.reading, member.read_at = known.reading, known.read_at
            member.failures, member.trouble = known.failures, known.trouble
