"""How long a function of a layer takes: under a CUDA graph on a GPU, by the wall clock on a CPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch


def seconds_a_call(calls: Sequence[Callable[[], Any]], device: str, *, rounds: int = 10) -> float:
    """Return the median over rounds of the mean seconds of one call.

    Parameters
    ----------
    calls : sequence of callable
        Run one after the other in each round. Several with different inputs keep a GPU's cache from answering for its
        memory.
    device : str
        A torch device. On "cuda" the calls are captured in a graph, so that launches from Python do not count.
    rounds : int
        Rounds measured, after a warm-up.

    Raises
    ------
    RuntimeError
        If the calls cannot be captured, for instance because one waits for the GPU.
    """
    if torch.device(device).type == "cuda":
        return _graph_seconds(calls, rounds)
    for call in calls:
        call()
    taken = []
    for _ in range(rounds):
        begun = time.perf_counter()
        for call in calls:
            call()
        taken.append((time.perf_counter() - begun) / len(calls))
    return sorted(taken)[len(taken) // 2]


def _graph_seconds(calls: Sequence[Callable[[], Any]], rounds: int) -> float:
    # torch leaves its streams and events without types
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # compiles and warms up, as capture must not
        for _ in range(3):
            for call in calls:
                call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    taken: list[float] = []
    for _ in range(rounds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        taken.append(begin.elapsed_time(end) / 1e3 / len(calls))
    return sorted(taken)[len(taken) // 2]
