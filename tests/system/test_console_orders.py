"""The console's commands that change something, over two real workers."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import psycopg
import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.consoles import console, give, one
from tests.system.protocol_client import Connection, ErrorAnswer, RawClient, cancel_request, query
from tests.system.support import Tables, client, eventually, tables

DATABASES = {
    "shop": {"pool_size": 4},
    "other": {"pool_size": 4},
    "sessions": {"pool_mode": "session"},
}
USERS = {"boss": {}, "looker": {}}


def configuration(postgres: PostgresServer, **proxy: object) -> Tables:
    proxy = {"workers": 2, "pool_mode": "transaction", "admin_users": ["boss"], **proxy}
    return tables(postgres, DATABASES, USERS, stats_users=["looker"], **proxy)


@pytest.fixture(scope="module")
def proxy(one_postgres: PostgresServer, start_module_proxy: StartProxy) -> ProxyProcess:
    return start_module_proxy(configuration(one_postgres))


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def order(proxy: ProxyProcess, *commands: str) -> None:
    for command in commands:
        give(proxy, command)


def permits(proxy: ProxyProcess, database: str = "shop") -> int:
    return sum(r["permits"] for r in give(proxy, "show ledger") if r["database"] == database)


def busy_clients(proxy: ProxyProcess, stack: ExitStack, database: str = "shop") -> list[RawClient]:
    """Four clients over both workers, each in a transaction."""
    clients = [stack.enter_context(client(proxy, database)) for _ in range(4)]
    for one_ in clients:
        one_.query("begin")
    return clients


# -- PAUSE ----------------------------------------------------------------------------------------


def test_pause_waits_for_transactions_and_resume_serves_who_waits(
    proxy: ProxyProcess, pool: ThreadPoolExecutor
) -> None:
    """The answer comes when PostgreSQL has no connection left; new queries wait, none fails."""
    with ExitStack() as stack:
        clients = busy_clients(proxy, stack)
        paused = pool.submit(order, proxy, "PAUSE shop")
        eventually(
            lambda: one(give(proxy, "show databases"), name="shop")["paused"] == 1, "it is paused"
        )
        assert one(give(proxy, "show databases"), name="other")["paused"] == 0
        for one_ in clients[:3]:
            one_.query("commit")
        waiter: Future[object] = pool.submit(clients[0].query, "select 42")
        eventually(lambda: permits(proxy) == 1, "three servers are closed")
        assert not paused.done()
        clients[3].query("commit")
        paused.result(15)
        assert permits(proxy) == 0
        assert not waiter.done()
        late = pool.submit(lambda: stack.enter_context(client(proxy, "shop")).query("select 43"))
        order(proxy, "RESUME shop")
        assert waiter.result(15) == [("42",)]
        assert late.result(15) == [("43",)]


def test_pause_of_everything(proxy: ProxyProcess, pool: ThreadPoolExecutor) -> None:
    """All databases stop, a second PAUSE is an error, SHOW STATE tells; RESUME undoes it."""
    with client(proxy, "shop") as one_, client(proxy, "other") as two:
        one_.query("select 1")
        two.query("select 1")
        order(proxy, "PAUSE")
        assert (permits(proxy), permits(proxy, "other")) == (0, 0)
        assert one(give(proxy, "show state"), key="paused")["value"] == "yes"
        with pytest.raises(psycopg.Error, match="already suspended/paused"):
            order(proxy, "PAUSE")
        waiting = pool.submit(two.query, "select 5")
        order(proxy, "RESUME")
        assert waiting.result(15) == [("5",)]
        with pytest.raises(psycopg.Error, match="pooler is not paused/suspended"):
            order(proxy, "RESUME")


def test_a_session_client_ends_its_pause_by_leaving(
    proxy: ProxyProcess, pool: ThreadPoolExecutor
) -> None:
    """In session mode a server is free when its client leaves; an unused one is closed at once."""
    with client(proxy, "sessions") as idle:
        session = client(proxy, "sessions")
        session.query("select 1")
        paused = pool.submit(order, proxy, "PAUSE sessions")
        eventually(lambda: permits(proxy, "sessions") == 1, "the unused server is closed")
        session.close()
        paused.result(15)
        waiting = pool.submit(idle.query, "select 6")
        order(proxy, "RESUME sessions")
        assert waiting.result(15) == [("6",)]


@pytest.mark.parametrize("how", ["cancel", "leave"])
def test_who_gives_up_a_pause_undoes_it(proxy: ProxyProcess, how: str) -> None:
    """By a cancel request, as psql's Ctrl-C sends it, or by leaving."""
    with ExitStack() as stack:
        [one_, *_] = busy_clients(proxy, stack)
        raw = RawClient((proxy.host, proxy.port), "pgbouncer", "boss")
        raw.send(query("PAUSE"))
        eventually(
            lambda: one(give(proxy, "show state"), key="paused")["value"] == "yes", "it is paused"
        )
        if how == "cancel":
            with Connection((proxy.host, proxy.port)) as canceller:
                canceller.send(cancel_request(raw.key))
                assert canceller.at_end()
            with pytest.raises(ErrorAnswer, match="canceling statement due to user request"):
                raw.results()
        raw.close()
        eventually(
            lambda: one(give(proxy, "show state"), key="active")["value"] == "yes", "it goes on"
        )
        one_.query("commit")
        assert one_.query("select 7") == [("7",)]


