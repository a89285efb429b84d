"""A worker's share of one pool."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

import attrs
import pytest

from poolproxy.ipc.messages import PoolKey, Want
from poolproxy.metrics.registry import BOUNDS
from poolproxy.pool.pool import (
    GIVEN_BACK,
    IDLE_TIMEOUT,
    LIFETIME_OVER,
    NEVER,
    WorkerPool,
)
from poolproxy.settings.toml import load_toml
from tests.fixtures.toml import to_toml

KEY = PoolKey("db", "ann")
DATABASE = {"host": "127.0.0.1", "user": "ann", "pool_size": 4}


@attrs.define(eq=False)
class Client:
    wait_since: float = 0.0


@attrs.define(eq=False)
class Server:
    expires_at: float = NEVER
    idle_since: float = 0.0
    doomed: str = ""
    keep: bool = False


Pool = WorkerPool[Client, Server]


def make_pool(
    proxy: Mapping[str, Any] | None = None, database: Mapping[str, Any] | None = None
) -> Pool:
    tables = {
        "poolproxy": {"listen_addr": ["127.0.0.1"], "auth_type": "trust", **(proxy or {})},
        "databases": {"db": {**DATABASE, **(database or {})}},
    }
    config = load_toml(to_toml(tables), "test.toml")
    settings = config.pool("db", "ann")
    assert settings is not None
    return WorkerPool(KEY, settings, config.settings)


def waiting(pool: Pool, *since: float) -> list[Client]:
    clients = [Client(when) for when in since]
    for client in clients:
        pool.waiting.append(client)
    return clients


def parked(pool: Pool, count: int) -> list[Server]:
    servers = [Server() for _ in range(count)]
    for number, server in enumerate(servers):
        pool.servers.add(server)
        pool.park(server, float(number))
    return servers


def test_clients_are_served_in_the_order_they_came() -> None:
    """Nobody overtakes, and who gives up leaves no gap."""
    pool = make_pool()
    first, second, third = waiting(pool, 1.0, 2.0, 3.0)
    pool.give_up(second)
    pool.give_up(second)
    assert [pool.next_client(), pool.next_client()] == [first, third]
    assert not pool.waiting


def test_a_client_whose_server_turned_out_bad_is_first_again() -> None:
    """It has waited longest, and keeps its place."""
    pool = make_pool()
    first, second = waiting(pool, 1.0, 2.0)
    assert pool.next_client() is first
    pool.requeue(first)
    assert [pool.next_client(), pool.next_client()] == [first, second]


def test_a_client_whose_request_comes_late_has_its_place_by_when_it_was_made() -> None:
    """Nobody else's order changes, and the first in line are who they were."""
    pool = make_pool()
    first, second, third = waiting(pool, 1.0, 2.0, 3.0)
    assert pool.longest_wait(4.0) == 3.0
    late, later = Client(4.0), Client(4.0)
    pool.enter(late, 1.5)
    pool.enter(later, 0.5)
    assert late.wait_since == 2.5
    assert list(pool.waiting) == [first, second, late, third, later]
    assert [pool.next_client() for _ in range(5)] == [first, second, late, third, later]
    assert pool.longest_wait(4.0) == 0.0
    pool.enter(first, 0.0)
    assert pool.next_client() is first


@pytest.mark.parametrize(("round_robin", "order"), [(False, [2, 1, 0]), (True, [0, 1, 2])])
def test_idle_servers_are_a_stack_or_a_queue(round_robin: bool, order: list[int]) -> None:
    """The warmest first, or with server_round_robin each in turn."""
    pool = make_pool({"server_round_robin": round_robin})
    servers = parked(pool, 3)
    assert [servers.index(pool.idle.pop()) for _ in range(3)] == order
    assert [server.idle_since for server in servers] == [0.0, 1.0, 2.0]


def test_an_ending_server_is_given_to_nobody() -> None:
    """Idle or not, and asked twice."""
    pool = make_pool()
    idle, other = parked(pool, 2)
    busy = pool.idle.pop()
    assert busy is other
    for server in (idle, busy, busy):
        pool.remove(server)
    assert not pool.idle
    assert not pool.servers


def test_a_doomed_server_is_closed_for_its_own_reason() -> None:
    """Before any other reason, which stays for another server."""
    pool = make_pool()
    pool.reclaim = 1
    assert pool.why_close(Server(doomed="config changed"), 0.0) == "config changed"
    assert pool.reclaim == 1


def test_as_many_servers_are_given_back_as_the_ledger_wants() -> None:
    """Each that becomes free counts one."""
    pool = make_pool()
    pool.reclaim = 2
    assert [pool.why_close(Server(), 0.0) for _ in range(3)] == [GIVEN_BACK, GIVEN_BACK, ""]


def test_servers_that_were_opened_together_do_not_expire_together() -> None:
    """One in every n-th of server_lifetime, n being the pool's size."""
    pool = make_pool({"server_lifetime": "400s"})
    servers = [Server(expires_at=1000.0) for _ in range(3)]
    assert pool.why_close(servers[0], 999.0) == ""
    assert pool.why_close(servers[0], 1000.0) == LIFETIME_OVER
    assert pool.why_close(servers[1], 1099.0) == ""
    assert pool.why_close(servers[1], 1100.0) == LIFETIME_OVER
    assert pool.why_close(servers[2], 1101.0) == ""


