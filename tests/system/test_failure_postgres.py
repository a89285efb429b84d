"""PostgreSQL goes away and comes back: clients get a clear error or wait, then work again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from signal import SIGCONT, SIGSTOP

import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import ProxyProcess, StartProxy, free_port
from tests.system.rough_client import RoughClient, ServerError
from tests.system.setups import config, role
from tests.system.watching import Load, Sampler, eventually, metric, permits_out, superuser, texts

# What a client may be told when the database goes or is not there; everything else is a bug.
EXPECTED = (
    "server conn crashed?",
    "server login has been failing",
    "connect failed",
    "terminating connection",
    "the database system is",
    "query_wait_timeout",
)


@pytest.fixture(scope="module")
def module_server() -> Iterator[PostgresServer]:
    """A server for this module alone: all versions die in the same way."""
    # What is committed must be there after a crash: the roles of the tests.
    settings = {"max_connections": 60, "synchronous_commit": "on"}
    server = PostgresServer(settings=settings)
    server.port = free_port()
    with server:
        yield server


@pytest.fixture
def mortal(module_server: PostgresServer) -> Iterator[PostgresServer]:
    """A running server that a test may kill."""
    yield module_server
    module_server.restart("fast")


@pytest.mark.parametrize("how", ["kill -9", "immediate", "fast"])
def test_death_and_return_under_load(
    start_proxy: StartProxy, mortal: PostgresServer, how: str
) -> None:
    """Clients that are connected, and such that come meanwhile, work again soon after the return."""
    with role(mortal, "limited", 4):
        proxy = start_proxy(
            config(
                mortal,
                default_pool_size=4,
                server_login_retry=0.5,
                query_wait_timeout=10.0,
                client_login_timeout=10.0,
            )
        )
        workers = proxy.worker_pids()
        with Load(proxy.port, "limited", "db", 12) as load:
            load.wait_for_progress()
            mortal.kill9() if how == "kill -9" else mortal.stop(how)
            # At once, or when query_wait_timeout is over: the last answers may still have come.
            eventually(lambda: texts(load.errors), 15, "clients hear of it")
            mortal.start()
            with Sampler(mortal, "limited") as seen:
                load.wait_for_progress(seconds=20)
        assert not load.wrong
        strange = [t for t in texts(load.errors) if not any(e in t for e in EXPECTED)]
        assert not strange
        assert seen.most <= 4
        assert not seen.refusals
        assert proxy.worker_pids() == workers
        proxy.stop()


def test_errors_while_the_database_is_down(start_proxy: StartProxy, mortal: PostgresServer) -> None:
    """Each query gets PgBouncer's text with the reason at once; afterwards the same client goes on."""
    with role(mortal, "limited", 4):
        # One worker: the news that the server is back reaches another a moment after its first client.
        settings = {"server_login_retry": 0.5, "query_wait_timeout": 1.0}
        proxy = start_proxy(config(mortal, workers=1, **settings))
        with RoughClient(proxy.port) as early:
            early.log_in("limited", "db").query("select 1")
            mortal.kill9()
            eventually(lambda: fails_clearly(proxy), 15, "the cached error")
            mortal.start()
            eventually(lambda: works(proxy), 15, "clients are served again")
            assert early.query("select 1") == [("1",)]
        proxy.stop()


def fails_clearly(proxy: ProxyProcess) -> bool:
    """Whether a new client hears the cached error; it must hear an error in any case."""
    with RoughClient(proxy.port, timeout=3) as client, pytest.raises(ServerError) as caught:
        client.log_in("limited", "db").query("select 1")
    fields = caught.value.fields
    assert (fields["S"], fields["C"]) == ("FATAL", "08006")
    assert fields["H"]
    return fields["M"] == (
        "server login has been failing, cached error: connect failed: Connection refused"
        " (server_login_retry)"
    )


def works(proxy: ProxyProcess) -> bool:
    """Whether a new client gets an answer."""
    with RoughClient(proxy.port) as client:
        try:
            return client.log_in("limited", "db").query("select 1") == [("1",)]
        except ServerError:
            return False


