"""What a start-up packet may ask for, beyond the parameters that PostgreSQL reports."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.protocol_client import SYNC, ErrorAnswer, bind, close, execute, parse, refusal
from tests.system.support import client, sample, tables

MODES = ("transaction", "session", "statement")
# PostgreSQL's defaults, and what clients ask for in its place.
WISHES = {
    "extra_float_digits": ("1", "3"),
    "geqo": ("on", "off"),
    "statement_timeout": ("0", "7min"),
    "work_mem": ("4MB", "3MB"),
    "search_path": ('"$user", public', "pg_temp, public"),
    "default_transaction_read_only": ("off", "on"),
    "role": ("none", "pg_monitor"),
}


@pytest.fixture(scope="module")
def proxy(start_module_proxy: StartProxy, postgres: PostgresServer) -> ProxyProcess:
    """One server for all clients of a database."""
    databases = {mode: {"pool_mode": mode, "pool_size": 1} for mode in MODES}
    return start_module_proxy(tables(postgres, databases, workers=1))


def default(postgres: PostgresServer, name: str) -> str:
    """What a server connection of the pool has by itself."""
    return postgres.psql(f"show {name}")


@pytest.mark.parametrize("name", WISHES)
@pytest.mark.parametrize("mode", MODES)
def test_every_parameter_is_in_effect(
    proxy: ProxyProcess, postgres: PostgresServer, mode: str, name: str
) -> None:
    """As a parameter of its own and in options; who comes next has the server's default."""
    usual, wanted = default(postgres, name), WISHES[name][1]
    assert usual == WISHES[name][0]
    escaped = wanted.replace(" ", "\\ ")
    for asked in ({name.upper(): wanted}, {"options": f"-c {name}={escaped}"}):
        with client(proxy, mode, **asked) as one:
            assert one.value(f"show {name}") == wanted
            assert one.parameters.get(name, wanted) == wanted
            one.terminate()
        with client(proxy, mode) as two:
            assert two.value(f"show {name}") == usual
            assert two.parameters.get(name, usual) == usual
            two.terminate()


@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_parameters_follow_their_client(proxy: ProxyProcess, mode: str) -> None:
    """Clients that share a server each see their own, time and again, and none sees another's."""
    asked: list[dict[str, str]] = [
        {},
        {"options": "-c geqo=off -c my.tenant=one"},
        {"options": "-c my.tenant=two -c work_mem=3MB", "TimeZone": "Asia/Tokyo"},
        {"role": "pg_monitor", "my.tenant": "schéma 'ü'"},
    ]
    sql = (
        "select concat_ws('|', current_setting('geqo'), current_setting('my.tenant', true),"
        " current_setting('work_mem'), current_user, current_setting('TimeZone'))"
    )
    clients = [client(proxy, mode, **each) for each in asked]
    zone = clients[0].parameters["TimeZone"]
    expected = [
        ["on", "", "4MB", "postgres", zone],
        ["off", "one", "4MB", "postgres", zone],
        ["on", "two", "3MB", "postgres", "Asia/Tokyo"],
        ["on", "schéma 'ü'", "4MB", "pg_monitor", zone],
    ]
    clients[1].query("select 1")  # PostgreSQL knows the name my.tenant from now on
    pids = set()
    for _ in range(3):
        for one, values in zip(clients, expected, strict=True):
            assert one.value(sql) == "|".join(values)
            pids.add(one.backend())
    assert len(pids) == 1
    for one in clients:
        one.close()


def test_equal_wishes_cost_nothing(proxy: ProxyProcess, admin: psycopg.Connection) -> None:
    """Clients that ask for the same share a server without a query between them."""
    options = "-c geqo=off -c work_mem=3MB"
    with (
        client(proxy, "transaction", options=options) as one,
        client(proxy, "transaction", WORK_MEM="3MB", geqo="off") as two,
    ):
        one.query("select 'one'")
        pid = one.backend()
        assert two.value("select 'two'") == "two"
        row = admin.execute("select query from pg_stat_activity where pid = %s", [pid]).fetchone()
        assert row == ("select 'two'",)
        assert two.backend() == pid


