"""The judge of a gateway: its model, its budget, what it is shown."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from llmrouter.exceptions import BackendStreamError
from llmrouter.pool import Timeouts
from service.learning.answer import HeardAnswer
from service.learning.judging_calls import JudgeCalls
from service.limits.settings import Limits
from service.limits.subjects import Subject

if TYPE_CHECKING:
    from llmrouter.learning import LLMJudge
    from service.call import Call
    from service.gateway import Gateway
    from service.learning.signal_settings import JudgeSettings

_QUALITY = {"first": 1.0, "tie": 0.5, "second": 0.0}
_LIKELY_OUTPUT_TOKENS = 512
_NOT_SENT = ("stream", "stream_options", "n")


class GatewayJudge:
    """Judge answers of one gateway process, within the day's budget.

    Parameters
    ----------
    settings : JudgeSettings
        The configuration.
    """

    def __init__(self, settings: JudgeSettings) -> None:
        self.settings = settings
        # Here and not above: it takes a while, and a gateway without a judge does without it.
        from llmrouter.learning import DEFAULT_RUBRIC, LLMJudge

        self._make = LLMJudge
        self._rubric = settings.rubric or DEFAULT_RUBRIC
        limits = Limits(budget_usd=settings.usd_per_day, budget_period="day")
        self._subjects = (Subject("gateway", "judge", limits),)
        self._judge: LLMJudge | None = None

    @property
    def source(self) -> str:
        """Source of its verdicts."""
        return f"judge:{self.settings.model}"

    def wants(self, call: Call) -> bool:
        """Return whether it is to see the answer to a call that is about to be answered."""
        settings = self.settings
        if not call.principal.allows(settings.model) or (
            settings.against and not call.principal.allows(settings.against)
        ):
            return False
        return settings.own or call.served_by not in (settings.model, settings.against)

    async def judge(self, gateway: Gateway, call: Call, question: str, answer: str) -> tuple[float | None, float]:
        """Return the quality of an answer (None where there is no verdict), and what that cost in US dollars.

        Raises
        ------
        LimitExceededError
            If the day's budget, or the limits of one of the models, do not allow it.
        BackendError
            If a model could not be reached.
        """
        name, against = self.settings.model, self.settings.against
        pairwise = self.settings.mode == "pairwise" and against is not None
        asked = JudgeCalls(gateway, name, request_id=call.request_id)
        judge = self._current(gateway, asked)
        expected = judge.expected_cost_usd(question, answer, *([answer] if pairwise else []), calls=1 + pairwise)
        if pairwise:
            expected += self._against_costs(gateway, call)
        grant = await gateway.limiter.acquire(self._subjects, tokens=0, cost_usd=expected, request_id=call.request_id)
        other_asked = JudgeCalls(gateway, against, request_id=call.request_id) if pairwise and against else None
        try:
            if other_asked is not None and against is not None:
                other = await self._other_answer(other_asked, self._timeouts(gateway, against), call)
                compared = await judge.compare(question, answer, other)
                quality = None if compared.winner is None else _QUALITY[compared.winner]
            else:
                quality = (await judge.score(question, answer)).quality
        finally:
            # What was paid before a later call failed is paid.
            spent = asked.spent_usd + (0.0 if other_asked is None else other_asked.spent_usd)
            await gateway.limiter.settle(grant, tokens=0, cost_usd=spent)
        return quality, spent

    def _current(self, gateway: Gateway, calls: JudgeCalls) -> LLMJudge:
        """Return the judge for one judgement; what it knows is common to all, and outlives a reload of the pool."""
        name = self.settings.model
        if self._judge is None:
            self._judge = self._make(
                calls,
                name=name,
                price=gateway.cards[name].price,
                rubric=self._rubric,
                parameters=self.settings.parameters,
                timeouts=self._timeouts(gateway, name),
            )
        judge = copy.copy(self._judge)
        judge.backend, judge.price = calls, gateway.cards[name].price
        return judge

    def _timeouts(self, gateway: Gateway, name: str) -> Timeouts:
        given, most = gateway.timeouts[name], self.settings.timeout_s
        return Timeouts(given.connect_s, given.first_byte_s, given.between_chunks_s, min(given.total_s, most))

    def _against_costs(self, gateway: Gateway, call: Call) -> float:
        price = gateway.cards[self.settings.against or ""].price
        return price.cost_usd(call.chat.routing.prompt_tokens, _LIKELY_OUTPUT_TOKENS)

    async def _other_answer(self, asked: JudgeCalls, timeouts: Timeouts, call: Call) -> str:
        body = {key: value for key, value in call.chat.body.items() if key not in _NOT_SENT}
        answer = await asked.complete(body, timeouts=timeouts)
        heard = HeardAnswer((), judged=True, max_bytes=len(answer.body))
        heard.whole(answer.body)
        text = heard.text()
        if text is None:
            name = self.settings.against or ""
            raise BackendStreamError(f"{name}: the answer to compare with has no text", model=name)
        return text
