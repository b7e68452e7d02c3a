"""Which replicas get the calls, with each kind of fault. Time is simulated."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chassis.client.balancer import Balancer
from chassis.client.replicas import Outcome, Replica

from .support.balancing import ATTEMPT_SECONDS, HANGS, REFUSED, End, Simulation, address

FAILS = End(Outcome.FAILED, 0.001)
SHEDS = End(Outcome.NOT_NOW, 0.001)
CLOSES = End(closing=True)
EQUAL = pytest.approx(1 / 3, abs=0.06)
PROBES = 0.02  # the share of calls that find out whether a replica is back
FAULTS = {"refused": REFUSED, "hang": HANGS, "slow": End(seconds=1.0), "500": FAILS, "503": SHEDS, "drain": CLOSES}


def healthy(replicas: int = 3, *, per_second: float = 100.0) -> Simulation:
    """Replicas that have been called for some time."""
    simulation = Simulation(replicas)
    simulation.shares(15, per_second=per_second)
    return simulation


def fails_at_random(simulation: Simulation, share: float, end: End = FAILS) -> Callable[[], End]:
    return lambda: end if simulation.random.random() < share else End()


def states(simulation: Simulation) -> list[tuple[bool, str]]:
    return [(change.is_ejected, change.reason) for _, change in simulation.changes]


# --- healthy replicas


@pytest.mark.parametrize("per_second", [5, 100, 2000])
def test_equal_replicas_get_equal_shares(per_second: int) -> None:
    assert (
        healthy(per_second=per_second).shares(30, per_second=per_second)
        == [pytest.approx(1 / 3, abs=0.12 if per_second == 5 else 0.05)] * 3
    )


def test_replica_that_is_four_times_slower_gets_less() -> None:
    simulation = healthy()
    simulation.set(0, End(seconds=0.04))
    assert simulation.shares(20)[0] < 0.15


def test_replica_with_more_calls_in_progress_is_avoided() -> None:
    simulation = healthy()
    busy = simulation.replica(0)
    for _ in range(50):
        simulation.balancer.begin(busy)
    assert busy not in {simulation.balancer.pick() for _ in range(50)}


def test_there_is_no_replica_without_addresses() -> None:
    assert Balancer().pick() is None


def test_replicas_that_were_tried_are_avoided() -> None:
    simulation = healthy()
    tried = [simulation.replica(0), simulation.replica(2)]
    assert {simulation.balancer.pick(tried) for _ in range(20)} == {simulation.replica(1)}


def test_replica_that_was_tried_is_used_when_no_other_is_left() -> None:
    simulation = healthy()
    assert simulation.balancer.pick(simulation.balancer.replicas) in simulation.balancer.replicas


# --- one faulty replica of three


@pytest.mark.parametrize(
    ("fault", "most"),
    [("refused", 3), ("hang", 3), ("slow", 3), ("500", 10), ("503", 3), ("drain", 4)],
)
def test_faulty_replica_is_left_at_once(fault: str, most: int) -> None:
    simulation = healthy()
    simulation.set(0, FAULTS[fault])
    simulation.shares(0.5)
    assert simulation.calls[address(0)] <= most


@pytest.mark.parametrize("fault", ["refused", "hang", "slow", "500", "503"])
@pytest.mark.parametrize("per_second", [100, 2000])
def test_faulty_replica_gets_probes_only(fault: str, per_second: int) -> None:
    simulation = healthy(per_second=per_second)
    simulation.set(0, FAULTS[fault])
    assert simulation.shares(20, per_second=per_second)[0] < PROBES


@pytest.mark.parametrize("fault", ["refused", "hang", "slow", "500", "503"])
@pytest.mark.parametrize("replicas", [2, 10])
def test_faulty_replica_gets_probes_only_among_few_and_many(fault: str, replicas: int) -> None:
    simulation = healthy(replicas)
    simulation.set(0, FAULTS[fault])
    assert simulation.shares(20)[0] < PROBES


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.LOST])
def test_replica_that_fails_a_part_of_its_calls_gets_few(outcome: Outcome) -> None:
    simulation = healthy()
    simulation.set(0, fails_at_random(simulation, 0.3, End(outcome, 0.002)))
    simulation.shares(5)
    assert simulation.shares(30)[0] < 0.08


@pytest.mark.parametrize("fault", ["hang", "slow", "500", "503"])
def test_two_faulty_replicas_of_three_are_avoided_though_one_is_ejected(fault: str) -> None:
    simulation = healthy()
    simulation.set(0, FAULTS[fault])
    simulation.set(1, FAULTS[fault])
    simulation.shares(5)
    assert simulation.shares(20)[2] > 0.9
    assert simulation.balancer.ejected <= 1


@pytest.mark.parametrize("fault", FAULTS)
def test_replica_gets_its_share_again_when_it_is_well(fault: str) -> None:
    simulation = healthy()
    simulation.set(0, FAULTS[fault])
    simulation.shares(20)
    simulation.set(0, None)
    simulation.shares(55)
    assert simulation.shares(20)[0] == EQUAL


def test_replica_comes_back_slowly() -> None:
    simulation = healthy()
    simulation.set(0, REFUSED)
    simulation.shares(5)
    simulation.set(0, None)
    while simulation.replica(0).is_ejected:
        simulation.shares(0.1)
    shares = [simulation.shares(2.5, per_second=1000)[0] for _ in range(5)]
    assert shares[0] < 0.12
    assert shares == sorted(shares)


def test_replica_is_probed_with_one_call_at_a_time() -> None:
    simulation = healthy()
    simulation.set(0, REFUSED)
    simulation.shares(5)
    simulation.set(0, End(Outcome.TIMED_OUT, ATTEMPT_SECONDS))
    replica = simulation.replica(0)
    most = 0
    for _ in range(1000):
        simulation.shares(0.02)
        most = max(most, replica.in_progress)
    assert most == 1


def test_ejections_become_longer() -> None:
    simulation = healthy()
    simulation.set(0, FAILS)
    simulation.shares(3)
    early = simulation.calls[address(0)]
    simulation.shares(60)
    assert simulation.calls[address(0)] < early


def test_good_behaviour_makes_the_next_ejection_shorter() -> None:
    simulation = healthy()
    simulation.set(0, FAILS)
    simulation.shares(20)
    level = simulation.replica(0).level
    simulation.set(0, None)
    simulation.shares(120)
    assert simulation.replica(0).level < level - 3


def test_calls_that_began_before_an_ejection_do_not_prolong_it() -> None:
    simulation = healthy()
    replica = simulation.replica(0)
    for _ in range(3):
        simulation.balancer.begin(replica)
    simulation.balancer.end(replica, Outcome.NOT_SENT, 0.001)
    simulation.now += 2
    for _ in range(2):
        simulation.balancer.end(replica, Outcome.LOST, 2.001)
    assert simulation.balancer.pick() is replica


def test_call_that_cannot_be_repeated_is_no_probe() -> None:
    simulation = healthy()
    replica = simulation.replica(0)
    simulation.balancer.begin(replica)
    simulation.balancer.end(replica, Outcome.NOT_SENT, 0.001)
    simulation.now += 2
    assert replica not in {simulation.balancer.pick(is_repeatable=False) for _ in range(20)}
    assert simulation.balancer.pick() is replica


def test_retry_is_no_probe() -> None:
    simulation = healthy()
    replica = simulation.replica(0)
    simulation.balancer.begin(replica)
    simulation.balancer.end(replica, Outcome.NOT_SENT, 0.001)
    simulation.now += 2
    assert simulation.balancer.pick([simulation.replica(1)]) is simulation.replica(2)


def test_retry_after_keeps_calls_away_for_that_time() -> None:
    simulation = healthy()
    simulation.set(0, SHEDS._replace(retry_after=4.0))
    simulation.shares(0.2)
    simulation.set(0, None)
    assert simulation.shares(3.8)[0] == 0


def test_retry_after_is_bounded() -> None:
    simulation = healthy()
    simulation.set(0, SHEDS._replace(retry_after=3600.0))
    simulation.shares(0.2)
    simulation.set(0, None)
    simulation.shares(25)
    assert simulation.shares(20)[0] == EQUAL


def test_cancelled_calls_keep_a_replica_that_hangs_away() -> None:
    simulation = healthy()
    simulation.set(0, End(Outcome.UNKNOWN, 0.05))  # each of them was hedged, and lost
    simulation.shares(2)
    assert simulation.shares(20)[0] < PROBES
    assert simulation.changes == []


# --- no harm


@pytest.mark.parametrize("fault", FAULTS)
def test_single_replica_is_never_ejected(fault: str) -> None:
    simulation = healthy(1)
    simulation.set(0, FAULTS[fault])
    assert simulation.shares(5) == [1.0]
    assert simulation.changes == []


def test_replica_that_is_left_alone_is_admitted() -> None:
    simulation = healthy(2)
    simulation.set(0, REFUSED)
    simulation.shares(1)
    simulation.scale(1)
    assert simulation.balancer.ejected == 0


def test_all_are_used_when_all_refuse() -> None:
    simulation = healthy()
    for number in range(3):
        simulation.set(number, REFUSED)
    simulation.shares(2)
    assert simulation.balancer.ejected == 3
    assert min(simulation.shares(10)) > 0.2


def test_all_come_back_soon_after_a_restart_of_all() -> None:
    simulation = healthy()
    for number in range(3):
        simulation.set(number, REFUSED)
    simulation.shares(60)
    for number in range(3):
        simulation.set(number, None)
    simulation.shares(3)
    assert simulation.balancer.ejected == 0


@pytest.mark.parametrize("fault", [FAILS, HANGS, SHEDS._replace(retry_after=1.0), End(Outcome.LOST, 0.002)])
@pytest.mark.parametrize("share", [0.05, 0.3, 1.0])
def test_fault_of_all_replicas_ejects_none_for_long(fault: End, share: float) -> None:
    simulation = healthy()
    for number in range(3):
        simulation.set(number, fails_at_random(simulation, share, fault))
    simulation.shares(5)
    ejected = 0
    for _ in range(200):
        simulation.shares(0.1)
        ejected += simulation.balancer.ejected
    assert ejected < 0.08 * 600


def test_replica_without_keep_alive_is_used_after_a_while() -> None:
    simulation = healthy()
    simulation.set(0, CLOSES)
    simulation.shares(45)
    assert simulation.shares(20)[0] == EQUAL


def test_replicas_without_keep_alive_are_all_used() -> None:
    simulation = healthy()
    for number in range(3):
        simulation.set(number, CLOSES)
    simulation.shares(1)
    changes = len(simulation.changes)
    simulation.shares(60)
    assert len(simulation.changes) <= changes + 1


def test_connections_that_are_closed_for_their_age_do_not_matter() -> None:
    simulation = healthy()
    for number in range(3):
        simulation.set(number, fails_at_random(simulation, 0.02, CLOSES))
    simulation.shares(60)
    assert simulation.changes == []


# --- addresses that come and go


def test_new_replica_gets_a_growing_share() -> None:
    simulation = healthy()
    simulation.scale(4)
    shares = [simulation.shares(2.5, per_second=1000)[3] for _ in range(5)]
    assert 0 < shares[0] < 0.1
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(0.25, abs=0.04)


def test_replicas_that_are_all_new_get_their_share_at_once() -> None:
    simulation = Simulation(3)
    assert simulation.shares(2) == [pytest.approx(1 / 3, abs=0.1)] * 3


def test_replica_without_an_address_gets_no_calls() -> None:
    simulation = healthy()
    gone = simulation.replica(2)
    simulation.scale(2)
    simulation.shares(2)
    assert simulation.calls[gone.address] == 0


def test_calls_in_progress_are_counted_to_their_end() -> None:
    simulation = healthy()
    gone = simulation.replica(2)
    before = gone.in_progress
    simulation.balancer.begin(gone)
    simulation.scale(2)
    simulation.balancer.end(gone, Outcome.LOST, 0.1)
    assert gone.in_progress == before


def test_replica_that_returns_keeps_its_calls_in_progress() -> None:
    simulation = healthy()
    replica = simulation.replica(2)
    simulation.balancer.begin(replica)
    simulation.scale(2)
    simulation.scale(3)
    assert simulation.replica(2) is replica


# --- zones

ZONE = "10.0.0.0/31"  # the replicas 0 and 1


def test_near_replicas_are_preferred() -> None:
    simulation = Simulation(4, near=[ZONE])
    simulation.shares(5)
    shares = simulation.shares(20)
    assert shares[0] + shares[1] > 0.9


@pytest.mark.parametrize("fault", ["refused", "hang", "slow", "500", "503"])
def test_others_are_used_when_near_replicas_are_faulty(fault: str) -> None:
    simulation = Simulation(4, near=[ZONE])
    simulation.shares(15)
    simulation.set(0, FAULTS[fault])
    simulation.set(1, FAULTS[fault])
    simulation.shares(2)
    shares = simulation.shares(20)
    assert shares[2] + shares[3] > 0.95


def test_single_near_replica_does_not_get_more_than_it_can_do() -> None:
    simulation = Simulation(4, near=["10.0.0.0/32"])
    simulation.set(0, lambda: End(seconds=0.01 * (1 + simulation.replica(0).in_progress)))  # 100 a second
    shares = simulation.shares(20, per_second=400)
    assert simulation.replica(0).in_progress < 10
    assert shares[0] < 0.4


def test_network_that_is_none_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0/8"):
        Balancer(["10.0.0/8"])


# --- what others see


def test_changes_are_told_once() -> None:
    simulation = healthy()
    simulation.set(0, REFUSED)
    simulation.shares(10)
    simulation.set(0, None)
    simulation.shares(20)
    assert states(simulation) == [(True, "unreachable"), (False, "unreachable")]


class Call(NamedTuple):
    """A step: begin a call."""

    is_repeatable: bool


class Wait(NamedTuple):
    """A step: let time pass."""

    seconds: float


class Scale(NamedTuple):
    """A step: change the number of replicas."""

    replicas: int


# An outcome is a step as well: a call ends so.
Step = Call | Wait | Scale | Outcome
STEPS: st.SearchStrategy[list[Step]] = st.lists(
    st.one_of(
        st.builds(Call, st.booleans()),
        st.sampled_from(list(Outcome)),
        st.builds(Wait, st.floats(0, 20)),
        st.builds(Scale, st.integers(1, 6)),
    ),
    max_size=80,
)


@settings(deadline=None)
@given(STEPS, st.integers(0, 2**32), st.booleans())
def test_whatever_happens_calls_are_counted_and_replicas_are_left(
    steps: list[Step], seed: int, all_reachable: bool
) -> None:
    simulation = Simulation(3, seed=seed, near=[ZONE] if seed % 2 else [])
    balancer, source = simulation.balancer, simulation.random
    calls: list[tuple[Replica, float]] = []
    for step in steps:
        if isinstance(step, Call):
            replica = balancer.pick([call[0] for call in calls[:2]], is_repeatable=step.is_repeatable)
            assert replica is not None
            assert replica in balancer.replicas
            balancer.begin(replica)
            calls.append((replica, simulation.now))
        elif isinstance(step, Wait):
            simulation.now += step.seconds
        elif isinstance(step, Scale):
            simulation.scale(step.replicas)
        elif calls and not (all_reachable and step is Outcome.NOT_SENT):
            replica, began = calls.pop(source.randrange(len(calls)))
            retry_after, closing = source.choice([None, 3.0]), source.random() < 0.5
            balancer.end(replica, step, simulation.now - began, retry_after, closing)
        for known in {*balancer.replicas, *(call[0] for call in calls)}:
            assert known.in_progress == sum(call[0] is known for call in calls)
        assert balancer.ejected <= len(balancer.replicas) // (2 if all_reachable else 1)
        assert balancer.ejected == 0 or len(balancer.replicas) > 1
