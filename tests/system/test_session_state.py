"""What clients of transaction mode leave in a server's session, and what becomes of it."""

from __future__ import annotations

import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.protocol_client import SYNC, parse, query, run
from tests.system.session_texts import HARMLESS, do
from tests.system.support import client, eventually, sample, tables
from tests.wire.prepared_traffic import EXECUTE, ask, bind, column

POLICIES = ("allow", "reset", "pin", "error")
CHANGES = "poolproxy_pool_session_state_changes_total"
RESETS = "poolproxy_pool_session_resets_total"

# (kind, the texts that leave something, what shows it, what it shows when nothing is there)
LEFT = (
    ("set", ["set statement_timeout = '7s'"], "show statement_timeout", "0"),
    ("set", ["begin", "set statement_timeout = '7s'", "commit"], "show statement_timeout", "0"),
    ("set", ["select 1; set statement_timeout = '7s'; select 2"], "show statement_timeout", "0"),
    ("set", ["set role pg_monitor"], "select current_user", "postgres"),
    ("set", ["set session authorization pg_monitor"], "select session_user", "postgres"),
    (
        "set",
        ["set session characteristics as transaction read only"],
        "show default_transaction_read_only",
        "off",
    ),
    ("listen", ["listen somewhere"], "select count(*) from pg_listening_channels()", "0"),
    (
        "prepare",
        ["begin", "prepare left_over as select 1", "rollback"],
        "select count(*) from pg_prepared_statements where name = 'left_over'",
        "0",
    ),
    (
        "cursor",
        ["begin", "declare c cursor with hold for select 1", "commit"],
        "select count(*) from pg_cursors where name = 'c'",
        "0",
    ),
    ("temp", ["create temp table pp_t (n int)"], "select to_regclass('pg_temp.pp_t')", None),
    ("temp", ["create temp table pp_t as select 1"], "select to_regclass('pg_temp.pp_t')", None),
    (
        "temp",
        ["begin", "select 1 into temp pp_t", "commit"],
        "select to_regclass('pg_temp.pp_t')",
        None,
    ),
)


@pytest.fixture(scope="module")
def proxy(start_module_proxy: StartProxy, postgres: PostgresServer) -> ProxyProcess:
    """Pools of one server connection, so that the next client gets it."""
    databases: dict[str, dict[str, object]] = {
        policy: {"session_state": policy, "pool_size": 1} for policy in POLICIES
    }
    databases["configured"] = {"pool_size": 1, "connect_query": "set lock_timeout = '3s'"}
    databases["statement"] = {"pool_size": 1, "pool_mode": "statement"}
    return start_module_proxy(tables(postgres, databases, workers=1, pool_mode="transaction"))


def resets(proxy: ProxyProcess, database: str = "reset") -> float:
    return sample(proxy, RESETS, database=database)


# -- reset -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
@pytest.mark.parametrize(("kind", "texts", "probe", "nothing"), LEFT)
def test_the_next_client_meets_nothing_of_it(
    proxy: ProxyProcess,
    kind: str,
    texts: list[str],
    probe: str,
    nothing: str | None,
    extended: bool,
) -> None:
    """reset: the server connection is cleaned, kept, and counted by the kind."""
    if extended and ";" in texts[0]:
        texts = ["select 1", texts[0].split("; ")[1]]
    before = sample(proxy, CHANGES, database="reset", kind=kind), resets(proxy)
    with client(proxy, "reset") as first, client(proxy, "reset") as second:
        backend = second.backend()
        do(first, texts, extended=extended)
        assert second.value(probe) == nothing
        assert second.backend() == backend
    after = sample(proxy, CHANGES, database="reset", kind=kind), resets(proxy)
    assert after == (before[0] + 1, before[1] + 1)


@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
@pytest.mark.parametrize("texts", HARMLESS, ids=str)
def test_what_ends_with_the_transaction_costs_no_reset(
    proxy: ProxyProcess, texts: list[str], extended: bool
) -> None:
    """SET LOCAL, what was rolled back, what was taken back, what follows the client."""
    if extended:
        texts = [text for joined in texts for text in joined.split("; ")]
    before = resets(proxy)
    with client(proxy, "reset") as one:
        do(one, texts, extended=extended)
        one.query("select 1")
    assert resets(proxy) == before