def test_pause_by_signals(proxy: ProxyProcess) -> None:
    """SIGUSR1 and SIGUSR2."""
    proxy.signal(signal.SIGUSR1)
    state = lambda: one(give(proxy, "show state"), key="paused")["value"]  # noqa: E731
    eventually(lambda: state() == "yes", "it is paused")
    proxy.signal(signal.SIGUSR2)
    eventually(lambda: state() == "no", "it is not paused any more")


def test_a_new_worker_knows_of_the_pause(
    one_postgres: PostgresServer, start_proxy: StartProxy, pool: ThreadPoolExecutor
) -> None:
    """A worker that dies in a pause has a successor that pauses too, and disables what is disabled."""
    alone = start_proxy(configuration(one_postgres, workers=1))
    order(alone, "PAUSE shop", "DISABLE other")
    [pid] = alone.worker_pids()
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: alone.worker_pids() not in ([], [pid]), "it has a successor")

    def ready() -> bool:
        try:
            return bool(give(alone, "show state"))
        except psycopg.OperationalError:
            return False

    eventually(ready, "the successor serves")
    with pytest.raises(ErrorAnswer, match='database "other" is disabled'):
        client(alone, "other")
    waiting = pool.submit(lambda: client(alone, "shop"))
    waits = {"database": "shop", "waiting": 1}
    eventually(
        lambda: any(waits.items() <= r.items() for r in give(alone, "show ledger")), "it waits"
    )
    assert permits(alone) == 0
    order(alone, "RESUME shop")
    waiting.result(15).close()


def test_postgresql_is_restarted_in_a_pause(
    start_proxy: StartProxy, pool: ThreadPoolExecutor
) -> None:
    """PAUSE, restart, RESUME under load: clients see only a wait, no query fails and none is lost."""
    with PostgresServer() as postgres:
        proxy = start_proxy(configuration(postgres))
        over = threading.Event()

        def work() -> int:
            with client(proxy, "shop") as one_:
                done = 0
                while not over.is_set():
                    assert one_.query("select 1") == [("1",)]
                    done += 1
                return done

        workers = [pool.submit(work) for _ in range(6)]
        eventually(lambda: permits(proxy) > 0, "they work")
        order(proxy, "PAUSE")
        postgres.restart()
        order(proxy, "RESUME")
        before = one(give(proxy, "show stats_totals"), database="shop")["xact_count"]
        eventually(
            lambda: (
                one(give(proxy, "show stats_totals"), database="shop")["xact_count"] > before + 50
            ),
            "they go on",
        )
        over.set()
        assert all(worker.result(15) > 0 for worker in workers)


# -- the others -----------------------------------------------------------------------------------


