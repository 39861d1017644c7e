"""The judge of a gateway: its model, its budget, what it is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmrouter.exceptions import BackendStreamError
from llmrouter.pool import Timeouts, usage_from_body
from service.learning.answer import HeardAnswer
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
            If the day's budget does not allow it.
        BackendError
            If a model could not be reached.
        """
        judge = self._current(gateway)
        pairwise = self.settings.mode == "pairwise"
        expected = judge.expected_cost_usd(question, answer, *([answer] if pairwise else []), calls=1 + pairwise)
        if pairwise:
            expected += self._against_costs(gateway, call)
        grant = await gateway.limiter.acquire(self._subjects, tokens=0, cost_usd=expected, request_id=call.request_id)
        spent = 0.0
        try:
            if pairwise:
                other, spent = await self._other_answer(gateway, call)
                compared = await judge.compare(question, answer, other)
                spent += compared.cost_usd
                quality = None if compared.winner is None else _QUALITY[compared.winner]
            else:
                judged = await judge.score(question, answer)
                spent, quality = judged.cost_usd, judged.quality
        finally:
            await gateway.limiter.settle(grant, tokens=0, cost_usd=spent)
        return quality, spent

    def _current(self, gateway: Gateway) -> LLMJudge:
        """Return the judge over the backends in effect; what it knows outlives a reload of the pool."""
        name = self.settings.model
        if self._judge is None:
            self._judge = self._make(
                gateway.backends[name],
                name=name,
                price=gateway.cards[name].price,
                rubric=self._rubric,
                parameters=self.settings.parameters,
                timeouts=self._timeouts(gateway, name),
            )
        self._judge.backend, self._judge.price = gateway.backends[name], gateway.cards[name].price
        return self._judge

    def _timeouts(self, gateway: Gateway, name: str) -> Timeouts:
        given, most = gateway.timeouts[name], self.settings.timeout_s
        return Timeouts(given.connect_s, given.first_byte_s, given.between_chunks_s, min(given.total_s, most))

    def _against_costs(self, gateway: Gateway, call: Call) -> float:
        price = gateway.cards[self.settings.against or ""].price
        return price.cost_usd(call.chat.routing.prompt_tokens, _LIKELY_OUTPUT_TOKENS)

    async def _other_answer(self, gateway: Gateway, call: Call) -> tuple[str, float]:
        name = self.settings.against or ""
        body = {key: value for key, value in call.chat.body.items() if key not in _NOT_SENT}
        answer = await gateway.backends[name].complete(body, timeouts=self._timeouts(gateway, name))
        heard = HeardAnswer((), judged=True, max_bytes=len(answer.body))
        heard.whole(answer.body)
        text = heard.text()
        if text is None:
            raise BackendStreamError(f"{name}: the answer to compare with has no text", model=name)
        return text, gateway.cards[name].price.cost_of(usage_from_body(answer.body)) or 0.0


def conversation(body: Mapping[str, Any], *, otherwise: str) -> str:
    """Return a chat as text: ``role: what was said``, message by message; `otherwise` where it is none."""
    messages: Sequence[Mapping[str, Any]] = body.get("messages") or ()
    said = [f"{message.get('role', '')}: {_said(message.get('content'))}" for message in messages]
    return "\n\n".join(said) or otherwise


def _said(content: object) -> str:
    if isinstance(content, list):
        parts = [part.get("text") or f"[{part.get('type', 'part')}]" for part in content if isinstance(part, Mapping)]
        return "\n".join(map(str, parts))
    return content if isinstance(content, str) else ""
