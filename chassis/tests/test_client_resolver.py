"""Where the addresses of replicas come from, and what happens when lookups fail."""

import asyncio
import socket
from collections.abc import Iterable
from typing import Any

import pytest
import structlog

from chassis.client.balancer import Balancer
from chassis.client.resolver import FIRST_RETRY_SECONDS, Lookup, Resolver, look_up, parse_address
from chassis.client.transport import Address

from .support.service import until

FIRST, SECOND, THIRD = (Address(f"10.0.0.{number}", 80) for number in (1, 2, 3))
OFTEN = 0.01
SELDOM = 3600.0


class Names:
    """A name server that tests change."""

    def __init__(self, *addresses: Address) -> None:
        self.answers: dict[str, Iterable[Address] | Exception] = {"catalogue": addresses}
        self.lookups: list[str] = []
        self.in_progress = 0
        self.most_in_progress = 0
        self.answering = asyncio.Event()
        self.answering.set()

    async def look_up(self, host: str, port: int) -> Iterable[Address]:
        self.lookups.append(host)
        self.in_progress += 1
        self.most_in_progress = max(self.most_in_progress, self.in_progress)
        try:
            await self.answering.wait()
        finally:
            self.in_progress -= 1
        answer = self.answers[host]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def set(self, *addresses: Address) -> None:
        self.answers["catalogue"] = addresses

    def fail(self) -> None:
        self.answers["catalogue"] = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    async def answer(self, times: int = 2) -> None:
        """Wait until further lookups have begun, so that the one before has been used."""
        seen = len(self.lookups)
        await until(lambda: len(self.lookups) >= seen + times)


class Changes(list[tuple[Address, ...]]):
    """The arguments of the calls of `on_change`."""

    def __call__(self, addresses: tuple[Address, ...]) -> None:
        self.append(addresses)


def resolver(lookup: Lookup, changes: Changes | None = None, seconds: float = OFTEN, **options: Any) -> Resolver:
    options = {"dependency": "catalogue", "refresh_seconds": 0.001, **options}
    return Resolver("catalogue", 80, seconds, Changes() if changes is None else changes, lookup=lookup, **options)


async def test_all_addresses_of_a_name_are_used() -> None:
    changes = Changes()
    async with resolver(Names(SECOND, FIRST, SECOND).look_up, changes) as names:
        await names.ready()
        assert names.addresses == (FIRST, SECOND)
    assert changes == [(FIRST, SECOND)]


async def test_another_order_is_no_change() -> None:
    names, changes = Names(FIRST, SECOND), Changes()
    async with resolver(names.look_up, changes):
        await names.answer()
        names.set(SECOND, FIRST)
        await names.answer()
    assert len(changes) == 1


async def test_addresses_follow_the_name() -> None:
    names, changes = Names(FIRST, SECOND), Changes()
    async with resolver(names.look_up, changes):
        await until(lambda: changes)
        names.set(SECOND, THIRD)
        await until(lambda: len(changes) == 2)
    assert changes[-1] == (SECOND, THIRD)


@pytest.mark.parametrize("failure", [OSError("no route"), UnicodeError("label too long"), RuntimeError("a bug"), ()])
async def test_last_good_addresses_are_kept(failure: Exception | tuple[()]) -> None:
    names, changes = Names(FIRST), Changes()
    async with resolver(names.look_up, changes) as resolving:
        await until(lambda: changes)
        names.answers["catalogue"] = failure
        await names.answer(4)
        assert resolving.addresses == (FIRST,)
        names.set(SECOND)
        await until(lambda: resolving.addresses == (SECOND,))


async def test_change_of_state_is_logged_once() -> None:
    names = Names(FIRST)
    with structlog.testing.capture_logs() as lines:
        async with resolver(names.look_up) as resolving:
            await resolving.ready()
            names.fail()
            await names.answer(5)
            names.set(FIRST)
            await names.answer(3)
    facts = {"dependency": "catalogue", "host": "catalogue", "addresses": 1}
    error = "gaierror: [Errno -3] Temporary failure in name resolution"
    assert lines == [
        {"event": "name lookup failed", "log_level": "warning", "error": error, **facts},
        {"event": "name lookup succeeded again", "log_level": "info", **facts},
    ]