def test_idle_servers_are_closed_after_their_time() -> None:
    """But not those kept for min_pool_size; 0 means never."""
    pool = make_pool()
    first, second, kept = parked(pool, 3)
    kept.keep = True
    assert pool.to_close(100.0, 0.0) == []
    assert pool.to_close(10.5, 10.0) == [(first, IDLE_TIMEOUT)]
    assert pool.to_close(100.0, 10.0) == [(first, IDLE_TIMEOUT), (second, IDLE_TIMEOUT)]


def test_a_kept_server_is_closed_for_other_reasons_all_the_same() -> None:
    """min_pool_size does not make it older than server_lifetime allows."""
    pool = make_pool()
    (kept,) = parked(pool, 1)
    kept.keep = True
    kept.expires_at = 5.0
    assert pool.to_close(3600.0, 10.0) == [(kept, LIFETIME_OVER)]


@pytest.mark.parametrize(
    ("check", "query", "always"),
    [("", None, NEVER), ("<empty>", "", 30.0), ("select 1", "select 1", 30.0)],
)
def test_the_check_query_as_pgbouncer_reads_it(
    check: str, query: str | None, always: float
) -> None:
    """Empty is no check, <empty> an empty query, anything else itself."""
    pool = make_pool({"server_check_query": check, "server_check_delay": "30s"})
    assert (pool.check_query, pool.check_delay) == (query, always)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("session", (True, False)), ("transaction", (False, False)), ("statement", (False, True))],
)
def test_the_pool_mode_is_the_databases(mode: str, expected: tuple[bool, bool]) -> None:
    """As the relay asks for it."""
    pool = make_pool(database={"pool_mode": mode})
    assert (pool.session_mode, pool.statement_mode) == expected


def test_a_want_is_told_once_while_it_stands() -> None:
    """The steady state costs no messages: the timer tells changed numbers."""
    pool = make_pool()
    assert pool.want() is None
    waiting(pool, 5.0)
    assert pool.want() == Want(KEY, 1, 5.0, False, False)
    waiting(pool, 6.0)
    assert pool.want() is None
    assert pool.refreshed_want() == Want(KEY, 2, 5.0, False, False)
    assert pool.refreshed_want() is None


def test_a_want_is_withdrawn_once() -> None:
    """When nobody waits any more; then silence, until somebody waits again."""
    pool = make_pool()
    waiting(pool, 5.0)
    pool.want()
    pool.next_client()
    assert pool.refreshed_want() == Want(KEY, 0, 0.0, False, False)
    assert pool.refreshed_want() is None
    waiting(pool, 7.0)
    assert pool.want() == Want(KEY, 1, 7.0, False, False)


def test_a_probe_is_always_told() -> None:
    """A client has failed fast: nobody waits, and yet a log-in may be tried."""
    pool = make_pool()
    for _ in range(2):
        assert pool.want(probe=True) == Want(KEY, 0, 0.0, False, True)


def test_log_ins_that_wait_count_as_waiting() -> None:
    """With the time of the oldest of either kind."""
    pool = make_pool()
    pool.logins_waiting.update({1: 3.0, 2: 2.0})
    assert pool.want() == Want(KEY, 2, 2.0, True, False)
    waiting(pool, 1.0)
    assert pool.waiting_since() == 1.0


def test_single_statements_are_counted_as_queries_and_transactions() -> None:
    """Spread over both when the statistics are read, once; so are waits and assignments."""
    pool = make_pool()
    pool.singles += [0.25, 0.25, 0.25]
    pool.waits += [0.0, 0.25]
    bucket = bisect_left(BOUNDS, 0.25)
    for _ in range(2):
        stats = pool.statistics()
        assert (stats.query_count, stats.xact_count) == (3, 3)
        assert (stats.query_time, stats.xact_time) == (0.75, 0.75)
        assert stats.query_hist[bucket] == stats.xact_hist[bucket] == 3
        assert stats.server_assignment_count == sum(stats.wait_hist) == 2
        assert stats.wait_hist[0] == stats.wait_hist[bucket] == 1
        assert stats.wait_time == 0.25


def test_an_unused_pool_is_forgotten_after_an_hour() -> None:
    """With a * entry any name makes a pool; one that is used again begins anew."""
    pool = make_pool()
    pool.settings = attrs.evolve(pool.settings, idle_timeout=60.0)
    assert not pool.forgotten(10.0)
    assert not pool.forgotten(69.0)
    pool.clients = 1
    assert not pool.forgotten(71.0)
    pool.clients = 0
    assert not pool.forgotten(80.0)
    assert pool.forgotten(140.0)


def test_a_pool_that_is_not_wanted_any_more_is_forgotten_when_it_is_free() -> None:
    """Its database was removed; else 0 keeps pools for good."""
    pool = make_pool()
    assert not pool.forgotten(10.0)
    assert not pool.forgotten(1e9)
    pool.unwanted = True
    pool.clients = 1
    assert not pool.forgotten(1e9)
    pool.clients = 0
    assert pool.forgotten(1e9)
