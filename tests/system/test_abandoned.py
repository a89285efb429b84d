"""Clients that go away amid their work cost no server connection, and leave nothing behind."""

from __future__ import annotations

import random
import threading
import time

import psycopg
import pytest

from poolproxy.demo.postgres import PostgresServer
from poolproxy.relay.session import UNUSED
from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.protocol_client import SYNC, TERMINATE, RawClient, message, query, run
from tests.system.support import client, eventually, is_running, last_query, sample, tables

CONNECTED = "poolproxy_pool_server_connect_seconds_count"
ABANDONED = "poolproxy_pool_abandoned_work_total"


@pytest.fixture(scope="module")
def proxy(
    start_module_proxy: StartProxy, postgres: PostgresServer, admin: psycopg.Connection
) -> ProxyProcess:
    """One worker, as connections do not move between workers: so each is opened once."""
    admin.execute("drop table if exists abandoned; create table abandoned (tag text)")
    databases = {
        "transaction": {"pool_mode": "transaction", "pool_size": 1},
        "session": {"pool_mode": "session", "pool_size": 1},
        "load": {"pool_mode": "transaction", "pool_size": 4},
        "busy": {"pool_mode": "session", "pool_size": 3},
    }
    return start_module_proxy(tables(postgres, databases, workers=1))


@pytest.fixture(scope="module")
def impatient(start_module_proxy: StartProxy, postgres: PostgresServer) -> ProxyProcess:
    """It waits half a second for what clients have left behind."""
    databases = {"transaction": {"pool_mode": "transaction", "pool_size": 1}}
    return start_module_proxy(
        tables(postgres, databases, workers=1, abandoned_work_timeout="500ms")
    )


@pytest.fixture(scope="module")
def closing(start_module_proxy: StartProxy, postgres: PostgresServer) -> ProxyProcess:
    """As PgBouncer does it."""
    databases = {"transaction": {"pool_mode": "transaction", "pool_size": 1}}
    return start_module_proxy(tables(postgres, databases, workers=1, abandoned_work="close"))


def tags(admin: psycopg.Connection, tag: str) -> int:
    row = admin.execute("select count(*) from abandoned where tag = %s", [tag]).fetchone()
    assert row
    return int(row[0])


def is_asleep(admin: psycopg.Connection, pid: int) -> bool:
    state, text = last_query(admin, pid)
    return state == "active" and "pg_sleep" in text


def leave(one: RawClient, how: str) -> None:
    if how == "Terminate":
        one.terminate()
    else:
        one.close()


SLEEP = "select pg_sleep(60)"


@pytest.mark.parametrize("mode", ["transaction", "session"])
@pytest.mark.parametrize(
    ("protocol", "how"),
    [
        *((protocol, "close") for protocol in ("simple", "extended", "unsynced", "pipeline")),
        ("unsynced", "Terminate"),
    ],
)
def test_a_running_query_is_cancelled(
    proxy: ProxyProcess, admin: psycopg.Connection, mode: str, protocol: str, how: str
) -> None:
    """At once, and the next client has the same server connection."""
    sent = {
        "simple": query(SLEEP),
        "extended": run(SLEEP) + SYNC,
        "unsynced": run(SLEEP) + message("H"),
        "pipeline": 3 * (run(SLEEP) + SYNC),
    }
    one = client(proxy, mode)
    pid = one.backend()
    one.send(sent[protocol])
    eventually(lambda: is_asleep(admin, pid), "it runs")
    leave(one, how)
    with client(proxy, mode) as other:
        assert other.backend() == pid
        assert other.value("select pg_current_xact_id_if_assigned() is null") == "t"


@pytest.mark.parametrize("mode", ["transaction", "session"])
@pytest.mark.parametrize("protocol", ["simple", "extended", "pipeline", "at once"])
def test_a_query_with_a_good_bye_behind_it_is_done(
    proxy: ProxyProcess, admin: psycopg.Connection, mode: str, protocol: str
) -> None:
    """As by PostgreSQL itself, and committed; the next client has the same server connection."""
    tag = f"{protocol} {mode}"
    insert = f"insert into abandoned select '{tag}' from pg_sleep(0.3)"
    sent = {
        "simple": query(insert),
        "extended": run(insert) + SYNC,
        "pipeline": run("begin") + SYNC + run(insert) + SYNC + query("commit"),
        "at once": query(insert) + TERMINATE,
    }
    one = client(proxy, mode)
    pid = one.backend()
    one.send(sent[protocol])
    if protocol == "at once":
        eventually(lambda: is_asleep(admin, pid), "it runs")
    one.terminate()
    with client(proxy, mode) as other:
        assert other.backend() == pid
    assert tags(admin, tag) == 1


def test_a_good_bye_commits_no_transaction(proxy: ProxyProcess, admin: psycopg.Connection) -> None:
    """What runs in one is done, and rolled back."""
    one = client(proxy, "transaction")
    one.query("begin")
    pid = one.backend()
    one.send(query("insert into abandoned select 'open' from pg_sleep(0.3)"))
    one.terminate()
    with client(proxy, "transaction") as other:
        assert other.backend() == pid
    assert tags(admin, "open") == 0


def test_a_query_that_lasts_is_cancelled_in_spite_of_a_good_bye(
    impatient: ProxyProcess, admin: psycopg.Connection
) -> None:
    """After abandoned_work_timeout; the server connection is used again."""
    one = client(impatient, "transaction")
    pid = one.backend()
    one.send(query(SLEEP))
    eventually(lambda: is_asleep(admin, pid), "it runs")
    one.terminate()
    with client(impatient, "transaction") as other:
        assert other.backend() == pid


