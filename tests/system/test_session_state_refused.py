"""session_state = "error": what would leave something in a server's session is refused."""

from __future__ import annotations

import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.protocol_client import SYNC, ErrorAnswer, query, run
from tests.system.session_texts import HARMLESS, do
from tests.system.support import client, sample, tables


@pytest.fixture(scope="module")
def proxy(start_module_proxy: StartProxy, postgres: PostgresServer) -> ProxyProcess:
    """A pool of one server connection."""
    databases = {"error": {"session_state": "error", "pool_size": 1}}
    return start_module_proxy(tables(postgres, databases, workers=1, pool_mode="transaction"))


@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("set search_path = x", "SET search_path"),
        ("select 1; /* ; */ listen x", "LISTEN"),
        ("Prepare p as select 1", "PREPARE"),
        ("declare c cursor with hold for select 1", "DECLARE CURSOR WITH HOLD"),
        ("create temp table pp_t as select 1", "CREATE TEMP TABLE"),
        ("load 'plpgsql'", "LOAD"),
    ],
)
def test_a_statement_is_refused_and_the_session_lives_on(
    proxy: ProxyProcess, text: str, named: str, extended: bool
) -> None:
    """error: 0A000, with the statement named; the transaction has failed as after any error."""
    with client(proxy, "error") as one:
        for opened in (False, True):
            if opened:
                one.query("begin")
            one.send(run(text) + SYNC if extended else query(text))
            with pytest.raises(ErrorAnswer) as caught:
                one.replies()
            assert (caught.value.sqlstate, caught.value.fields["S"]) == ("0A000", "ERROR")
            assert caught.value.message == f"{named} is not allowed (session_state)"
            assert "session_state" in caught.value.hint
            assert one.status == ("E" if opened else "I")
        one.query("rollback")
        assert one.value("select 'alive'") == "alive"


def test_refused_statements_are_counted(proxy: ProxyProcess) -> None:
    """Among the errors that poolproxy itself has made."""
    with client(proxy, "error") as one:
        name = "poolproxy_pool_errors_total"
        before = sample(proxy, name, database="error", reason="session_state")
        one.send(query("listen x"))
        with pytest.raises(ErrorAnswer):
            one.replies()
        assert sample(proxy, name, database="error", reason="session_state") == before + 1


@pytest.mark.parametrize("texts", HARMLESS[:2] + HARMLESS[4:7] + HARMLESS[9:], ids=str)
def test_what_leaves_nothing_is_not_refused(proxy: ProxyProcess, texts: list[str]) -> None:
    """SET LOCAL, tracked parameters, what drops itself."""
    with client(proxy, "error") as one:
        do(one, texts)
        do(one, ["rollback", "reset all", "discard all"])


def test_a_refused_statement_amid_a_pipeline(proxy: ProxyProcess) -> None:
    """What came before it in its batch is undone, what comes behind the Sync is done; sent byte by byte."""
    with client(proxy, "error") as one:
        one.query("create table if not exists pp_refused (n int)")
        batch = (
            run("insert into pp_refused values (1)") + run("listen x") + SYNC + query("select 'on'")
        )
        for at in range(len(batch)):
            one.send(batch[at : at + 1])
        with pytest.raises(ErrorAnswer) as caught:
            one.replies()
        assert caught.value.sqlstate == "0A000"
        assert one.results() == [("on",)]
        assert one.value("select count(*) from pp_refused") == "0"
        one.query("drop table pp_refused")
