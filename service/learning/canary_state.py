"""How a trial stands, told to every worker and replica: in a small file beside the artifacts, or in Redis."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from llmrouter.exceptions import LLMRouterError

if TYPE_CHECKING:
    from service.redis_link import RedisLink

Status = Literal["running", "rolled_back", "promoted"]

FILE_NAME = ".canary.json"

_KEPT_S = 180 * 86_400


class TrialStateError(LLMRouterError):
    """The state of a trial cannot be read or written."""


@dataclass(frozen=True, slots=True)
class TrialState:
    """How the trial of one artifact stands.

    Attributes
    ----------
    artifact_id : str
        The canary.
    status : {"running", "rolled_back", "promoted"}
        Only a running canary is asked.
    since : float
        Seconds since the epoch when the trial began; only what came later is compared.
    cursor : str
        The last judgement in the log before it.
    changed : float
        When the status became what it is.
    reason, by : str
        Why, and through whom: ``guard`` or a key.
    """

    artifact_id: str
    status: Status
    since: float
    cursor: str = ""
    changed: float = 0.0
    reason: str = ""
    by: str = ""


class TrialStore(Protocol):
    """Where the state is."""

    async def read(self, artifact_id: str, /) -> TrialState | None:
        """Return the state of an artifact's trial, None where none has begun.

        Raises
        ------
        TrialStateError
            If it cannot be read.
        """
        ...

    async def write(self, state: TrialState, /, *, first: bool = False) -> TrialState:
        """Store a state and return what is stored; `first` leaves one of the same artifact as it is.

        Raises
        ------
        TrialStateError
            If it cannot be stored.
        """
        ...


class FileTrialStore:
    """One JSON file, replaced by rename; it holds the state of the last few artifacts.

    Parameters
    ----------
    path : Path
        The file; its folder must be there.
    """

    _MOST = 20

    def __init__(self, path: Path) -> None:
        self.path = path

    async def read(self, artifact_id: str, /) -> TrialState | None:
        """Return the state of an artifact's trial."""
        return await asyncio.to_thread(lambda: self._read().get(artifact_id))

    async def write(self, state: TrialState, /, *, first: bool = False) -> TrialState:
        """Store a state."""
        return await asyncio.to_thread(self._write, state, first)

    def _read(self) -> dict[str, TrialState]:
        try:
            return {key: _parsed(value) for key, value in json.loads(self.path.read_bytes()).items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise TrialStateError(f"{self.path} cannot be read ({error}); remove it to begin the trial anew") from error

    def _write(self, state: TrialState, first: bool) -> TrialState:
        try:
            with self._locked():
                states = self._read()
                if first and state.artifact_id in states:
                    return states[state.artifact_id]
                states.pop(state.artifact_id, None)
                states[state.artifact_id] = state
                kept = list(states.items())[-self._MOST :]
                self._replace(json.dumps({key: asdict(value) for key, value in kept}, indent=1))
        except OSError as error:
            raise TrialStateError(
                f"{self.path} cannot be written ({error.strerror or error}); set learning.canary.state to a file that "
                "all workers can write"
            ) from error
        return state

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self.path.with_name(self.path.name + ".lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _replace(self, text: str) -> None:
        handle, name = tempfile.mkstemp(prefix=self.path.name, dir=self.path.parent)
        try:
            with os.fdopen(handle, "w") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(self.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


class RedisTrialStore:
    """One key an artifact.

    Parameters
    ----------
    link : RedisLink
        The connection.
    """

    def __init__(self, link: RedisLink) -> None:
        self._link = link

    async def read(self, artifact_id: str, /) -> TrialState | None:
        """Return the state of an artifact's trial."""
        return await self._run(artifact_id, None, first=False)

    async def write(self, state: TrialState, /, *, first: bool = False) -> TrialState:
        """Store a state."""
        return await self._run(state.artifact_id, state, first=first) or state

    async def _run(self, artifact_id: str, state: TrialState | None, *, first: bool) -> TrialState | None:
        from service.redis_link import RedisUnavailableError

        key = self._link.key("canary", artifact_id)

        async def job(redis: Any) -> bytes | None:
            if state is not None:
                await redis.set(key, json.dumps(asdict(state)), nx=first, ex=_KEPT_S)
            found: bytes | None = await redis.get(key)
            return found

        try:
            found = await self._link.run(job)
            return None if found is None else _parsed(json.loads(found))
        except RedisUnavailableError as error:
            raise TrialStateError(str(error)) from error
        except (ValueError, TypeError) as error:
            raise TrialStateError(f"the key {key} in Redis is damaged ({error}); delete it") from error


def _parsed(value: Mapping[str, Any]) -> TrialState:
    state = TrialState(**value)
    if state.status not in get_args(Status):
        raise ValueError(f"unknown status {state.status!r}")
    return state