def test_logins_without_a_database(start_proxy: StartProxy, mortal: PostgresServer) -> None:
    """Before the first server connection a log-in waits: until the database comes, or its time is up."""
    with role(mortal, "limited", 4):
        tables = config(mortal, server_login_retry=0.3, client_login_timeout=1.0)
        mortal.stop("immediate")
        proxy = start_proxy(tables)
        with RoughClient(proxy.port) as client, pytest.raises(ServerError) as caught:
            client.log_in("limited", "db")
        assert caught.value.message == "client_login_timeout (server down)"
        proxy.stop()
        # Recovery takes as long as it takes: this one has the time to wait for it.
        tables["poolproxy"]["client_login_timeout"] = 60
        proxy = start_proxy(tables)
        # The server has to be started by this thread, as it dies with the one that did.
        with ThreadPoolExecutor(1) as elsewhere:
            waiting = elsewhere.submit(works, proxy)
            mortal.start()
            assert waiting.result()
        proxy.stop()


def test_refusals_of_the_server_are_passed_on(
    start_proxy: StartProxy, mortal: PostgresServer
) -> None:
    """What PostgreSQL says to our log-in, such as a missing database, is what the client hears."""
    with role(mortal, "limited", 4):
        tables = config(mortal)
        tables["databases"]["db"]["dbname"] = "no_such_database"
        proxy = start_proxy(tables)
        with RoughClient(proxy.port) as client, pytest.raises(ServerError) as caught:
            client.log_in("limited", "db").query("select 1")
        assert 'database "no_such_database" does not exist' in caught.value.message
        assert caught.value.sqlstate == "3D000"
        eventually(lambda: not permits_out(proxy), 15, "no permit is out")
        proxy.stop()


def test_a_stopped_server_is_given_up(start_proxy: StartProxy, mortal: PostgresServer) -> None:
    """A server that hangs costs a log-in server_connect_timeout; when it goes on, so do clients."""
    with role(mortal, "limited", 4):
        proxy = start_proxy(
            config(
                mortal,
                server_connect_timeout=0.5,
                server_login_retry=0.2,
                query_wait_timeout=1.5,
                client_login_timeout=1.5,
                server_close_timeout=1.0,
            )
        )
        os.kill(mortal.pid, SIGSTOP)
        try:
            with RoughClient(proxy.port) as client, pytest.raises(ServerError) as caught:
                client.log_in("limited", "db").query("select 1")
            assert "client_login_timeout (server down)" in caught.value.message
        finally:
            os.kill(mortal.pid, SIGCONT)
        eventually(lambda: works(proxy), 15, "clients are served again")
        proxy.stop()


def test_a_starting_server_is_waited_for(start_proxy: StartProxy, mortal: PostgresServer) -> None:
    """ "The database system is starting up" (57P03) is no reason to refuse a client."""
    with role(mortal, "limited", 4), superuser(mortal) as connection:
        proxy = start_proxy(config(mortal, server_login_retry=0.2))
        connection.execute("create table ballast as select generate_series(1, 200000) as a")
        connection.execute("update ballast set a = a + 1")
        connection.close()
        mortal.kill9()
        with ThreadPoolExecutor(1) as elsewhere:
            waiting = elsewhere.submit(works, proxy)
            mortal.start()
            assert waiting.result()
        mortal.psql("drop table ballast")
        proxy.stop()


def test_clients_in_a_transaction_are_told(start_proxy: StartProxy, mortal: PostgresServer) -> None:
    """A transaction that was open when its backend was terminated is not silently begun anew."""
    with role(mortal, "limited", 4):
        proxy = start_proxy(config(mortal))
        with RoughClient(proxy.port) as client:
            client.log_in("limited", "db").query("begin; select 1")
            with superuser(mortal) as connection:
                connection.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where usename = 'limited'"
                )
            with pytest.raises(ServerError) as caught:
                client.query("insert into nowhere values (1)")
            assert caught.value.sqlstate in ("57P01", "08006")
        eventually(lambda: metric(proxy, "poolproxy_clients") == 0, 15, "no client is counted")
        proxy.stop()
