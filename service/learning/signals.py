"""What judges answers once they are given: verifiers, the judge, and what clients do next. Nobody waits for it."""

from __future__ import annotations

import asyncio
import logging
import threading
import zlib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from llmrouter.exceptions import BackendError, ConfigError, LLMRouterError, SignalError
from llmrouter.outcomes import Feedback
from llmrouter.types import CHARACTERS_PER_TOKEN
from service.learning.answer import Check, HeardAnswer
from service.learning.implicit import ImplicitSignals
from service.learning.judging import GatewayJudge
from service.learning.judging_calls import conversation
from service.limits.refusals import LimitExceededError

if TYPE_CHECKING:
    from llmrouter.types import Outcome
    from llmrouter.verifiers import VerifierProcess
    from service.call import Call
    from service.gateway import Gateway
    from service.learning.implicit_shared import Asked
    from service.learning.settings import LearningSettings
    from service.learning.signal_settings import JudgeSettings, VerifierSettings
    from service.redis_link import RedisLink
    from service.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")

VERIFIER, JUDGE, IMPLICIT = "verifier", "judge", "implicit"
_UNIT_TESTS, _JSON_SCHEMA = "unit_tests", "json_schema"
_UNIT_TESTS_LIMIT_S = 75.0
_CLOSE_S = 5.0
_MOST_BYTES = 64 * 1024 * 1024
_HASHES = 2**32
_KEPT = frozenset({"hit", "semantic"})