def test_disable_and_enable(proxy: ProxyProcess) -> None:
    """New clients are refused, those that are there go on."""
    with client(proxy, "other") as one_:
        order(proxy, "DISABLE other")
        with pytest.raises(ErrorAnswer, match='database "other" is disabled'):
            client(proxy, "other")
        assert one_.query("select 1") == [("1",)]
        assert one(give(proxy, "show databases"), name="other")["disabled"] == 1
        order(proxy, "ENABLE other")
        client(proxy, "other").close()


def test_reconnect_and_wait_close(proxy: ProxyProcess, pool: ThreadPoolExecutor) -> None:
    """Each server is replaced when it is free; WAIT_CLOSE waits for the last one."""
    with ExitStack() as stack:
        [one_, *others] = busy_clients(proxy, stack)
        for other in others:
            other.query("commit")
        pid = one_.backend()
        order(proxy, "RECONNECT shop")
        servers = [r for r in give(proxy, "show servers") if r["database"] == "shop"]
        assert [(r["close_needed"], r["remote_pid"]) for r in servers] == [(1, pid)]
        closed = pool.submit(order, proxy, "WAIT_CLOSE shop")
        order(proxy, "WAIT_CLOSE other")
        assert one_.backend() == pid
        assert not closed.done()
        one_.query("commit")
        closed.result(15)
        assert one_.backend() != pid


def test_kill(proxy: ProxyProcess) -> None:
    """All clients of the database go, those of others stay; it is paused until RESUME."""
    with ExitStack() as stack:
        clients = busy_clients(proxy, stack)
        other = stack.enter_context(client(proxy, "other"))
        order(proxy, "KILL shop")
        assert {one_.farewell().message for one_ in clients} == {"database removed"}
        assert other.query("select 1") == [("1",)]
        eventually(lambda: permits(proxy) == 0, "its servers are closed")
        assert one(give(proxy, "show databases"), name="shop")["paused"] == 1
        order(proxy, "RESUME shop")
        order(proxy, "KILL")
        assert other.farewell().sqlstate == "57P01"
        order(proxy, "RESUME")
        with client(proxy, "shop") as again:
            assert again.query("select 2") == [("2",)]


def test_kill_client(proxy: ProxyProcess) -> None:
    """By the id of SHOW CLIENTS, on whichever worker; also another console, but no unknown one."""
    with ExitStack() as stack:
        clients = busy_clients(proxy, stack)
        rows = [r for r in give(proxy, "show clients") if r["database"] == "shop"]
        for row in rows:
            order(proxy, f"KILL_CLIENT {row['id']}")
        assert {one_.farewell().message for one_ in clients} == {"admin forced disconnect"}
        with pytest.raises(psycopg.Error, match="client not found"):
            order(proxy, f"KILL_CLIENT {rows[0]['id']}")
        other = RawClient((proxy.host, proxy.port), "pgbouncer", "looker")
        row = one(give(proxy, "show clients"), user="looker")
        order(proxy, f'KILL_CLIENT "{row["ptr"]}"')
        assert other.farewell().message == "admin forced disconnect"


def test_suspend(proxy: ProxyProcess, pool: ThreadPoolExecutor) -> None:
    """Nothing is read any more, but the console is; RESUME goes on where it was."""
    with client(proxy, "shop") as one_:
        one_.query("select 1")
        with console(proxy) as connection:
            connection.execute("SUSPEND")
            waiting = pool.submit(one_.query, "select 8")
            state = connection.execute("show state").fetchall()
            assert one(state, key="suspended")["value"] == "yes"
            assert not waiting.done()
            connection.execute("RESUME")
            assert waiting.result(15) == [("8",)]


def test_the_end_of_the_console_ends_suspend(proxy: ProxyProcess) -> None:
    """Nobody is there any more to give RESUME."""
    with client(proxy, "shop") as one_, console(proxy) as connection:
        connection.execute("SUSPEND")
        connection.close()
        assert one_.query("select 9") == [("9",)]