@pytest.mark.parametrize("failed", [False, True], ids=["open", "failed"])
@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_a_transaction_is_rolled_back(
    proxy: ProxyProcess, admin: psycopg.Connection, mode: str, failed: bool
) -> None:
    """Its rows and locks are gone, and the next client has the same server connection."""
    tag = f"{mode} {failed}"
    one = client(proxy, mode)
    one.query("begin")
    one.query(f"insert into abandoned values ('{tag}')")
    pid = one.backend()
    if failed:
        with pytest.raises(Exception, match="22012"):
            one.query("select 1/0")
    one.close()
    with client(proxy, mode) as other:
        assert other.backend() == pid
    assert tags(admin, tag) == 0


def test_a_batch_without_its_sync_is_not_committed(
    proxy: ProxyProcess, admin: psycopg.Connection
) -> None:
    """As when a client leaves PostgreSQL itself: also where all of it is executed already."""
    one = client(proxy, "transaction")
    pid = one.backend()
    one.send(run("insert into abandoned values ('unsynced')") + message("H"))
    one.read_until("C")
    one.close()
    with client(proxy, "transaction") as other:
        assert other.backend() == pid
    assert tags(admin, "unsynced") == 0


@pytest.mark.parametrize("protocol", ["simple", "extended"])
@pytest.mark.parametrize("moment", ["asked", "told", "amid"])
def test_a_copy_is_failed(
    proxy: ProxyProcess, admin: psycopg.Connection, protocol: str, moment: str
) -> None:
    """No row of it stays, wherever the client was."""
    sql = "copy abandoned from stdin"
    one = client(proxy, "transaction")
    pid = one.backend()
    one.send(query(sql) if protocol == "simple" else run(sql) + message("H"))
    if moment != "asked":
        one.read_until("G")
    if moment == "amid":
        one.send(message("d", b"copied\n") * 3)
    one.close()
    with client(proxy, "transaction") as other:
        assert other.backend() == pid
    assert tags(admin, "copied") == 0


@pytest.mark.parametrize("how", ["close", "Terminate"])
def test_an_endless_result_is_ended(proxy: ProxyProcess, how: str) -> None:
    """Rows that nobody reads any more; the client had stopped reading before."""
    one = client(proxy, "transaction")
    pid = one.backend()
    one.send(query("select repeat('x', 10000), generate_series(1, 1000000000)"))
    one.read_until("D")
    leave(one, how)
    with client(proxy, "transaction") as other:
        assert other.backend() == pid


def test_who_waits_gets_the_server(proxy: ProxyProcess) -> None:
    """The pool's one connection goes from the client that left to the one in the queue."""
    one = client(proxy, "transaction")
    one.query("begin")
    pid = one.backend()
    with client(proxy, "transaction") as other:
        other.send(query("select pg_backend_pid()"))
        one.close()
        assert other.results() == [(str(pid),)]


def test_abandoned_work_may_cost_the_server(
    closing: ProxyProcess, admin: psycopg.Connection
) -> None:
    """abandoned_work = "close", as PgBouncer does it."""
    one = client(closing, "transaction")
    one.query("begin")
    pid = one.backend()
    one.close()
    eventually(lambda: not is_running(admin, pid), "the backend is gone")
    with client(closing, "transaction") as other:
        assert other.backend() != pid
    assert sample(closing, ABANDONED, outcome="closed") == 1


WORK = [
    (query("begin"),),
    (query("begin"), query("insert into abandoned values ('random')")),
    (query("select pg_sleep(0.3)"),),
    (query("begin"), query("select pg_sleep(0.3)")),
    (run("insert into abandoned values ('random')"), message("H")),
    (query("select repeat('x', 1000) from generate_series(1, 100000)"),),
    (query("copy abandoned from stdin"), message("d", b"random\n")),
    (run("select pg_sleep(0.01)") + SYNC, run("select pg_sleep(0.01)") + SYNC),
]


@pytest.mark.parametrize("database", ["load", "busy"])
def test_clients_that_leave_at_random_under_load(
    proxy: ProxyProcess, admin: psycopg.Connection, database: str
) -> None:
    """No server connection is lost, but for those that a client had taken at its log-in and had not used when
    others waited; and those who stay get their own answers all the time.
    """
    size = {"load": 4, "busy": 3}[database]
    over = threading.Event()
    wrong: list[str] = []
    left = []

    def leaving(seed: int) -> None:
        chance = random.Random(seed)
        while not over.is_set():
            one = client(proxy, database)
            for part in chance.choice(WORK):
                one.send(part)
                if chance.random() < 0.3:
                    time.sleep(chance.random() * 0.01)
            leave(one, chance.choice(["close", "Terminate"]))
            left.append(seed)

    def staying(number: int) -> None:
        count = 0
        while not over.is_set():
            with client(proxy, database) as one:
                count += 1
                tag = f"{number} {count}"
                found = one.query(f"select '{tag}', pg_current_xact_id_if_assigned() is null")
                if found != [(tag, "t")]:
                    wrong.append(f"{tag}: {found}")

    threads = [threading.Thread(target=leaving, args=(seed,)) for seed in range(6)]
    threads += [threading.Thread(target=staying, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: len(left) >= 60, "many have left")
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not wrong
    given_up = sum(f": {database}/" in line and UNUSED in line for line in proxy.log.splitlines())
    assert sample(proxy, CONNECTED, database=database) <= size + given_up
    assert tags(admin, "random") == 0
    assert sample(proxy, ABANDONED, database=database, outcome="closed") == 0