class Signals:
    """Turn answers into judgements, off the request path: bounded queues, few workers, nothing is waited for.

    Parameters
    ----------
    settings : Settings
        The configuration.

    Raises
    ------
    ConfigError
        If the judge or a verifier's parameters are wrong, or unit tests are wanted and there is no sandbox for them.
    MissingExtraError
        If a configured verifier needs a package that is not installed.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = learning = settings.learning
        verify = learning.verify
        self._configured = tuple(learning.verifiers)
        check_signals(settings)
        self._judge = None if learning.judge is None else GatewayJudge(learning.judge)
        implicit = learning.implicit
        self._implicit = ImplicitSignals(implicit) if implicit is not None and implicit.enabled else None
        self._threads = ThreadPoolExecutor(verify.processes, thread_name_prefix="verifier")
        self._own = threading.local()
        self._processes: list[VerifierProcess] = []
        self._checks: _Queue[tuple[Gateway, str, HeardAnswer]] = _Queue(
            self._check_all, workers=verify.processes, longest=verify.max_queue
        )
        self._to_judge: _Queue[tuple[Gateway, Call, HeardAnswer]] = _Queue(
            self._judge_one,
            workers=1 if learning.judge is None else learning.judge.concurrency,
            longest=verify.max_queue,
        )

    def listen(self, call: Call) -> HeardAnswer | None:
        """Return what takes down the answer that a call is about to get, None where nothing is to judge it."""
        asked = call.chat.control.verify
        if asked is None and not self._configured and self._judge is None:
            return None
        checks = self._checks_of(call, asked)
        judge = self._judge
        judged = judge is not None and _drawn(call.request_id, judge.settings.share) and judge.wants(call)
        if not checks and not judged:
            return None
        return HeardAnswer(checks, judged=judged, max_bytes=self.settings.verify.max_answer_bytes)

    def finished(self, gateway: Gateway, call: Call, outcome: Outcome) -> None:
        """Take in a request that has ended; its outcome is on the way to the log. Never raises."""
        try:
            self._finished(gateway, call, outcome)
        except Exception:
            logger.exception("request %s: a fault in judging its answer", call.request_id)

    def _finished(self, gateway: Gateway, call: Call, outcome: Outcome) -> None:
        heard = call.heard
        if heard is not None and outcome.status == "ok" and outcome.cache not in _KEPT:
            if heard.checks and not self._checks.put((gateway, call.request_id, heard), size=heard.size):
                gateway.telemetry.signal(VERIFIER, "dropped")
            asked = call.chat.routing.prompt_tokens * CHARACTERS_PER_TOKEN
            if heard.judged and not self._to_judge.put((gateway, call, heard), size=heard.size + asked):
                gateway.telemetry.signal(JUDGE, "dropped")
        if self._implicit is not None:
            for feedback in self._implicit.finished(call, outcome):
                self._checks.spawn(self._store(gateway, IMPLICIT, feedback))
            if (repeat := self._implicit.asked(call, outcome)) is not None:
                self._repeated(gateway, self._implicit, repeat, outcome)

    def _repeated(self, gateway: Gateway, implicit: ImplicitSignals, asked: Asked, outcome: Outcome) -> None:
        """Judge the earlier answer that a request asks for again."""
        if (link := gateway.link) is not None:
            self._checks.spawn(self._repeated_anywhere(gateway, link, implicit, asked, outcome))
        elif (feedback := implicit.retried(asked, outcome)) is not None:
            self._checks.spawn(self._store(gateway, IMPLICIT, feedback))

    async def _repeated_anywhere(
        self, gateway: Gateway, link: RedisLink, implicit: ImplicitSignals, asked: Asked, outcome: Outcome
    ) -> None:
        try:
            feedback = await implicit.retried_anywhere(link, asked, outcome)
        except Exception:
            logger.exception("request %s: a fault in looking for what it repeats", outcome.request_id)
            return
        if feedback is not None:
            await self._store(gateway, IMPLICIT, feedback)

    async def aclose(self) -> None:
        """Let what is under way end, for some seconds, and stop the processes."""
        await asyncio.gather(self._checks.aclose(), self._to_judge.aclose())
        for process in self._processes:
            await asyncio.to_thread(process.close)
        self._threads.shutdown(wait=False, cancel_futures=True)

    # Verifiers

    def _checks_of(self, call: Call, asked: Any) -> tuple[Check, ...]:
        checks = []
        if asked is not None:
            # A request that says what is right speaks for its key, not for the gateway.
            by = call.principal.key_id or ""
            checks.append(Check(asked, f"verifier:{asked['kind']}", self.settings.verify.weight, by))
        for configured in self._configured:
            if configured.teams and call.principal.team not in configured.teams:
                continue
            if (spec := _spec_for(configured, call)) is not None and _drawn(call.request_id, configured.share):
                source = f"verifier:{configured.name or configured.kind}"
                if all(check.source != source for check in checks):
                    checks.append(Check(spec, source, configured.weight))
        return tuple(checks)

    async def _check_all(self, job: tuple[Gateway, str, HeardAnswer]) -> None:
        gateway, request_id, heard = job
        loop = asyncio.get_running_loop()
        for check in heard.checks:
            try:
                quality = await loop.run_in_executor(self._threads, self._verify, check, heard)
            except SignalError as error:
                gateway.telemetry.signal(VERIFIER, "failed")
                logger.warning("request %s: no verdict of %s: %s", request_id, check.source, error)
                continue
            if quality is None:
                gateway.telemetry.signal(VERIFIER, "skipped")
                continue
            feedback = Feedback(request_id, quality, check.source, check.weight, by=check.by)
            await self._store(gateway, VERIFIER, feedback)

    def _verify(self, check: Check, heard: HeardAnswer) -> float | None:
        """Return a verdict's quality, None where there is no text to judge; in a thread with a process of its own."""
        from llmrouter.verifiers import VerifierProcess

        text = heard.text()
        if text is None:
            return None
        process: VerifierProcess | None = getattr(self._own, "process", None)
        if process is None:
            process = self._own.process = VerifierProcess()
            self._processes.append(process)
        limit_s = _UNIT_TESTS_LIMIT_S if check.spec["kind"] == _UNIT_TESTS else self.settings.verify.limit_s
        return process.verify(check.spec, text, limit_s=limit_s).quality

    # The judge

    async def _judge_one(self, job: tuple[Gateway, Call, HeardAnswer]) -> None:
        gateway, call, heard = job
        judge = self._judge
        answer = await asyncio.to_thread(heard.text)
        if judge is None or not answer:
            gateway.telemetry.signal(JUDGE, "skipped")
            return
        question = conversation(call.chat.body, otherwise=call.chat.routing.text)
        try:
            quality, cost = await judge.judge(gateway, call, question, answer)
        except LimitExceededError as error:
            gateway.telemetry.signal(JUDGE, "refused" if error.kind == "model" else "budget")
            return
        except (BackendError, KeyError) as error:
            gateway.telemetry.signal(JUDGE, "failed")
            logger.warning("request %s: no verdict of %s: %s", call.request_id, judge.source, error)
            return
        gateway.telemetry.spent(judge.settings.model, JUDGE, cost)
        if quality is None:
            gateway.telemetry.signal(JUDGE, "unclear")
            return
        feedback = Feedback(call.request_id, quality, judge.source, judge.settings.weight, cost_usd=cost)
        await self._store(gateway, JUDGE, feedback)

    async def _store(self, gateway: Gateway, kind: str, feedback: Feedback) -> None:
        try:
            await gateway.judge([feedback])
        except LLMRouterError as error:
            gateway.telemetry.signal(kind, "failed")
            logger.warning("request %s: the judgement of %s is lost: %s", feedback.request_id, feedback.source, error)
        else:
            gateway.telemetry.signal(kind, "stored")