@pytest.mark.parametrize("mode", ["transaction", "session"])
@pytest.mark.parametrize(
    ("parameters", "text", "sqlstate"),
    [
        ({"nonsense": "1"}, 'unrecognized configuration parameter "nonsense"', "42704"),
        (
            {"options": "-c geqo=maybe"},
            'parameter "geqo" requires a Boolean value',
            "22023",
        ),
        ({"TimeZone": "No/Where"}, 'invalid value for parameter "TimeZone": "No/Where"', "22023"),
        ({"role": "nobody"}, 'role "nobody" does not exist', "22023"),
        ({"log_connections": "off"}, "log_connections", "55P02"),
        ({"server_version": "1"}, 'parameter "server_version" cannot be changed', "55P02"),
    ],
)
def test_what_postgresql_refuses(
    proxy: ProxyProcess, mode: str, parameters: dict[str, str], text: str, sqlstate: str
) -> None:
    """The client gets PostgreSQL's own error, at the latest at its first query; others go on as before."""
    before = sample(proxy, "poolproxy_pool_server_closes_total", database=mode)
    with client(proxy, mode) as other:
        pid = other.backend()
        other.terminate()
    with pytest.raises(ErrorAnswer) as caught, client(proxy, mode, **parameters) as one:
        one.query("select 1")
    assert caught.value.fields["S"] == "FATAL"
    assert text in caught.value.message
    assert caught.value.sqlstate in (sqlstate, "42501")
    assert "ignore_startup_parameters" in caught.value.hint
    with client(proxy, mode) as other:
        assert other.backend() == pid
        other.terminate()
    assert sample(proxy, "poolproxy_pool_server_closes_total", database=mode) == before


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"no sense": "1"}, "unsupported startup parameter: no sense"),
        (
            {"session_authorization": "postgres"},
            "unsupported startup parameter: session_authorization",
        ),
        ({"options": "-c a-!b=1"}, "unsupported startup parameter in options: a_!b"),
        ({"options": "-c non!sense=1"}, "unsupported startup parameter in options: non!sense"),
        (
            {"options": "-d 5"},
            "unsupported options startup parameter:"
            " only '-c config=val' and '--config=val' are allowed",
        ),
        ({f"my.a{n}": "" for n in range(51)}, "too many startup parameters"),
        ({"my.a": "x" * 4096}, "too many startup parameters"),
        ({"TimeZone": "x" * 1025}, "invalid value for startup parameter: TimeZone is too long"),
    ],
)
def test_what_is_refused_at_log_in(
    proxy: ProxyProcess, parameters: dict[str, str], text: str
) -> None:
    """What can be no parameter, and more than is kept for a client."""
    error = refusal((proxy.host, proxy.port), "transaction", "postgres", **parameters)
    assert (error.fields["S"], error.message, error.sqlstate) == ("FATAL", text, "08P01")


def test_a_short_statement_timeout_strikes_its_own_client_only(proxy: ProxyProcess) -> None:
    """However short it is: what a client leaves behind is taken away before the next is served."""
    with client(proxy, "transaction") as plain:
        for _ in range(20):
            with (
                client(proxy, "transaction", statement_timeout="1") as hasty,
                pytest.raises(ErrorAnswer, match="57014"),
            ):
                hasty.query("select pg_sleep(5)")
            assert plain.value("show statement_timeout") == "0"


def test_many_clients_with_wishes_on_few_servers(
    start_proxy: StartProxy, postgres: PostgresServer
) -> None:
    """Under load, with transactions and pipelines, each client sees its own values."""
    databases = {"db": {"pool_mode": "transaction", "pool_size": 3}}
    proxy = start_proxy(tables(postgres, databases, workers=2))

    def work(number: int) -> None:
        asked = {"my.number": str(number), "application_name": f"client {number % 3}"}
        if number % 2:
            asked["work_mem"] = f"{number}MB"
        sql = (
            "select current_setting('my.number') || current_setting('work_mem')"
            " || current_setting('application_name')"
        )
        expected = f"{number}{asked.get('work_mem', '4MB')}client {number % 3}"
        with client(proxy, "db", **asked) as one:
            for turn in range(40):
                if turn % 3:
                    assert one.value(sql) == expected
                else:
                    one.pipeline(sql, sql)
                    assert [one.results(), one.results()] == [[(expected,)], [(expected,)]]

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work, number) for number in range(1, 9)]:
            future.result(60)


def test_ignored_parameters(start_proxy: StartProxy, postgres: PostgresServer) -> None:
    """ignore_startup_parameters drops its names, also inside options; with the name options all there."""
    databases = {"db": {"pool_mode": "transaction", "pool_size": 1}}
    for ignored in (
        ["WORK_MEM", "session_authorization"],
        ["session_authorization", "work_mem", "options"],
    ):
        proxy = start_proxy(
            tables(postgres, databases, workers=1, ignore_startup_parameters=ignored)
        )
        everything = {"work_mem": "1MB", "session_authorization": "x", "geqo_threshold": "5"}
        options = "-c work_mem=1MB -c timezone=UTC -c geqo=off"
        with client(proxy, "db", options=options, **everything) as one:
            assert one.value("show work_mem") == "4MB"
            assert one.value("show timezone") == "UTC"
            assert one.value("show geqo_threshold") == "5"
            assert one.value("show geqo") == ("on" if "options" in ignored else "off")


