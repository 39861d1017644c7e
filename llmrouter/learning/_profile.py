"""Profile a new model: ask it the prompts that tell most, within a budget, and have the answers judged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import orjson

from llmrouter._completion import PRIOR_OUTPUT_TOKENS
from llmrouter.engine import TrainedRouters
from llmrouter.evaluation import choose_prompts
from llmrouter.exceptions import (
    BackendConnectError,
    BackendError,
    BackendStatusError,
    BackendTimeoutError,
    ConfigError,
    DataError,
    LLMRouterError,
)
from llmrouter.learning._answers_kept import AnswerFile, KeptAnswer
from llmrouter.learning._scorers import Question, References, Scorer, text_hash
from llmrouter.outcomes import OutcomeTable
from llmrouter.pool import Backend, Timeouts, usage_from_body
from llmrouter.types import FloatArray, IntArray, Price, estimate_tokens

_ATTEMPTS = 3
_FIRST_PAUSE_S = 0.5
_TOO_MANY_REQUESTS, _SERVER_ERROR = 429, 500
_MARGIN_OF_TOKENS = 1.5
MOST_FAILURES = 0.5
"""Share of the prompts that may fail before a profile is no profile."""


@dataclass(frozen=True)
class ProfilePlan:
    """What would be asked, and what it would cost.

    Attributes
    ----------
    rows : array of int, shape (N,)
        Rows of the table.
    questions : tuple of Question, length N
        In the same order.
    expected_usd : float
        Expected cost of the calls, judging left out.
    most_each_usd : tuple of float, length N
        What each costs at most, if its answer is as long as it may be.
    """

    rows: IntArray
    questions: tuple[Question, ...]
    expected_usd: float
    most_each_usd: tuple[float, ...]

    @property
    def most_usd(self) -> float:
        """What all of them cost at most."""
        return sum(self.most_each_usd)


@dataclass(frozen=True)
class ProfileProgress:
    """How far a profile is: prompts done (of `total`), failed ones among them, dollars spent."""

    done: int
    total: int
    failed: int
    spent_usd: float


@dataclass(frozen=True)
class ProfileResult:
    """What a profile found.

    Attributes
    ----------
    answers : tuple of (KeptAnswer or None), length N
        In the order of the questions; None where the model did not answer or the budget ended.
    spent_usd : float
        For calls and judging, by this run.
    failures : tuple of str
        What went wrong, one line a prompt.
    over_budget : int
        Prompts that were not asked because the budget would not have covered them.
    """

    answers: tuple[KeptAnswer | None, ...]
    spent_usd: float
    failures: tuple[str, ...] = ()
    over_budget: int = 0

    @property
    def scored(self) -> int:
        """How many answers have a score."""
        return sum(kept is not None and kept.quality is not None for kept in self.answers)


@dataclass(frozen=True)
class ProfileSettings:
    """How a model is profiled.

    Attributes
    ----------
    prompts : int
        How many.
    max_usd : float
        No call is made that could take the costs beyond it.
    max_output_tokens : int
        Limit on every answer.
    concurrency : int
        Calls at the same time.
    limit_field : str
        Under which name the upstream takes that limit.
    body : mapping
        Further fields of the requests, e.g. ``{"temperature": 0}``.
    timeouts : Timeouts
        On one call.
    seed : int
        Of the choice of prompts.
    """

    prompts: int = 50
    max_usd: float = 1.0
    max_output_tokens: int = 1024
    concurrency: int = 4
    limit_field: str = "max_tokens"
    body: Mapping[str, Any] = field(default_factory=dict)
    timeouts: Timeouts = field(default_factory=Timeouts)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("prompts", "max_output_tokens", "concurrency"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"must be a whole number >= 1; got {value!r}", path=name)
        if not self.max_usd >= 0:
            raise ConfigError(f"must be a number >= 0; got {self.max_usd!r}", path="max_usd")


def plan_profile(
    trained: TrainedRouters,
    table: OutcomeTable,
    X: FloatArray,
    price: Price,
    settings: ProfileSettings,
    *,
    references: References | None = None,
    only_referenced: bool = False,
) -> ProfilePlan:
    """Choose the prompts: they cover the log and tell models apart (see `llmrouter.evaluation.choose_prompts`).

    Parameters
    ----------
    trained : TrainedRouters
        What is known of the present models.
    table : OutcomeTable
        Prompts with texts and with outcomes of the present models, NaN where not observed.
    X : array of shape (n, d)
        Their embeddings.
    price : Price
        Of the new model.
    settings : ProfileSettings
        How many, how long.
    references : References, optional
        How answers are checked.
    only_referenced : bool
        Choose only prompts that have a reference: a scorer without an opinion of its own needs one.

    Raises
    ------
    DataError
        If no prompt is left to choose from.
    """
    known = references or References()
    found = [
        None if text is None else known.of(prompt_id, text)
        for prompt_id, text in zip(table.prompt_ids, table.texts, strict=True)
    ]
    seen: set[str] = set()
    usable = []
    for row, text in enumerate(table.texts):
        # Equal prompts would be paid for twice.
        if text and text not in seen and (found[row] is not None or not only_referenced):
            seen.add(text)
            usable.append(row)
    if not usable:
        what = "a text and a reference answer" if only_referenced else "a text"
        raise DataError(
            f"{table.name or 'the table'} has no prompt with {what}; give --data with texts, --references FILE, or a "
            "scorer that needs no reference (judge:MODEL, package.module:function)"
        )
    rows = np.array(usable, dtype=np.int64)
    candidates = _columns_of(table.select(rows), trained)
    picked = rows[choose_prompts(candidates, X[rows], router=trained.quality, n=settings.prompts, seed=settings.seed)]
    questions = tuple(Question(table.prompt_ids[row], table.texts[row] or "", found[row]) for row in picked.tolist())
    tokens = list(trained.mean_output_tokens.values())
    output = min(sum(tokens) / len(tokens) if tokens else PRIOR_OUTPUT_TOKENS, settings.max_output_tokens)
    ratios = list(trained.token_ratio.values()) or [1.0]
    typical, largest = sum(ratios) / len(ratios), max(1.0, *ratios)
    estimated = [estimate_tokens(question.text) for question in questions]
    expected = sum(price.cost_usd(typical * count, output) for count in estimated)
    # Its tokenizer is not known yet, so the most wasteful of the known ones counts, with a margin.
    most = tuple(price.cost_usd(_MARGIN_OF_TOKENS * largest * count, settings.max_output_tokens) for count in estimated)
    return ProfilePlan(picked, questions, expected, most)


async def run_profile(
    plan: ProfilePlan,
    backend: Backend,
    price: Price,
    scorer: Scorer,
    settings: ProfileSettings,
    *,
    kept: AnswerFile | None = None,
    progress: Callable[[ProfileProgress], None] | None = None,
) -> ProfileResult:
    """Ask the questions and have the answers judged.

    What is kept already is not asked again; an answer without a score of this scorer is judged again. Failures are no
    judgements: a prompt whose call fails (after `_ATTEMPTS`) stays open.

    Parameters
    ----------
    plan : ProfilePlan
        From `plan_profile`.
    backend : Backend
        The new model.
    price : Price
        Its price.
    scorer : Scorer
        Judges.
    settings : ProfileSettings
        Budget and limits.
    kept : AnswerFile, optional
        Gets every answer as it comes.
    progress : callable, optional
        Called after every prompt.

    Raises
    ------
    DataError
        If more than `MOST_FAILURES` of the prompts failed; what succeeded is kept.
    """
    run = _Run(plan, backend, price, scorer, settings, AnswerFile(None) if kept is None else kept, progress)
    return await run.result()


class _Run:
    """One run of a profile: its budget and what came back."""

    def __init__(
        self,
        plan: ProfilePlan,
        backend: Backend,
        price: Price,
        scorer: Scorer,
        settings: ProfileSettings,
        kept: AnswerFile,
        progress: Callable[[ProfileProgress], None] | None,
    ) -> None:
        self._plan, self._backend, self._price, self._scorer = plan, backend, price, scorer
        self._settings, self._kept, self._progress = settings, kept, progress
        self._spent = 0.0
        self._reserved = 0.0
        self._done = 0
        self._over_budget = 0
        self._failures: list[str] = []

    async def result(self) -> ProfileResult:
        gate = asyncio.Semaphore(self._settings.concurrency)

        async def one(question: Question, bound: float) -> KeptAnswer | None:
            async with gate:
                found = await self._one(question, bound)
            self._done += 1
            if self._progress is not None:
                total = len(self._plan.questions)
                self._progress(ProfileProgress(self._done, total, len(self._failures), self._spent))
            return found

        async with asyncio.TaskGroup() as group:
            pairs = zip(self._plan.questions, self._plan.most_each_usd, strict=True)
            tasks = [group.create_task(one(question, bound)) for question, bound in pairs]
        answers = tuple(task.result() for task in tasks)
        asked = len(answers) - self._over_budget
        if asked and len(self._failures) > MOST_FAILURES * asked:
            raise DataError(
                f"{len(self._failures)} of {asked} prompts failed, so this is no profile; what succeeded is kept, and "
                f"a second run goes on from there. The first failure: {self._failures[0]}"
            )
        return ProfileResult(answers, self._spent, tuple(self._failures), self._over_budget)

    async def _one(self, question: Question, bound: float) -> KeptAnswer | None:
        digest = text_hash(question.text)
        kept = self._kept.get(digest)
        if kept is None:
            if self._spent + self._reserved + bound > self._settings.max_usd:
                self._over_budget += 1
                return None
            self._reserved += bound
            try:
                kept = await self._asked(question, digest)
            except BackendError as error:
                self._failures.append(f"{question.prompt_id}: {error}")
                return None
            finally:
                self._reserved -= bound
            # A provider that does not count is charged for what the call may have cost at most.
            self._spent += bound if kept.cost_usd is None else kept.cost_usd
            await asyncio.to_thread(self._kept.put, kept)
        if kept.quality is not None and kept.scorer == self._scorer.name:
            return kept
        kept = kept.unjudged()
        if self._spent > self._settings.max_usd:
            self._over_budget += 1
            return kept
        try:
            score = await self._scorer.score(question, kept.answer)
        except LLMRouterError as error:
            self._failures.append(f"{question.prompt_id}: not judged: {error}")
            return kept
        if score is not None:
            self._spent += score.cost_usd
            kept = replace(kept, quality=score.quality, scorer=self._scorer.name, scoring_usd=score.cost_usd)
            await asyncio.to_thread(self._kept.put, kept)
        return kept

    async def _asked(self, question: Question, digest: str) -> KeptAnswer:
        body = {
            **self._settings.body,
            "messages": [{"role": "user", "content": question.text}],
            self._settings.limit_field: self._settings.max_output_tokens,
        }
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                response = await self._backend.complete(body, timeouts=self._settings.timeouts)
                break
            except BackendError as error:
                if attempt == _ATTEMPTS or not _may_pass(error):
                    raise
                await asyncio.sleep(_FIRST_PAUSE_S * 2 ** (attempt - 1))
        usage = usage_from_body(response.body)
        return KeptAnswer(
            prompt_id=question.prompt_id,
            text_sha256=digest,
            answer=answer_text(response.body),
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cost_usd=self._price.cost_of(usage),
        )


def answer_text(body: bytes) -> str:
    """Return the text of a chat completion; "" where it has none, such as a call of a tool."""
    try:
        choices = orjson.loads(body)["choices"]
        content = choices[0]["message"]["content"]
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return ""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _may_pass(error: BackendError) -> bool:
    if isinstance(error, BackendStatusError):
        return error.status == _TOO_MANY_REQUESTS or error.status >= _SERVER_ERROR
    return isinstance(error, BackendConnectError | BackendTimeoutError)


def _columns_of(table: OutcomeTable, trained: TrainedRouters) -> OutcomeTable:
    """Return the table with exactly the artifact's columns; one that was never logged is all NaN."""
    present = [model for model in trained.models if model in table.models]
    if tuple(present) == trained.models == table.models:
        return table
    return aligned(table, trained.models)


def aligned(table: OutcomeTable, models: Sequence[str]) -> OutcomeTable:
    """Return a table with the given columns in their order, NaN where the table lacks a model."""
    n = len(table)
    fields = ("quality", "cost_usd", "input_tokens", "output_tokens", "propensity")
    columns = {name: j for j, name in enumerate(table.models)}
    arrays: dict[str, Any] = {}
    for field_name in fields:
        values = np.full((n, len(models)), np.nan)
        for j, name in enumerate(models):
            if name in columns:
                values[:, j] = getattr(table, field_name)[:, columns[name]]
        arrays[field_name] = values
    prices = tuple(table.prices[columns[name]] if name in columns else None for name in models)
    return replace(table, models=tuple(models), prices=prices, weight=None, **arrays)
