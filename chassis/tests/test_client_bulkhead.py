"""The bulkhead of calls to another service: who is admitted, who waits, and who is rejected."""

import asyncio
from collections.abc import Awaitable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chassis.client.bulkhead import Bulkhead, BulkheadFullError


async def complete(waits: Awaitable[None]) -> None:
    await waits


async def waiter(bulkhead: Bulkhead) -> asyncio.Task[None]:
    """A call that has begun to wait."""
    waits = bulkhead.enter()
    assert waits is not None
    task = asyncio.create_task(complete(waits))
    await asyncio.sleep(0)
    return task


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_calls_are_admitted_at_once_while_there_are_places() -> None:
    bulkhead = Bulkhead(2, 0, 1)
    assert bulkhead.enter() is None
    assert bulkhead.enter() is None
    assert bulkhead.in_progress == 2
    bulkhead.leave()
    assert bulkhead.enter() is None


async def test_call_is_rejected_if_too_many_wait() -> None:
    bulkhead = Bulkhead(1, 1, 60)
    bulkhead.enter()
    task = await waiter(bulkhead)
    with pytest.raises(BulkheadFullError, match="1 calls are in progress, and 1 wait"):
        bulkhead.enter()
    bulkhead.leave()
    await task


@pytest.mark.parametrize(("max_waiting", "wait_seconds"), [(0, 60), (10, 0)])
async def test_nothing_waits_where_waiting_is_off(max_waiting: int, wait_seconds: float) -> None:
    bulkhead = Bulkhead(1, max_waiting, wait_seconds)
    bulkhead.enter()
    with pytest.raises(BulkheadFullError):
        bulkhead.enter()


async def test_call_is_rejected_after_its_wait() -> None:
    bulkhead = Bulkhead(1, 1, 0.01)
    bulkhead.enter()
    task = await waiter(bulkhead)
    with pytest.raises(BulkheadFullError, match="none ended in time"):
        await task
    assert (bulkhead.in_progress, bulkhead.waiting) == (1, 0)


async def test_calls_are_admitted_in_their_order() -> None:
    bulkhead = Bulkhead(1, 5, 60)
    bulkhead.enter()
    admitted: list[int] = []
    tasks = [await waiter(bulkhead) for _ in range(5)]
    for task in tasks:
        task.add_done_callback(lambda done: admitted.append(tasks.index(done)))
    for _ in range(5):
        bulkhead.leave()
        await turns()
    assert admitted == [0, 1, 2, 3, 4]


async def test_new_call_does_not_overtake_one_that_waits() -> None:
    bulkhead = Bulkhead(1, 5, 60)
    bulkhead.enter()
    first = await waiter(bulkhead)
    bulkhead.leave()
    second = await waiter(bulkhead)
    await first
    assert not second.done()
    bulkhead.leave()
    await second


async def test_cancelled_waiter_leaves_its_place_in_the_queue() -> None:
    bulkhead = Bulkhead(1, 2, 60)
    bulkhead.enter()
    tasks = [await waiter(bulkhead), await waiter(bulkhead)]
    tasks[0].cancel()
    await turns()
    assert bulkhead.waiting == 1
    bulkhead.leave()
    await tasks[1]
    assert (bulkhead.in_progress, bulkhead.waiting) == (1, 0)


async def test_place_goes_to_the_next_call_if_its_waiter_is_cancelled_just_before() -> None:
    bulkhead = Bulkhead(1, 2, 60)
    bulkhead.enter()
    tasks = [await waiter(bulkhead), await waiter(bulkhead)]
    tasks[0].cancel()
    bulkhead.leave()
    await tasks[1]
    assert tasks[0].cancelled()
    assert bulkhead.in_progress == 1


async def test_place_goes_to_the_next_call_if_its_waiter_is_cancelled_just_after() -> None:
    bulkhead = Bulkhead(1, 2, 60)
    bulkhead.enter()
    tasks = [await waiter(bulkhead), await waiter(bulkhead)]
    bulkhead.leave()
    tasks[0].cancel()
    await tasks[1]
    assert tasks[0].cancelled()
    assert bulkhead.in_progress == 1


async def test_place_is_free_if_its_only_waiter_is_cancelled_just_after() -> None:
    bulkhead = Bulkhead(1, 2, 60)
    bulkhead.enter()
    task = await waiter(bulkhead)
    bulkhead.leave()
    task.cancel()
    await turns()
    assert bulkhead.in_progress == 0


async def test_waiter_that_is_cancelled_when_its_wait_ends_takes_no_place() -> None:
    bulkhead = Bulkhead(1, 1, 0.001)
    bulkhead.enter()
    task = await waiter(bulkhead)
    task.get_loop().call_later(0.001, task.cancel)
    with pytest.raises((BulkheadFullError, asyncio.CancelledError)):
        await task
    assert (bulkhead.in_progress, bulkhead.waiting) == (1, 0)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3), st.lists(st.sampled_from(["enter", "enter", "enter", "leave", "cancel", "turn"]), max_size=60)
)
def test_no_place_is_lost_whatever_is_cancelled(places: int, steps: list[str]) -> None:
    async def run() -> None:
        bulkhead = Bulkhead(places, 100, 60)
        in_progress = 0
        tasks: list[asyncio.Task[None]] = []

        async def call() -> None:
            nonlocal in_progress
            waits = bulkhead.enter()
            if waits is not None:
                await waits
            in_progress += 1

        for step in steps:
            if step == "enter":
                tasks.append(asyncio.create_task(call()))
            elif step == "leave" and in_progress:
                in_progress -= 1
                bulkhead.leave()
            elif step == "cancel" and tasks:
                tasks.pop(len(tasks) // 2).cancel()
            else:
                await asyncio.sleep(0)
            assert in_progress <= bulkhead.in_progress <= places
        await turns(5)
        while in_progress:
            in_progress -= 1
            bulkhead.leave()
            await turns(5)
        assert all(task.done() for task in tasks)
        assert (bulkhead.in_progress, bulkhead.waiting) == (0, 0)

    asyncio.run(run())
