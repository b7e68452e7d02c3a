"""The timeout of an attempt ends its block as `asyncio.timeout` does, and leaves cancellations by others alone."""

import asyncio

import pytest

from chassis.client.attempt_timeout import AttemptTimeout


def cancellations() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


async def test_block_that_takes_too_long_ends_with_a_timeout() -> None:
    timeout = AttemptTimeout(0.01)
    with pytest.raises(TimeoutError), timeout:
        await asyncio.sleep(60)
    assert timeout.is_expired
    assert cancellations() == 0


async def test_block_that_ends_in_time_is_left_alone() -> None:
    with AttemptTimeout(0.01) as timeout:
        pass
    await asyncio.sleep(0.05)
    assert not timeout.is_expired


async def test_block_is_ended_before_its_time() -> None:
    timeout = AttemptTimeout(60)
    asyncio.get_running_loop().call_soon(timeout.expire)
    with pytest.raises(TimeoutError), timeout:
        await asyncio.sleep(60)
    assert cancellations() == 0


async def fail_when_cancelled() -> None:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        raise LookupError from None


async def test_error_of_the_block_is_kept_when_it_comes_with_the_timeout() -> None:
    with pytest.raises(LookupError), AttemptTimeout(0.01):
        await fail_when_cancelled()
    assert cancellations() == 0


@pytest.mark.parametrize("expires", [False, True])
async def test_cancellation_by_others_stays_one(expires: bool) -> None:
    is_in = asyncio.Event()
    timeouts: list[AttemptTimeout] = []

    async def attempt() -> None:
        with AttemptTimeout(60) as timeout:
            timeouts.append(timeout)
            is_in.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(attempt())
    await is_in.wait()
    if expires:
        timeouts[0].expire()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_outer_timeout_is_not_taken_for_the_inner_one() -> None:
    inner = AttemptTimeout(60)

    async def attempt() -> None:
        with inner:
            await asyncio.sleep(60)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(attempt(), 0.01)
    assert not inner.is_expired