async def test_failure_at_the_start_is_retried_soon() -> None:
    names = Names()
    names.fail()
    async with resolver(names.look_up, seconds=SELDOM) as resolving:
        waiting = asyncio.create_task(resolving.ready())
        await until(lambda: names.lookups)
        names.set(FIRST)
        await asyncio.wait_for(waiting, 20 * FIRST_RETRY_SECONDS)
        assert resolving.addresses == (FIRST,)


async def test_calls_wait_no_longer_than_they_may() -> None:
    names = Names()
    async with resolver(names.look_up) as resolving:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await resolving.ready()


async def test_refresh_looks_up_soon() -> None:
    names, changes = Names(FIRST), Changes()
    async with resolver(names.look_up, changes, SELDOM) as resolving:
        await resolving.ready()
        names.set(SECOND)
        resolving.refresh()
        await until(lambda: changes[-1] == (SECOND,))


async def test_refresh_is_limited() -> None:
    names = Names(FIRST)
    async with resolver(names.look_up, seconds=SELDOM, refresh_seconds=SELDOM) as resolving:
        await resolving.ready()
        for _ in range(100):
            resolving.refresh()
            await asyncio.sleep(0)
        assert len(names.lookups) == 1


async def test_lookup_that_hangs_is_not_started_again() -> None:
    names = Names(FIRST)
    names.answering.clear()
    with structlog.testing.capture_logs() as lines:
        async with resolver(names.look_up, lookup_seconds=0.01) as resolving:
            await until(lambda: lines)
            await asyncio.sleep(0.05)
            assert names.most_in_progress == 1
            names.answering.set()
            await resolving.ready()
    assert lines[0]["error"] == "no answer within 0.01 seconds"


async def test_lookup_that_hangs_does_not_delay_the_end() -> None:
    names = Names(FIRST)
    names.answering.clear()
    async with asyncio.timeout(5):
        async with resolver(names.look_up):
            await until(lambda: names.lookups)
    assert names.in_progress == 0


async def test_ip_addresses_are_not_looked_up() -> None:
    names, changes = Names(), Changes()
    async with resolver(names.look_up, changes, replicas=["10.0.0.1:81", "[::1]:82", "10.0.0.2", "::2"]) as resolving:
        await resolving.ready()
    assert changes == [(Address("10.0.0.1", 81), Address("10.0.0.2", 80), Address("::1", 82), Address("::2", 80))]
    assert names.lookups == []


async def test_names_in_a_list_are_looked_up() -> None:
    names = Names()
    names.answers = {"a": [FIRST], "b": OSError("unknown"), "c": [SECOND, THIRD]}
    async with resolver(names.look_up, replicas=["a:80", "b:80", "c:80"]) as resolving:
        await resolving.ready()
        assert resolving.addresses == (FIRST, SECOND, THIRD)


async def test_balancer_uses_the_addresses() -> None:
    names, balancer = Names(FIRST, SECOND), Balancer()
    async with Resolver("catalogue", 80, OFTEN, balancer.update, dependency="catalogue", lookup=names.look_up) as found:
        await found.ready()
    assert [replica.address for replica in balancer.replicas] == [FIRST, SECOND]


async def test_operating_system_knows_this_host() -> None:
    assert Address("127.0.0.1", 8080) in await look_up("localhost", 8080)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("catalogue", Address("catalogue", 80)),
        ("catalogue-0.catalogue.shop.svc:8080", Address("catalogue-0.catalogue.shop.svc", 8080)),
        ("10.0.0.7:8080", Address("10.0.0.7", 8080)),
        ("[2001:db8::1]:8080", Address("2001:db8::1", 8080)),
        ("[2001:db8::1]", Address("2001:db8::1", 80)),
        ("2001:db8::1", Address("2001:db8::1", 80)),
    ],
)
def test_address_of_a_replica_is_read(text: str, expected: Address) -> None:
    assert parse_address(text, 80) == expected


@pytest.mark.parametrize(
    "text", ["", ":80", "a:", "a:0", "a:65536", "a:b", "a:80/x", "http://a", "u@a:80", "[a]:80", "[]:80", " a", "a\n"]
)
def test_what_is_no_address_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="is not the address of a replica; write host:port"):
        parse_address(text, 80)
