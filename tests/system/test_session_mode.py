"""Session mode is like a connection of one's own: the process id, what RESET goes back to, and no leaks."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import psycopg
import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.conftest import MakeRoles
from tests.system.protocol_client import ErrorAnswer, RawClient, cancel_request, query
from tests.system.setups import config, role
from tests.system.support import client, eventually, is_running, last_query, sample, tables
from tests.system.watching import Sampler, superuser

DATABASES = ("plain", "notify", "two", "one", "room", "reclaim", "storm", "bad", "shared")
SIZES = {"room": 2, "one": 1, "two": 2, "reclaim": 2, "storm": 3}
STYLE, TIMEOUT = "German, DMY", "1234ms"


@pytest.fixture(scope="module")
def proxy(
    start_module_proxy: StartProxy, postgres: PostgresServer, make_roles: MakeRoles
) -> ProxyProcess:
    """One worker, so that all clients of a pool meet in it."""
    make_roles("neighbour", "sleepy")
    databases: dict[str, dict[str, object]] = {
        name: {"pool_mode": "session", "pool_size": SIZES.get(name, 6)} for name in DATABASES
    }
    databases["shared"] |= {"max_db_connections": 2}
    users = {"neighbour": {}, "sleepy": {"client_idle_timeout": "0.5s"}}
    return start_module_proxy(tables(postgres, databases, users, workers=1))


@pytest.fixture(scope="module")
def spread(start_module_proxy: StartProxy, postgres: PostgresServer) -> ProxyProcess:
    """Two workers."""
    databases = {"db": {"pool_mode": "session", "pool_size": 3}}
    return start_module_proxy(tables(postgres, databases, workers=2))


def url(proxy: ProxyProcess, database: str) -> str:
    return proxy.url(user="postgres", password="unused", database=database)


def show(one: RawClient, *names: str) -> list[str | None]:
    return [one.value(f"show {name}") for name in names]


def logins(proxy: ProxyProcess, database: str, server: str) -> float:
    name = "poolproxy_pool_session_logins_total"
    return sample(proxy, name, database=database, server=server)


def wait_until_free(admin: psycopg.Connection, pid: int) -> None:
    """Wait until a server whose client has left can be had again."""
    eventually(lambda: last_query(admin, pid) == ("idle", "DISCARD ALL"), "the server is reset")


def true_pid(one: RawClient) -> bool:
    """Whether the client was told the process id of the server that it has."""
    return one.key[0] == one.backend()


# -- the process id ------------------------------------------------------------------------------------


def test_the_client_is_told_the_real_process_id(proxy: ProxyProcess) -> None:
    """libpq's PQbackendPID() is pg_backend_pid(), for several clients at once and one after the other."""
    for _ in range(2):
        with (
            psycopg.connect(url(proxy, "plain")) as one,
            psycopg.connect(url(proxy, "plain")) as two,
        ):
            for each in (one, two):
                assert each.execute("select pg_backend_pid()").fetchone() == (
                    each.info.backend_pid,
                )
            assert one.info.backend_pid != two.info.backend_pid


def test_the_sender_of_a_notification_is_the_one_that_was_told(proxy: ProxyProcess) -> None:
    """NOTIFY's process id tells a listener its own notifications from those of others."""
    with client(proxy, "notify") as one, client(proxy, "notify") as two:
        one.query("listen news")
        two.query("notify news")
        one.send(query("notify news"))
        heard = [reply.body for reply in one.replies() if reply.code == "A"]
        assert [int.from_bytes(body[:4], "big") for body in heard] == [two.key[0], one.key[0]]


def test_a_client_can_end_its_own_backend(proxy: ProxyProcess) -> None:
    """pg_terminate_backend with the process id that was told ends this connection, as without a pooler."""
    with client(proxy, "plain") as one:
        with pytest.raises(ErrorAnswer) as caught:
            one.query(f"select pg_terminate_backend({one.key[0]})")
        assert caught.value.sqlstate == "57P01"


