"""Statement mode: a server for each statement, and no transactions."""

from __future__ import annotations

import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.protocol_client import (
    SYNC,
    query,
    run,
)
from tests.system.support import client, tables


@pytest.fixture(scope="module")
def proxy(start_module_proxy: StartProxy, postgres: PostgresServer) -> ProxyProcess:
    """One worker, so that all clients of a pool meet in it."""
    databases = {
        f"statement{size}": {"pool_mode": "statement", "pool_size": size} for size in (1, 3)
    }
    return start_module_proxy(tables(postgres, databases, workers=1))


def test_statement_mode_serves_statements(proxy: ProxyProcess) -> None:
    """Statements outside of transactions work, with several in one query, too."""
    with client(proxy, "statement1") as one, client(proxy, "statement1") as two:
        assert one.backend() == two.backend()
        assert one.query("select 1; select 2") == [("1",), ("2",)]
        one.pipeline("select 3")
        assert one.results() == [("3",)]


@pytest.mark.parametrize("protocol", ["simple", "extended"])
def test_statement_mode_refuses_transactions_in_a_pipeline(
    proxy: ProxyProcess, protocol: str
) -> None:
    """BEGIN to COMMIT in one write: the client ends as if it had waited for each answer."""
    with client(proxy, "statement1") as one, client(proxy, "statement1") as two:
        one.send(
            *(query(s) if protocol == "simple" else run(s) + SYNC for s in ("begin", "commit"))
        )
        error = one.farewell()
        assert error.message == "transaction blocks not allowed in statement pooling mode"
        assert two.value("select pg_current_xact_id_if_assigned() is null") == "t"


@pytest.mark.parametrize("protocol", ["simple", "extended"])
def test_statement_mode_refuses_transactions(proxy: ProxyProcess, protocol: str) -> None:
    """BEGIN ends the client, with PgBouncer's words and the setting as a hint, and its transaction."""
    with client(proxy, "statement1") as one, client(proxy, "statement1") as two:
        pid = one.backend()
        one.send(query("begin") if protocol == "simple" else run("begin") + SYNC)
        error = one.farewell()
        assert error.message == "transaction blocks not allowed in statement pooling mode"
        assert error.fields["S"] == "FATAL"
        assert error.sqlstate == "08P01"
        assert "pool_mode" in error.hint
        assert two.backend() == pid
        assert two.value("select pg_current_xact_id_if_assigned() is null") == "t"
