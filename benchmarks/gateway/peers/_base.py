"""What every peer offers."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from benchmarks.gateway.processes import ManagedProcess

_INSTALL_S = 1200
_LAST_LINES = 400


class PeerAbsentError(Exception):
    """A peer cannot take part; the message says why."""


@dataclass(frozen=True, slots=True)
class PeerPlace:
    """Where a peer runs.

    Attributes
    ----------
    upstream_port : int
        Of the echo.
    folder : Path
        For its configuration, log and data; empty before.
    cache : Path
        Where installed programs are kept between runs.
    source : Path
        The checkout whose gateway is measured.
    core : int or None
        The only core that it may use.
    install : bool
        Whether missing programs may be installed.
    """

    upstream_port: int
    folder: Path
    cache: Path
    source: Path
    core: int | None = None
    install: bool = True

    @property
    def upstream(self) -> str:
        """Base URL of the echo."""
        return f"http://127.0.0.1:{self.upstream_port}/v1"


@dataclass
class RunningPeer:
    """A peer that answers.

    Attributes
    ----------
    port : int
        Where.
    model : str
        What is asked for.
    process : ManagedProcess or None
        None where there is no gateway.
    version : str
        Of the program.
    headers : mapping
        Sent with every request.
    exact : bool
        Whether answers are the upstream's own bytes.
    notes : mapping of str to bool
        What is on and off in it.
    stages_url : str
        Where it counts the time of its stages, "" where it does not.
    """

    port: int
    model: str
    process: ManagedProcess | None
    version: str
    headers: Mapping[str, str] = field(default_factory=dict)
    exact: bool = True
    notes: Mapping[str, bool] = field(default_factory=dict)
    stages_url: str = ""


class Peer(Protocol):
    """Something that can be put between clients and the upstream."""

    @property
    def name(self) -> str:
        """On the command line and in tables."""
        ...

    @property
    def description(self) -> str:
        """For the table's legend."""
        ...

    def start(self, place: PeerPlace) -> RunningPeer:
        """Start it and wait until it answers.

        Raises
        ------
        PeerAbsentError
            If it is not installed and cannot be.
        StartError
            If it does not start.
        """
        ...


def install(command: Sequence[str], *, what: str) -> None:
    """Run an installer.

    Raises
    ------
    PeerAbsentError
        If it fails.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_S, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerAbsentError(f"{what} cannot be installed: {error}") from error
    if done.returncode:
        raise PeerAbsentError(f"{what} cannot be installed: {(done.stderr or done.stdout).strip()[-_LAST_LINES:]}")