def test_application_name_add_host(start_proxy: StartProxy, postgres: PostgresServer) -> None:
    """PostgreSQL sees where each client comes from, however long the name is."""
    databases = {"db": {"pool_mode": "transaction", "pool_size": 1}}
    config = tables(postgres, databases, workers=1, application_name_add_host=True)
    proxy = start_proxy(config)
    long = "x" * 80
    for given, expected in (
        ({"application_name": "mine"}, "mine"),
        ({"Application_Name": "mine"}, "mine"),
        ({"options": "-c application_name=mine"}, "mine"),
        ({"application_name": ""}, "app"),
        ({}, "app"),
        ({"application_name": long}, long),
    ):
        with client(proxy, "db", **given) as one:
            host, port = one.sock.getsockname()
            where = f" - {host}:{port}"
            name = expected[: 63 - len(where)] + where
            assert one.parameters["application_name"] == name
            assert one.value("show application_name") == name


def test_extra_tracked_parameters(start_proxy: StartProxy, postgres: PostgresServer) -> None:
    """track_extra_parameters adds what PostgreSQL reports: search_path from version 18 on.

    What it does not report is applied at start-up all the same.
    """
    databases = {"db": {"pool_mode": "transaction", "pool_size": 1}}
    config = tables(
        postgres, databases, workers=1, track_extra_parameters=["IntervalStyle", "search_path"]
    )
    proxy = start_proxy(config)
    with (
        client(proxy, "db") as one,
        client(proxy, "db") as two,
        client(proxy, "db", search_path="schéma, public") as three,
    ):
        assert three.value("show search_path") == "schéma, public"
        one.query("set search_path to pg_temp, public; set intervalstyle to iso_8601")
        assert one.parameters["IntervalStyle"] == "iso_8601"
        reported = postgres.version >= 18
        assert ("search_path" in one.parameters) == reported
        assert two.value("show intervalstyle") == "postgres"
        if reported:
            assert two.value("show search_path") == '"$user", public'
            assert one.value("show search_path") == "pg_temp, public"
        assert three.value("show search_path") == "schéma, public"


@pytest.mark.parametrize("encoding", ["LATIN1", "SJIS", "UTF8"])
def test_client_encoding_at_start_up(proxy: ProxyProcess, encoding: str) -> None:
    """Bytes are converted from and to it in every transaction, whoever had the server before."""
    text = {"LATIN1": "ä", "SJIS": "表", "UTF8": "𝛑"}[encoding]
    codec = {"SJIS": "shift_jis"}.get(encoding, encoding)
    with (
        client(proxy, "transaction", client_encoding=encoding) as one,
        client(proxy, "transaction") as other,
    ):
        assert one.parameters["client_encoding"] == encoding
        for _ in range(2):
            other.query("select 1")
            one.send(_query_in(codec, f"select '{text}', ascii('{text}')::text"))
            row = next(reply for reply in one.read_until("Z") if reply.code == "D")
            data = text.encode(codec)
            assert len(data).to_bytes(4, "big") + data in row.body
            assert str(ord(text)).encode() in row.body


def _query_in(codec: str, sql: str) -> bytes:
    body = sql.encode(codec) + b"\0"
    return b"Q" + (len(body) + 4).to_bytes(4, "big") + body


@pytest.mark.parametrize("name", ["search_path", "role"])
def test_prepared_statements_are_shared_where_they_mean_the_same(
    proxy: ProxyProcess, admin: psycopg.Connection, name: str
) -> None:
    """A table's name stands for different tables, as search_path and role say: none gets another's."""
    admin.execute(
        """
        create role ann; create schema ann; create table ann.thing (a int);
        insert into ann.thing values (1); grant usage on schema ann to public;
        create role bea; create schema bea; create table bea.thing (b text, c int);
        insert into bea.thing values ('x', 2); grant usage on schema bea to public;
        grant select on ann.thing, bea.thing to public
        """
    )
    try:
        with (
            client(proxy, "transaction", **{name: "ann"}) as one,
            client(proxy, "transaction", **{name: "bea"}) as two,
        ):
            for _ in range(2):
                for each, row in ((one, ("1",)), (two, ("x", "2"))):
                    each.send(parse("s", "select * from thing"), bind("s"), execute())
                    each.send(close("s"), SYNC)
                    assert each.results() == [row]
    finally:
        admin.execute("drop schema ann, bea cascade; drop role ann, bea")
