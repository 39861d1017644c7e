from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.limits.admission import Admission, OverloadedError
from service.limits.settings import AdmissionSettings


def admission(in_flight=1, queue=2, timeout_s=5.0, **options):
    return Admission(AdmissionSettings(max_in_flight=in_flight, max_queue=queue, queue_timeout_s=timeout_s), **options)


async def queued(door, count):
    for _ in range(count + 2):
        await asyncio.sleep(0)
    assert door.state().queued == count


async def test_a_free_slot_is_taken_without_giving_way():
    door = admission()
    entering = door.slot().__aenter__()
    with pytest.raises(StopIteration):
        entering.send(None)
    assert door.state().in_flight == 1


async def test_waiting_requests_enter_in_the_order_they_came():
    door, order = admission(queue=10), []

    async def request(i):
        async with door.slot():
            order.append(i)

    async with door.slot():
        tasks = [asyncio.create_task(request(i)) for i in range(5)]
        await queued(door, 5)
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]
    assert door.state()[:3] == (0, 0, 6)


async def test_a_full_queue_refuses_at_once():
    door = admission()
    async with door.slot():
        waiting = [asyncio.create_task(door.slot().__aenter__()) for _ in range(2)]
        await queued(door, 2)
        with pytest.raises(OverloadedError, match="1 requests under way, 2 waiting") as caught:
            await door.slot().__aenter__()
        assert (caught.value.status, caught.value.body["error"]["code"]) == (503, "overloaded")
        assert caught.value.headers["retry-after"] == "1"
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
    assert door.state()[:2] == (0, 0)


async def test_a_wait_ends():
    door = admission(timeout_s=0.01)
    async with door.slot():
        with pytest.raises(OverloadedError, match=r"no request ended within 0.01 s"):
            await door.slot().__aenter__()
        state = door.state()
        assert (state.queued, state.timed_out, state.refused) == (0, 1, 1)
    assert door.state().in_flight == 0


async def test_who_hangs_up_while_waiting_leaves_no_ghost():
    door = admission(queue=10)
    first = door.slot()
    await first.__aenter__()
    gone, stays = (asyncio.create_task(door.slot().__aenter__()) for _ in range(2))
    await queued(door, 2)
    gone.cancel()
    # Given back before the one that hung up has noticed.
    await first.__aexit__(None, None, None)
    slot = await stays
    assert gone.cancelled() or (await asyncio.wait([gone]), gone.cancelled())[1]
    assert door.state()[:2] == (1, 0)
    await slot.__aexit__(None, None, None)
    assert door.state().in_flight == 0


async def test_who_hangs_up_just_when_the_slot_came_passes_it_on():
    door = admission(queue=10)
    first = door.slot()
    await first.__aenter__()
    gone, stays = (asyncio.create_task(door.slot().__aenter__()) for _ in range(2))
    await queued(door, 2)
    await first.__aexit__(None, None, None)
    gone.cancel()
    slot = await stays
    await slot.__aexit__(None, None, None)
    await asyncio.wait([gone])
    assert door.state()[:2] == (0, 0)


async def test_a_slot_is_given_back_once():
    door = admission(in_flight=2)
    slot = door.slot()
    await slot.__aenter__()
    await slot.__aexit__(None, None, None)
    await slot.__aexit__(None, None, None)
    assert door.state().in_flight == 0


async def test_a_closing_gateway_serves_those_that_wait_and_sends_the_others_elsewhere():
    door = admission()
    first = door.slot()
    await first.__aenter__()
    waiting = asyncio.create_task(door.slot().__aenter__())
    await queued(door, 1)
    door.close()
    with pytest.raises(OverloadedError, match="stopping") as caught:
        await door.slot().__aenter__()
    assert (caught.value.status, caught.value.headers["connection"]) == (503, "close")
    await first.__aexit__(None, None, None)
    assert await waiting
    assert door.state().closed


async def test_retry_after_follows_what_was_done_recently():
    now = [0.0]
    door = admission(in_flight=1, queue=10, clock=lambda: now[0])
    for _ in range(20):  # two requests a second
        async with door.slot():
            now[0] += 0.5
    await door.slot().__aenter__()
    waiting = [asyncio.create_task(door.slot().__aenter__()) for _ in range(10)]
    await queued(door, 10)
    with pytest.raises(OverloadedError) as caught:
        await door.slot().__aenter__()
    assert caught.value.headers["retry-after"] == "6"
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)


@given(st.lists(st.tuples(st.sampled_from(["enter", "leave", "cancel", "run"]), st.integers(0, 99)), max_size=60))
@settings(deadline=None, max_examples=60)
def test_slots_are_neither_lost_nor_made(steps):
    async def scenario():
        door, tasks, holders = admission(in_flight=2, queue=3), [], []
        peak = 0

        async def request():
            nonlocal peak
            async with door.slot():
                released = asyncio.Event()
                holders.append(released)
                peak = max(peak, len(holders))
                try:
                    await released.wait()
                finally:
                    holders.remove(released)

        for what, which in steps:
            if what == "enter":
                tasks.append(asyncio.create_task(request()))
            elif what == "leave" and holders:
                holders[which % len(holders)].set()
            elif what == "cancel" and tasks:
                tasks[which % len(tasks)].cancel()
            else:
                await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert door.state()[:2] == (0, 0)
        assert peak <= 2

    asyncio.run(scenario())
