"""Traffic with known answers: every answer is checked, and the verdict goes back as feedback."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from benchmarks.learning._pocket_gateway import Exercise, PocketGateway
from llmrouter.learning import check_plain

SOURCE = "exercise-check"
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Asked:
    """One request.

    Attributes
    ----------
    at_s : float
        Seconds since the start of the traffic, when it was sent.
    model : str
        Who answered; "" for nobody.
    artifact : str
        Whose estimates were used.
    quality : float or None
        1 for a right answer, else 0; None if it failed.
    cost_usd : float
        As the gateway says.
    latency_s : float
        Until the whole answer was there.
    error : str
        What went wrong with the request or its feedback.
    """

    at_s: float
    model: str
    artifact: str
    quality: float | None
    cost_usd: float
    latency_s: float
    error: str = ""


@dataclass
class Traffic:
    """Asks exercises at random, at a constant rate, until it is stopped.

    Attributes
    ----------
    asked : list of Asked
        What came back, in order of the answers.
    """

    gateway: PocketGateway
    exercises: Sequence[Exercise]
    rate: float
    seed: int = 0
    asked: list[Asked] = field(default_factory=list)
    started: float = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Ask until `stop` is set, then wait for what is under way."""
        chance = random.Random(self.seed)
        headers = {"authorization": f"Bearer {self.gateway.client}"}
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        self.started = time.perf_counter()
        async with (
            aiohttp.ClientSession(self.gateway.url, headers=headers, timeout=timeout) as session,
            asyncio.TaskGroup() as group,
        ):
            number = 0
            while not stop.is_set():
                due = self.started + number / self.rate
                await asyncio.sleep(max(due - time.perf_counter(), 0.0))
                group.create_task(self._one(session, chance.choice(self.exercises)))
                number += 1

    def elapsed_s(self) -> float:
        """Return the seconds since the start."""
        return time.perf_counter() - self.started

    async def _one(self, session: aiohttp.ClientSession, exercise: Exercise) -> None:
        sent = self.elapsed_s()
        body = {"model": "auto", "messages": [{"role": "user", "content": exercise.prompt}], "temperature": 0}
        try:
            async with session.post("/v1/chat/completions", json=body) as response:
                answer: Any = await response.json()
                told = response.headers
                if response.status != 200:
                    self._failed(sent, f"{response.status}: {answer}")
                    return
            text = answer["choices"][0]["message"]["content"] or ""
            took = self.elapsed_s() - sent
            quality = check_plain(exercise.reference, text)
            judged = {"request_id": told["x-request-id"], "quality": quality, "source": SOURCE}
            async with session.post("/v1/feedback", json=judged) as response:
                error = "" if response.status == 202 else f"feedback {response.status}: {await response.text()}"
        except (aiohttp.ClientError, TimeoutError, KeyError, ValueError) as problem:
            self._failed(sent, f"{type(problem).__name__}: {problem}")
            return
        cost = float(told.get("x-llmrouter-cost", "nan"))
        model, artifact = told["x-llmrouter-model"], told.get("x-llmrouter-artifact", "")
        self.asked.append(Asked(sent, model, artifact, quality, cost, took, error))

    def _failed(self, sent: float, error: str) -> None:
        self.asked.append(Asked(sent, "", "", None, 0.0, self.elapsed_s() - sent, error))


class Administrator:
    """Asks the gateway's administration.

    Parameters
    ----------
    gateway : PocketGateway
        Whose.
    """

    def __init__(self, gateway: PocketGateway) -> None:
        self._gateway = gateway

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Return status and parsed answer."""
        headers = {"authorization": f"Bearer {self._gateway.admin}"}
        async with (
            aiohttp.ClientSession(self._gateway.url, headers=headers) as session,
            session.request(method, path, json=body) as response,
        ):
            return response.status, await response.json()

    async def job(self, method: str, path: str, body: Any = None, *, timeout_s: float = 300.0) -> Any:
        """Start a job, wait for its end, and return its state.

        Raises
        ------
        RuntimeError
            If it is refused, fails or takes longer.
        """
        status, state = await self.ask(method, path, body)
        if status != 202:
            raise RuntimeError(f"{method} {path}: {status} {state}")
        deadline = time.monotonic() + timeout_s
        while state["status"] == "running":
            if time.monotonic() > deadline:
                raise RuntimeError(f"the job {state['id']} takes longer than {timeout_s:g} s: {state}")
            await asyncio.sleep(0.2)
            _, state = await self.ask("GET", f"/admin/models/jobs/{state['id']}")
        if state["status"] != "succeeded":
            raise RuntimeError(f"the job {state['id']} {state['status']}: {state['error']}")
        return state

    async def until(self, condition: Callable[[Mapping[str, Any]], bool], *, timeout_s: float = 60.0) -> None:
        """Wait until what the gateway says of its pool (name -> entry) is as it should be: a reload comes after a job.

        Raises
        ------
        RuntimeError
            If it takes longer than `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            _, listed = await self.ask("GET", "/admin/models")
            if condition({entry["name"]: entry for entry in listed["data"]}):
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"the gateway did not take the change in within {timeout_s:g} s: {listed}")
            await asyncio.sleep(0.1)
