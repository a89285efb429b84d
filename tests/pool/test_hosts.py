from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolproxy.pool.hosts import (
    MOST_BACKOFF,
    ROLE_SECONDS,
    Hosts,
    Role,
    reported_role,
    role_of,
    suits,
)
from poolproxy.settings.enums import LoadBalance, TargetSession
from poolproxy.settings.hosts import Host

A, B, C = HOSTS = (Host("a", 1), Host("b", 1), Host("c", 1))
TURNS, STAYS = LoadBalance.ROUND_ROBIN, LoadBalance.DISABLE
ANY, WRITES, STANDBYS = TargetSession.ANY, TargetSession.READ_WRITE, TargetSession.STANDBY


def order(
    hosts: Hosts, now: float, balance: LoadBalance = TURNS, wanted: TargetSession = ANY
) -> str:
    """The names in the order in which they would be tried; those that are suspect as capitals."""
    found = hosts.order(HOSTS, balance, wanted, now)
    return "".join(c.host.upper() if c.suspect else c.host for c in found)


def test_hosts_take_turns() -> None:
    """With round-robin each attempt begins at the next host, and may go on to all others."""
    hosts = Hosts()
    assert [order(hosts, 0.0) for _ in range(4)] == ["abc", "bca", "cab", "abc"]


def test_a_host_stays_until_another_serves() -> None:
    """With disable the host that served last comes first, wherever it is in the list."""
    hosts = Hosts()
    assert [order(hosts, 0.0, STAYS) for _ in range(2)] == ["abc", "abc"]
    hosts.serves(HOSTS, B, STAYS)
    assert order(hosts, 0.0, STAYS) == "bca"


def test_a_failed_host_comes_last_for_a_while() -> None:
    """A host that could not be reached is tried after all others, and in turn when its time is over."""
    hosts = Hosts()
    hosts.failed(A, "refused", 10.0, 0.0)
    assert [order(hosts, 1.0) for _ in range(4)] == ["bcA", "cbA", "bcA", "cbA"]
    assert order(hosts, 10.0) == "bcA"  # its turn would be the second
    assert {order(hosts, 10.0)[0] for _ in range(3)} == {"A", "b", "c"}


def test_the_back_off_grows_and_ends() -> None:
    """Each failure doubles the time, up to four times server_login_retry; one success forgets it."""
    hosts = Hosts()
    waits = []
    for _ in range(5):
        hosts.failed(A, "refused", 10.0, 0.0)
        waits.append(hosts.statistics(0.0)[0].retry_in)
    assert waits == [10.0, 20.0, 40.0, 40.0, 40.0]
    assert waits[-1] == 10.0 * MOST_BACKOFF
    hosts.reached(A, None, 1.0)
    assert order(hosts, 1.0) == "abc"


def test_the_primary_comes_first_for_writers() -> None:
    """Writers go to the known primary, then to hosts not known, then to those that were standbys."""
    hosts = Hosts()
    hosts.reached(A, Role.STANDBY, 0.0)
    hosts.reached(C, Role.PRIMARY, 0.0)
    assert [order(hosts, 1.0, TURNS, WRITES) for _ in range(2)] == ["cba", "cba"]
    assert order(hosts, ROLE_SECONDS * 10, TURNS, WRITES) == "cba"


def test_after_a_failover_the_standbys_are_asked() -> None:
    """When the primary can't be reached the hosts that were standbys come before it."""
    hosts = Hosts()
    for host, role in ((A, Role.PRIMARY), (B, Role.STANDBY), (C, Role.STANDBY)):
        hosts.reached(host, role, 0.0)
    hosts.failed(A, "refused", 15.0, 1.0)
    assert order(hosts, 2.0, STAYS, WRITES) == "bcA"
    hosts.reached(C, Role.PRIMARY, 2.0)
    assert order(hosts, 3.0, STAYS, WRITES) == "cbA"


def test_readers_find_a_new_standby() -> None:
    """What a host was is not believed for ever by readers: a primary that has become one is found."""
    hosts = Hosts()
    hosts.reached(A, Role.PRIMARY, 0.0)
    assert {order(hosts, 1.0, TURNS, STANDBYS)[-1] for _ in range(3)} == {"a"}
    assert {order(hosts, ROLE_SECONDS, TURNS, STANDBYS)[0] for _ in range(3)} == {"a", "b", "c"}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(HOSTS),
            st.sampled_from([*Role, None, "failed"]),
            st.floats(0, 100),
        )
    ),
    st.sampled_from(LoadBalance),
    st.sampled_from(TargetSession),
    st.floats(0, 1000),
)
def test_no_host_is_left_out(
    events: list[tuple[Host, Role | str | None, float]],
    balance: LoadBalance,
    wanted: TargetSession,
    now: float,
) -> None:
    """Whatever is believed of hosts, an attempt may try each of them, once."""
    hosts = Hosts()
    for host, what, when in events:
        if isinstance(what, str):
            hosts.failed(host, what, 15.0, when)
        else:
            hosts.reached(host, what, when)
            hosts.serves(HOSTS, host, balance)
    assert sorted(order(hosts, now, balance, wanted).lower()) == ["a", "b", "c"]


def test_what_is_no_more_configured_is_forgotten() -> None:
    """A reload leaves nothing of hosts that it has taken out."""
    hosts = Hosts()
    hosts.failed(A, "refused", 15.0, 0.0)
    hosts.reached(B, Role.PRIMARY, 0.0)
    hosts.configure([B])
    assert [row.host for row in hosts.statistics(0.0)] == [B]


@pytest.mark.parametrize(
    ("wanted", "good"),
    [
        ("any", "primary read-only standby"),
        ("read-write", "primary"),
        ("read-only", "read-only standby"),
        ("primary", "primary read-only"),
        ("standby", "standby"),
        ("prefer-standby", "standby"),
    ],
)
def test_roles_suit_as_in_libpq(wanted: str, good: str) -> None:
    """Each word of target_session_attrs takes the servers that libpq takes."""
    found = {role.value for role in Role if suits(TargetSession(wanted), role)}
    assert found == set(good.split())


def test_the_role_is_reported_since_postgresql_14() -> None:
    """Both parameters tell the role; without in_hot_standby it is not known."""
    parameters = {"in_hot_standby": "off", "default_transaction_read_only": "off"}
    assert reported_role(parameters) is Role.PRIMARY
    assert reported_role(parameters | {"default_transaction_read_only": "on"}) is Role.READ_ONLY
    assert reported_role(parameters | {"in_hot_standby": "on"}) is Role.STANDBY
    assert reported_role({"server_version": "13.1"}) is None
    assert role_of(in_recovery=True, read_only=False) is Role.STANDBY