def test_blocking_pids_are_those_that_were_told(
    proxy: ProxyProcess, admin: psycopg.Connection
) -> None:
    """An isolation tester finds out who waits for whom."""
    with client(proxy, "plain") as one, client(proxy, "plain") as two:
        one.query("begin; select pg_advisory_xact_lock(815)")
        two.send(query("select pg_advisory_xact_lock(815)"))
        sql = "select pg_blocking_pids(%s)"
        eventually(
            lambda: admin.execute(sql, [two.key[0]]).fetchone() == ([one.key[0]],),
            "the second client waits for the first one",
        )
        one.query("commit")
        two.results()


def test_a_cancel_with_the_told_key_ends_the_query(proxy: ProxyProcess) -> None:
    """The secret is ours, so the key is good at the pooler, and only there for this client."""
    with client(proxy, "plain") as one, client(proxy, "plain") as other:
        assert true_pid(one)
        one.send(query("select pg_sleep(60)"))
        wrong = (one.key[0], other.key[1])
        for key in (wrong, one.key):
            with RawClient((proxy.host, proxy.port), log_in=False) as canceller:
                canceller.send(cancel_request(key))
                assert canceller.at_end()
        with pytest.raises(ErrorAnswer) as caught:
            one.results()
        assert caught.value.sqlstate == "57014"
        assert other.value("select 1") == "1"


# -- start-up parameters -------------------------------------------------------------------------------


def test_reset_goes_back_to_the_start_up_parameters(proxy: ProxyProcess) -> None:
    """RESET and RESET ALL restore what the client gave, of reported and unreported parameters."""
    options = f"-c statement_timeout={TIMEOUT}"
    with client(proxy, "plain", datestyle="German", options=options) as one:
        assert true_pid(one)
        assert one.parameters["DateStyle"] == STYLE
        for reset in ("reset datestyle; reset statement_timeout", "reset all", "discard all"):
            one.query("set datestyle = iso; set statement_timeout = 77")
            assert show(one, "datestyle", "statement_timeout") == ["ISO, DMY", "77ms"]
            one.query(reset)
            assert show(one, "datestyle", "statement_timeout") == [STYLE, TIMEOUT]