def test_drain(proxy: ProxyProcess) -> None:
    """The clients of one database are sent away between transactions, and new ones refused, until ENABLE."""
    one_ = client(proxy, "other")
    order(proxy, "DRAIN other")
    assert one_.farewell().message == "database is being drained"
    with pytest.raises(ErrorAnswer):
        client(proxy, "other")
    order(proxy, "ENABLE other")
    client(proxy, "other").close()


@pytest.mark.parametrize(
    ("command", "text"),
    {
        "PAUSE nowhere": "no such database: nowhere",
        "PAUSE pgbouncer": "cannot pause admin db: pgbouncer",
        "KILL pgbouncer": "cannot kill admin db: pgbouncer",
        "RESUME shop": "database shop is not paused",
        "RECONNECT nowhere": "no such database: nowhere",
        "KILL_CLIENT 99999999": "client not found",
    }.items(),
)
def test_mistakes(proxy: ProxyProcess, command: str, text: str) -> None:
    """PgBouncer's errors, and nothing has changed."""
    with pytest.raises(psycopg.Error, match=text):
        order(proxy, command)
    assert one(give(proxy, "show state"), key="active")["value"] == "yes"


# -- settings -------------------------------------------------------------------------------------


def config(proxy: ProxyProcess, key: str) -> str:
    return str(one(give(proxy, "show config"), key=key)["value"])


def test_set_is_live_and_reload_undoes_it(proxy: ProxyProcess) -> None:
    """It goes the way of a reload, with all its checks; several SETs add up."""
    before = config(proxy, "query_wait_timeout")
    order(proxy, "SET query_wait_timeout = '200ms'", "SET max_client_conn = 77")
    assert (config(proxy, "query_wait_timeout"), config(proxy, "max_client_conn")) == ("0.2", "77")
    with ExitStack() as stack:
        busy_clients(proxy, stack)
        late = stack.enter_context(client(proxy, "shop"))
        with pytest.raises(ErrorAnswer, match="query_wait_timeout"):
            late.query("select 1")
    order(proxy, "RELOAD")
    assert config(proxy, "query_wait_timeout") == before
    assert config(proxy, "max_client_conn") == "500"


@pytest.mark.parametrize(
    ("command", "why"),
    {
        "SET pool_mod = session": "unknown setting pool_mod",
        "SET pool_mode = sometimes": "pool_mode must be",
        "SET user = 'postgres'": "takes effect by a restart only",
    }.items(),
)
def test_a_wrong_set_changes_nothing(proxy: ProxyProcess, command: str, why: str) -> None:
    """PgBouncer's error, and the hint says why."""
    with pytest.raises(psycopg.Error, match="SET failed") as caught:
        order(proxy, command)
    assert why in (caught.value.diag.message_hint or "")
    assert config(proxy, "pool_mode") == "transaction"


def test_a_reload_that_fails(proxy: ProxyProcess) -> None:
    """The old configuration stays, and the error is PgBouncer's."""
    text = proxy.config_path.read_text()
    try:
        proxy.config_path.write_text(text + "\n[poolproxy]\n")
        with pytest.raises(psycopg.Error, match="RELOAD failed, see logs") as caught:
            order(proxy, "RELOAD")
        assert caught.value.sqlstate == "F0000"
    finally:
        proxy.config_path.write_text(text)
    order(proxy, "RELOAD")


@pytest.mark.parametrize(
    "command", ["SHUTDOWN", "SHUTDOWN WAIT_FOR_SERVERS", "SHUTDOWN WAIT_FOR_CLIENTS"]
)
def test_shutdown(one_postgres: PostgresServer, start_proxy: StartProxy, command: str) -> None:
    """At once without an answer; the other two answer, and leave when the last client has left."""
    leaving = start_proxy(configuration(one_postgres, workers=1))
    raw = RawClient((leaving.host, leaving.port), "pgbouncer", "boss")
    raw.send(query(command))
    if command == "SHUTDOWN":
        assert raw.at_end()
    else:
        assert raw.results() == []
    raw.close()
    assert leaving.process.wait(20) == 0