def test_a_pipeline_is_looked_through(proxy: ProxyProcess) -> None:
    """Statements sent in pieces before any answer, the one that matters being followed by a harmless one."""
    with client(proxy, "reset") as first, client(proxy, "reset") as second:
        first.query("begin")
        first.send(query("set statement_timeout = '7s'"))
        first.send(query("set local lock_timeout = '1s'"))
        first.send(query("commit"))
        for _ in range(3):
            first.replies()
        assert second.value("show statement_timeout") == "0"


def test_a_prepared_statement_is_known_by_its_text(proxy: ProxyProcess) -> None:
    """Bind names a statement whose text came long before."""
    with client(proxy, "reset") as first, client(proxy, "reset") as second:
        first.send(parse("harmless", "set local lock_timeout = '1s'"), SYNC)
        first.send(parse("setting", "set statement_timeout = '7s'"), SYNC)
        first.replies()
        first.replies()
        before = resets(proxy)
        first.send(bind("harmless") + EXECUTE + SYNC)
        first.replies()
        second.query("select 1")
        assert resets(proxy) == before
        first.send(bind("setting") + EXECUTE + SYNC)
        first.replies()
        assert second.value("show statement_timeout") == "0"
        assert resets(proxy) == before + 1


def test_shared_prepared_statements_outlive_a_reset(proxy: ProxyProcess) -> None:
    """Those of the protocol stay on the server connection: they are not made again."""
    with client(proxy, "reset") as first, client(proxy, "reset") as second:
        second.send(parse("mine", "select 'mine'"), bind("mine"), EXECUTE, SYNC)
        assert second.results() == [("mine",)]
        made = sample(proxy, "poolproxy_pool_server_parses_total", database="reset")
        for text in ("set statement_timeout = '7s'", "prepare p as select 1", "listen x"):
            first.query(text)
            second.send(bind("mine"), EXECUTE, SYNC)
            assert second.results() == [("mine",)]
        assert sample(proxy, "poolproxy_pool_server_parses_total", database="reset") == made


def test_load_costs_the_server_connection(proxy: ProxyProcess) -> None:
    """Nothing unloads a library."""
    with client(proxy, "reset") as first, client(proxy, "reset") as second:
        backend = first.backend()
        first.query("load 'plpgsql'")
        assert second.backend() != backend


def test_start_up_parameters_outlive_a_reset(proxy: ProxyProcess) -> None:
    """A client's own stay its own when somebody else resets or sets them, or it does so itself."""
    mine = client(proxy, "reset", statement_timeout="9s")
    with mine, client(proxy, "reset") as other:
        assert mine.value("show statement_timeout") == "9s"
        other.query("set statement_timeout = '7s'")
        assert mine.value("show statement_timeout") == "9s"
        mine.query("reset statement_timeout")
        assert mine.value("show statement_timeout") == "9s"
        assert other.value("show statement_timeout") == "0"


def test_connect_query_is_run_again(proxy: ProxyProcess) -> None:
    """What it has set is not lost by the reset of all parameters."""
    with client(proxy, "configured") as first, client(proxy, "configured") as second:
        assert second.value("show lock_timeout") == "3s"
        before = resets(proxy, "configured")
        first.query("set statement_timeout = '7s'")
        assert second.value("show statement_timeout") == "0"
        assert second.value("show lock_timeout") == "3s"
        assert resets(proxy, "configured") == before + 1


def test_statement_mode_is_guarded(proxy: ProxyProcess) -> None:
    """As transaction mode is."""
    with client(proxy, "statement") as first, client(proxy, "statement") as second:
        first.query("set statement_timeout = '7s'")
        assert second.value("show statement_timeout") == "0"


def test_a_client_that_leaves_amid_its_transaction_leaves_nothing(proxy: ProxyProcess) -> None:
    """PREPARE survives the ROLLBACK that ends what it has abandoned."""
    with client(proxy, "reset") as second:
        first = client(proxy, "reset")
        first.query("begin")
        first.query("prepare left_over as select 1")
        first.query("set statement_timeout = '7s'")
        first.close()
        sql = "select count(*) from pg_prepared_statements where name = 'left_over'"
        assert second.value(sql) == "0"
        assert second.value("show statement_timeout") == "0"