class _Queue(Generic[T]):
    """A queue, bounded in jobs and bytes, and the tasks that work it off; both begin with the first job."""

    def __init__(self, work: Callable[[T], Awaitable[None]], *, workers: int, longest: int) -> None:
        self._work = work
        self._workers = workers
        self._longest = longest
        self._waiting: asyncio.Queue[tuple[T, int]] | None = None
        self._bytes = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._beside: set[asyncio.Task[None]] = set()
        self._closing = False

    def put(self, job: T, *, size: int = 0) -> bool:
        """Hand over a job that holds so many bytes; return whether there was room."""
        if self._closing or self._bytes + size > _MOST_BYTES:
            return False
        if self._waiting is None:
            self._waiting = asyncio.Queue(self._longest)
            self._tasks = [asyncio.create_task(self._run(self._waiting)) for _ in range(self._workers)]
        try:
            self._waiting.put_nowait((job, size))
        except asyncio.QueueFull:
            return False
        self._bytes += size
        return True

    def spawn(self, work: Any) -> None:
        """Run something small beside the queue."""
        task = asyncio.create_task(work)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)

    async def aclose(self) -> None:
        """Work off what waits, for some seconds."""
        self._closing = True
        if self._beside:
            await asyncio.wait(self._beside, timeout=_CLOSE_S)
        if self._waiting is not None:
            try:
                await asyncio.wait_for(self._waiting.join(), _CLOSE_S)
            except TimeoutError:
                logger.warning("%d answers are not judged: the gateway is stopping", self._waiting.qsize())
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, waiting: asyncio.Queue[tuple[T, int]]) -> None:
        while True:
            job, size = await waiting.get()
            try:
                await self._work(job)
            except Exception:
                logger.exception("a fault in judging an answer")
            finally:
                self._bytes -= size
                waiting.task_done()


def signal_sections(settings: Settings) -> tuple[Any, ...]:
    """Return the parts of a configuration that `Signals` are built from."""
    learning = settings.learning
    return (learning.verify, learning.verifiers, learning.judge, learning.implicit)


def check_signals(settings: Settings) -> None:
    """Check what a configuration says of verifiers and the judge, and that this machine can run them.

    Raises
    ------
    ConfigError
        If it cannot be used.
    MissingExtraError
        If a configured verifier needs a package that is not installed.
    """
    if settings.learning.judge is not None:
        _check_judge(settings, settings.learning.judge)
    if settings.learning.verifiers or _UNIT_TESTS in settings.learning.verify.requests:
        _check_verifiers(settings.learning)


def _check_judge(settings: Settings, judge: JudgeSettings) -> None:
    chats = [model.name for model in settings.pool if model.generates]
    path = "learning.judge"
    if judge.mode == "pairwise" and judge.against is None:
        raise ConfigError(
            f"{path}.against is required: the model whose answers are compared with", path=f"{path}.against"
        )
    for name, model in (("model", judge.model), ("against", judge.against)):
        if model is not None and model not in chats:
            known = ", ".join(chats)
            raise ConfigError(
                f"{path}.{name} {model!r} is no model of the pool that answers chats: {known}", path=f"{path}.{name}"
            )
    if settings.server.workers > 1 and settings.redis is None:
        raise ConfigError(
            f"{path}: {settings.server.workers} workers would each spend usd_per_day; configure redis, or set "
            "server.workers: 1",
            path=f"{path}.usd_per_day",
        )


def _check_verifiers(settings: LearningSettings) -> None:
    from llmrouter.verifiers import create_verifier, sandbox_problem

    names: set[str] = set()
    for i, verifier in enumerate(settings.verifiers):
        path = f"learning.verifiers[{i}]"
        name = verifier.name or verifier.kind
        if name in names:
            raise ConfigError(f"{path}: another verifier is named {name!r}; give each its name", path=f"{path}.name")
        names.add(name)
        if verifier.kind == _JSON_SCHEMA and "schema" not in verifier.parameters:
            verifier = verifier.model_copy(update={"parameters": {**verifier.parameters, "schema": {}}})
        try:
            create_verifier({**verifier.parameters, "kind": verifier.kind})
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}", path=f"{path}.parameters") from error
    runs_code = any(verifier.kind == _UNIT_TESTS for verifier in settings.verifiers)
    if (runs_code or _UNIT_TESTS in settings.verify.requests) and (problem := sandbox_problem()):
        path = "learning.verifiers" if runs_code else "learning.verify.requests"
        raise ConfigError(f"unit_tests: {problem}", path=path)


def _spec_for(verifier: VerifierSettings, call: Call) -> dict[str, Any] | None:
    """Return a configured verifier's specification for a request, None where it has nothing to say."""
    parameters = verifier.parameters
    if verifier.kind == _JSON_SCHEMA and "schema" not in parameters:
        wanted = (call.chat.body.get("response_format") or {}).get("json_schema")
        schema = wanted.get("schema") if isinstance(wanted, dict) else None
        if not isinstance(schema, dict):
            return None
        parameters = {**parameters, "schema": schema}
    return {**parameters, "kind": verifier.kind}


def _drawn(request_id: str, share: float) -> bool:
    """Return whether a request falls into a share of all; the same for every one who asks."""
    return share >= 1.0 or zlib.crc32(request_id.encode()) / _HASHES < share