def test_libpq_environment(proxy: ProxyProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """PGDATESTYLE, PGOPTIONS and PGAPPNAME go into the server's start-up."""
    given = {"PGDATESTYLE": "german", "PGOPTIONS": "-c work_mem=123kB", "PGAPPNAME": "nightly"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with psycopg.connect(url(proxy, "plain"), autocommit=True) as one:
        one.execute("set datestyle = iso; set work_mem = '1MB'; set application_name = 'x'")
        one.execute("reset all")
        shown = [
            one.execute(f"show {name}").fetchone()
            for name in ("datestyle", "work_mem", "application_name")
        ]
    assert shown == [(STYLE,), ("123kB",), ("nightly",)]


def test_an_equal_server_is_used_again(proxy: ProxyProcess, admin: psycopg.Connection) -> None:
    """The next client with the same parameters gets the idle server that was opened with them."""
    parameters = {"timezone": "Asia/Tokyo", "options": "-c geqo=off"}
    with client(proxy, "two", **parameters) as one:
        pid = one.backend()
        one.query("set timezone = 'UTC'; set geqo = on")
    wait_until_free(admin, pid)
    with client(proxy, "two", **parameters) as two:
        assert two.key[0] == two.backend() == pid
        assert show(two, "timezone", "geqo") == ["Asia/Tokyo", "off"]


def test_nothing_leaks_to_clients_without_these_parameters(proxy: ProxyProcess) -> None:
    """In a full pool the next client gets its own values although the server was opened with others."""
    with client(proxy, "one") as one:
        usual = show(one, "timezone", "search_path", "statement_timeout")
        one.query("set search_path = nowhere; set role pg_monitor; set work_mem = '123kB'")
    with client(proxy, "one", timezone="Asia/Tokyo") as one:
        assert show(one, "timezone", "search_path", "role") == ["Asia/Tokyo", usual[1], "none"]
    with client(proxy, "one", options=f"-c statement_timeout={TIMEOUT} -c search_path=x") as one:
        assert show(one, "timezone", "search_path", "statement_timeout") == [usual[0], "x", TIMEOUT]
    for _ in range(2):
        with client(proxy, "one") as one:
            assert show(one, "timezone", "search_path", "statement_timeout") == usual


def test_a_server_with_unreported_parameters_is_for_those_who_have_the_same(
    proxy: ProxyProcess, postgres: PostgresServer, admin: psycopg.Connection
) -> None:
    """It is kept while there is room, and gives way to a client whose parameters it can't have."""
    with (
        client(proxy, "reclaim", options="-c geqo=off") as special,
        client(proxy, "reclaim") as one,
    ):
        special_pid = special.key[0]
        assert true_pid(special)
        special.terminate()
        wait_until_free(admin, special_pid)
        with client(proxy, "reclaim", options="-c geqo=off") as again:
            assert again.key[0] == special_pid
        with client(proxy, "reclaim") as two:
            assert is_running(admin, special_pid)
            assert show(two, "geqo") == ["on"]
            assert not is_running(admin, special_pid)
            assert two.backend() != one.backend()


def test_parameters_that_postgresql_refuses(proxy: ProxyProcess) -> None:
    """The client gets PostgreSQL's error at its log-in, and nobody else notices."""
    with client(proxy, "bad") as one:
        for options, sqlstate in (
            ("-c no_such_thing=1", "42704"),
            ("-c work_mem=lots", "22023"),
            ("-c fsync=off", "55P02"),
        ):
            with pytest.raises(ErrorAnswer) as caught:
                client(proxy, "bad", options=options)
            assert caught.value.sqlstate == sqlstate
        with client(proxy, "bad", timezone="Asia/Tokyo") as two:
            assert true_pid(two)
        assert true_pid(one)


def test_the_address_in_the_application_name_keeps_servers_equal(
    start_proxy: StartProxy, one_postgres: PostgresServer
) -> None:
    """application_name_add_host gives each client a name of its own, but not a server of its own."""
    database = {"db": {"pool_mode": "session", "pool_size": 5}}
    proxy = start_proxy(tables(one_postgres, database, workers=1, application_name_add_host=True))
    pids = set()
    for _ in range(3):
        with client(proxy, "db", application_name="report", datestyle="german") as one:
            (name,) = show(one, "application_name")
            assert name == f"report - 127.0.0.1:{one.sock.getsockname()[1]}"
            assert true_pid(one)
            pids.add(one.backend())
        with superuser(one_postgres) as admin:
            wait_until_free(admin, one.key[0])
    assert len(pids) == 1


# -- when there is no room -----------------------------------------------------------------------------


def test_in_a_full_pool_a_client_gets_its_server_later(proxy: ProxyProcess) -> None:
    """It logs in at once, waits with its first query, and has its parameters then."""
    with client(proxy, "one") as one:
        assert true_pid(one)
        with client(proxy, "one", timezone="Asia/Tokyo", options="-c geqo=off") as two:
            two.send(query("select current_setting('timezone'), current_setting('geqo')"))
            eventually(
                lambda: sample(proxy, "poolproxy_pool_clients", database="one", state="waiting"),
                "the second client waits",
            )
            one.terminate()
            assert two.results() == [("Asia/Tokyo", "off")]
            assert not true_pid(two)


def test_a_server_that_was_not_used_makes_room(
    proxy: ProxyProcess, admin: psycopg.Connection
) -> None:
    """Who has not sent a query yet loses the server to one who does, and gets another when it does."""
    with ExitStack() as stack:
        first, second, third = [stack.enter_context(client(proxy, "room")) for _ in range(3)]
        told = [one.key[0] for one in (first, second)]
        assert second.backend() == told[1]
        pid = third.backend()
        assert pid not in told
        assert not is_running(admin, told[0])
        assert second.backend() == told[1]
        first.send(query("select pg_backend_pid()"))
        third.terminate()
        assert first.results() == [(str(pid),)]


def test_an_unused_server_makes_room_for_another_user(
    proxy: ProxyProcess,
) -> None:
    """Under max_db_connections, which the pools of all users share."""
    with client(proxy, "shared") as one, client(proxy, "shared") as two:
        assert true_pid(one)
        with client(proxy, "shared", "neighbour") as three:
            assert three.backend() not in (one.key[0], two.key[0])


def test_logins_that_never_query_starve_nobody(proxy: ProxyProcess) -> None:
    """A storm of clients that only log in, against three that work in sessions of their own."""
    over = threading.Event()
    idlers: list[RawClient] = []

    def storm() -> None:
        while not over.is_set() and len(idlers) < 300:
            idlers.append(client(proxy, "storm"))

    thread = threading.Thread(target=storm)
    thread.start()
    try:
        for _ in range(10):
            with ExitStack() as stack:
                workers = [stack.enter_context(client(proxy, "storm")) for _ in range(3)]
                assert len({one.backend() for one in workers}) == 3
    finally:
        over.set()
        thread.join()
        for idler in idlers:
            idler.terminate()
    assert logins(proxy, "storm", "later") > 0


def test_an_idle_client_without_a_query_meets_client_idle_timeout(proxy: ProxyProcess) -> None:
    """It is idle whether it has got a server at its log-in or not."""
    one, two = client(proxy, "one", "sleepy"), client(proxy, "one", "sleepy")
    assert [each.farewell().message for each in (one, two)] == ["client_idle_timeout"] * 2


def test_limits_are_exact_over_workers(
    start_proxy: StartProxy, one_postgres: PostgresServer
) -> None:
    """With CONNECTION LIMIT equal to pool_size PostgreSQL refuses nobody, whatever clients ask for."""
    with role(one_postgres, "sessions", limit=4) as name:
        settings = config(one_postgres, name, pool_mode="session", default_pool_size=4)
        proxy = start_proxy(settings)
        styles = [{}, {"datestyle": "German"}, {"options": "-c geqo=off"}, {"timezone": "UTC"}]
        failures: list[str] = []

        def work(number: int) -> None:
            for turn in range(8):
                try:
                    with client(proxy, "db", name, **styles[(number + turn) % 4]) as one:
                        if (number + turn) % 3:
                            one.value("select 1")
                except ErrorAnswer as error:
                    failures.append(str(error))

        with Sampler(one_postgres, name) as sampler:
            threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert not failures
        assert sampler.most <= 4
        assert sampler.refusals == 0
        proxy.stop()


def test_clients_of_all_workers_are_told_the_truth(spread: ProxyProcess) -> None:
    """While the pool has room, each worker opens servers for its clients."""
    with ExitStack() as stack:
        clients = [stack.enter_context(client(spread, "db")) for _ in range(3)]
        assert all(true_pid(one) for one in clients)
        fourth = stack.enter_context(client(spread, "db"))
        clients[0].terminate()
        assert fourth.value("select 1") == "1"


def test_nothing_leaks_to_clients_of_another_worker(
    start_proxy: StartProxy, postgres: PostgresServer
) -> None:
    """An idle server of another worker that was opened with a client's parameters is for those who have the
    same, like one of this worker.
    """
    shop = {"pool_mode": "session", "pool_size": 2}
    proxy = start_proxy(tables(postgres, {"shop": shop}, workers=2))
    with client(proxy, "shop"):  # it is at one worker, so the next ones come to the other in turn
        for _ in range(4):
            with client(proxy, "shop", work_mem="7MB") as special:
                assert special.value("show work_mem") == "7MB"
            for _ in range(2):
                with client(proxy, "shop") as plain:
                    assert plain.value("show work_mem") == "4MB"
