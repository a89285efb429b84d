"""The unnamed statement beyond the Sync of its Parse, as pg8000, psql's \\gdesc and others use it."""

from __future__ import annotations

import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.protocol_client import (
    FLUSH,
    SYNC,
    ErrorAnswer,
    RawClient,
    bind,
    close,
    describe,
    execute,
    parse,
    query,
    run,
)
from tests.system.support import client, tables

EXECUTION = bind("") + describe("", "P") + execute() + SYNC
LONG = "/*" + 2**20 * "x" + "*/ "  # longer than what is kept of a statement


@pytest.fixture(scope="module", params=["transaction", "statement"])
def database(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def proxy(start_module_proxy: StartProxy, one_postgres: PostgresServer) -> ProxyProcess:
    """One server for all clients of a mode."""
    modes = ("transaction", "statement")
    databases = {mode: {"pool_mode": mode, "pool_size": 1} for mode in modes}
    return start_module_proxy(tables(one_postgres, databases, workers=1))


def rows(one: RawClient, data: bytes) -> list[tuple[str | None, ...]]:
    one.send(data)
    return one.results()


def test_each_client_has_its_own(proxy: ProxyProcess, database: str) -> None:
    """Parse and Bind in segments of their own: nobody executes what another has parsed."""
    with client(proxy, database) as one, client(proxy, database) as two:
        rows(one, parse("", "select 'one'") + SYNC)
        rows(two, parse("", "select 'two'") + SYNC)
        rows(one, describe("") + SYNC)
        for _ in range(2):
            assert rows(one, EXECUTION) == [("one",)]
            assert rows(two, EXECUTION) == [("two",)]
        # Other requests replace it, as with PostgreSQL.
        assert rows(one, run("select 'whole'") + SYNC) == [("whole",)]
        assert rows(one, EXECUTION) == [("whole",)]
        rows(two, parse("", "select 'new'") + SYNC)
        assert rows(two, EXECUTION) == [("new",)]


@pytest.mark.parametrize(
    "used", [bind("") + execute() + SYNC, describe("") + SYNC], ids=["bind", "describe"]
)
def test_none_is_nobodys(proxy: ProxyProcess, database: str, used: bytes) -> None:
    """A client without an unnamed statement gets 26000, not another client's statement."""
    with client(proxy, database) as one, client(proxy, database) as two:
        rows(one, run("select 'secret of one'") + SYNC)
        for _ in range(2):
            with pytest.raises(
                ErrorAnswer, match="26000: unnamed prepared statement does not exist"
            ):
                rows(two, used)
        rows(two, parse("", "select 'two'") + SYNC)
        assert rows(two, EXECUTION) == [("two",)]


@pytest.mark.parametrize("named", [b"", parse("named", "select 1") + SYNC])
@pytest.mark.parametrize(
    "sql", ["select 5", "deallocate all", "deallocate named", "select 'discard'"]
)
def test_a_simple_query_takes_it_away(
    proxy: ProxyProcess, database: str, named: bytes, sql: str
) -> None:
    """Whatever it says, and also where it fails; as with PostgreSQL itself."""
    for text in (sql, f"{sql}; select 1/0"):
        with client(proxy, database) as one:
            if named:
                rows(one, named)
            rows(one, parse("", "select 'before'") + SYNC)
            assert rows(one, EXECUTION) == [("before",)]
            one.send(query(text))
            one.read_until("Z")
            for used in (EXECUTION, describe("") + SYNC):
                with pytest.raises(ErrorAnswer, match="26000: unnamed prepared"):
                    rows(one, used)


def test_parse_in_pieces(proxy: ProxyProcess, database: str) -> None:
    """A Parse that comes in pieces, of a client that is known to use it so; and errors in it."""
    with client(proxy, database) as one, client(proxy, database) as two:
        rows(one, parse("", "select 'whole'") + SYNC)
        data = parse("", "select 'pieces'") + SYNC
        for i in range(len(data)):
            one.send(data[i : i + 1])
        one.results()
        rows(two, parse("", "select 'two'") + SYNC)
        assert rows(one, EXECUTION) == [("pieces",)]
        with pytest.raises(ErrorAnswer):
            rows(one, parse("", "select nothing_at_all") + SYNC)
        with pytest.raises(ErrorAnswer) as caught:
            rows(one, EXECUTION)
        assert caught.value.sqlstate == "26000"


def test_long_ones(proxy: ProxyProcess, database: str) -> None:
    """One that is too long to be kept works within its segment."""
    with client(proxy, database) as one:
        rows(one, parse("", "select 'short'") + SYNC)
        assert rows(one, parse("", f"{LONG} select 'long'") + EXECUTION) == [("long",)]
        rows(one, parse("", "select 'short'") + SYNC)
        assert rows(one, EXECUTION) == [("short",)]


@pytest.mark.parametrize(
    "used", [bind("") + execute() + SYNC, describe("") + SYNC], ids=["bind", "describe"]
)
def test_none_is_nobodys_within_a_transaction(proxy: ProxyProcess, used: bytes) -> None:
    """Also where a prepared statement has begun the transaction, which leaves the unnamed one as it is."""
    with client(proxy, "transaction") as one, client(proxy, "transaction") as two:
        rows(two, parse("begin", "begin") + SYNC)
        rows(one, run("select 'secret of one'") + SYNC)
        rows(two, bind("begin") + describe("", "P") + execute() + SYNC)
        with pytest.raises(ErrorAnswer) as caught:
            rows(two, used)
        assert caught.value.sqlstate == "26000"


def test_within_a_transaction_it_is_the_clients_own(proxy: ProxyProcess) -> None:
    """Parsed in one segment, used in others."""
    with client(proxy, "transaction") as one:
        rows(one, parse("", "begin") + bind("") + describe("", "P") + execute() + SYNC)
        rows(one, parse("", "select 'mine'") + SYNC)
        for _ in range(2):
            assert rows(one, EXECUTION) == [("mine",)]
        one.send(query("commit"))
        one.results()


def test_a_parse_in_a_segment_of_its_own_before_its_batch(
    proxy: ProxyProcess, database: str
) -> None:
    """A client with named statements sends the Parse of a DEALLOCATE alone, and later what executes it."""
    with client(proxy, database) as one:
        for sql, result in (("deallocate all", []), ("select 'deallocate'", [("deallocate",)])):
            rows(one, close("named") + parse("named", "select 1") + SYNC)
            one.send(parse("", sql), FLUSH)
            one.read_until("1")
            assert rows(one, EXECUTION) == result