# -- pin -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text", "undo"),
    [
        ("set", "set statement_timeout = '7s'", "reset statement_timeout"),
        ("set", "set role pg_monitor", "reset role"),
        ("listen", "listen somewhere", "unlisten *"),
        ("prepare", "prepare p as select 1", "deallocate p"),
        ("temp", "create temp table pp_t (n int)", "drop table pp_t"),
        ("temp", "create temp table pp_t as select 1", "discard all"),
    ],
)
def test_a_pinned_client_keeps_its_server_until_it_has_cleaned_up(
    proxy: ProxyProcess, kind: str, text: str, undo: str
) -> None:
    """Others wait for it; the gauge tells the reason."""
    pinned = ("poolproxy_pool_pinned_clients", kind)
    with client(proxy, "pin") as first, client(proxy, "pin") as second:
        first.query(text)
        second.send(query("select 'served'"))
        assert sample(proxy, pinned[0], database="pin", reason=kind) == 1
        for _ in range(3):
            first.query("select 1")
        assert second.is_silent()
        first.query(undo)
        assert second.results() == [("served",)]
        assert sample(proxy, pinned[0], database="pin") == 0


def test_a_pinned_client_that_leaves_leaves_nothing(proxy: ProxyProcess) -> None:
    """Its server connection is cleaned as with reset."""
    with client(proxy, "pin") as second:
        first = client(proxy, "pin")
        backend = first.backend()
        first.query("set statement_timeout = '7s'")
        assert first.value("show statement_timeout") == "7s"
        assert first.backend() == backend
        first.terminate()
        assert second.value("show statement_timeout") == "0"
        assert second.backend() == backend


# -- allow -----------------------------------------------------------------------------------------------


def test_allow_is_as_in_pgbouncer_but_counted_and_logged_once(proxy: ProxyProcess) -> None:
    """The next client meets it; the log names application and statement, once."""
    with (
        client(proxy, "allow", application_name="leaky") as first,
        client(proxy, "allow") as second,
    ):
        before = sample(proxy, CHANGES, database="allow", kind="set")
        for _ in range(3):
            first.query("set statement_timeout = '7s'")
        assert second.value("show statement_timeout") == "7s"
        assert sample(proxy, CHANGES, database="allow", kind="set") == before + 3
        assert resets(proxy, "allow") == 0
        second.query("reset statement_timeout")
    line = "application 'leaky' leaves session state behind (SET statement_timeout)"
    eventually(lambda: line in proxy.log, "a line in the log")
    assert proxy.log.count("application 'leaky'") == 1


# -- what the client has given at its start --------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "reset",
    [
        query("discard all"),
        query("reset all"),
        query("reset work_mem; select 1"),
        run("discard all") + SYNC,
        parse("by name", "discard all") + bind("by name") + EXECUTE + SYNC,
        query("begin") + run("reset work_mem") + SYNC + query("commit"),
    ],
    ids=["discard", "all", "several", "unnamed", "named", "block"],
)
def test_a_reset_is_over_with_its_pipeline(proxy: ProxyProcess, policy: str, reset: bytes) -> None:
    """What is sent along with a reset has the server's value; the next request has the client's own again."""
    with client(proxy, policy, work_mem="7MB") as one, client(proxy, policy) as two:
        for _ in range(2):
            shown = column(ask(one.sock, reset + query("show work_mem")))
            assert shown[-1] == "4MB"
            assert one.value("show work_mem") == "7MB"
            assert two.value("show work_mem") == "4MB"


def test_a_reset_lasts_while_the_server_is_pinned(proxy: ProxyProcess) -> None:
    """The server connection is brought to its client's parameters when it is taken again."""
    with client(proxy, "pin", work_mem="7MB") as one:
        one.query("listen somewhere")
        assert one.value("show work_mem") == "7MB"
        one.query("reset work_mem")
        assert one.value("show work_mem") == "4MB"
        one.query("unlisten *")
        assert one.value("show work_mem") == "7MB"


# -- pieces ----------------------------------------------------------------------------------------------


def test_tags_are_seen_however_the_answer_is_cut(proxy: ProxyProcess) -> None:
    """Many statements whose answers fill more than one read: the one in the middle is found."""
    with client(proxy, "reset") as first, client(proxy, "reset") as second:
        for size in (1000, 65_000, 65_530, 70_000):
            before = resets(proxy)
            rows = f"select repeat('x', {size})"
            first.query(f"{rows}; set statement_timeout = '7s'; {rows}")
            assert second.value("show statement_timeout") == "0"
            assert resets(proxy) == before + 1
