"""Cancel requests under way, as SHOW POOLS and the metrics count them."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest

from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.consoles import give, one
from tests.system.fake_database import CANCEL, GREETING, READY, Conversation, FakeDatabase, error
from tests.system.protocol_client import ErrorAnswer, RawClient, cancel_request, query
from tests.system.support import Tables, client, eventually, sample

COLUMNS = {
    "cl_active_cancel_req": "client_active_cancel_connections",
    "cl_waiting_cancel_req": "client_waiting_cancel_connections",
    "sv_active_cancel": "server_active_cancel_connections",
    "sv_being_canceled": "server_being_canceled_connections",
}
ENDED = error(S="ERROR", C="57014", M="canceling statement due to user request") + READY


def config(port: int) -> Tables:
    return {
        "poolproxy": {
            "auth_type": "trust",
            "pool_mode": "transaction",
            "workers": 2,
            "admin_users": ["boss"],
        },
        "databases": {"db": {"host": "127.0.0.1", "port": port, "pool_size": 1}},
        "users": {name: {"password": "unused"} for name in ("postgres", "boss")},
    }


def counts(proxy: ProxyProcess) -> tuple[int, ...]:
    """Those of SHOW POOLS; the exporter's names must say the same."""
    while True:
        row = one(give(proxy, "show pools"), database="db")
        shown = tuple(row[name] for name in COLUMNS)
        page = proxy.get("/metrics/pgbouncer")[1].splitlines()
        told = tuple(
            int(float(line.split()[-1]))
            for name in COLUMNS.values()
            for line in page
            if line.startswith(f"pgbouncer_pools_{name}{{") and 'database="db"' in line
        )
        if shown == told:
            return shown


def ask(proxy: ProxyProcess, key: tuple[int, bytes]) -> RawClient:
    """A canceller; its connection is closed when the cancel is done."""
    canceller = RawClient((proxy.host, proxy.port), log_in=False)
    canceller.send(cancel_request(key))
    return canceller


def test_cancel_requests_under_way_are_counted(start_proxy: StartProxy) -> None:
    """One is on its way, the next waits for its end; a server that is free meanwhile is nobody's."""
    answer, done = threading.Event(), threading.Event()

    def behave(talk: Conversation) -> None:
        if talk.packet_or_cancel().startswith(CANCEL):
            done.wait()
            return
        talk.send(GREETING)
        while True:
            talk.message()
            answer.wait()
            talk.send(ENDED)

    with ExitStack() as stack:
        database = stack.enter_context(FakeDatabase(behave))
        for event in (answer, done):
            stack.callback(event.set)
        proxy = start_proxy(config(database.port))
        victim = stack.enter_context(client(proxy, "db"))
        victim.send(query("select pg_sleep(60)"))
        eventually(lambda: one(give(proxy, "show pools"), database="db")["sv_active"], "it runs")
        assert counts(proxy) == (0, 0, 0, 0)
        cancellers = [ask(proxy, victim.key)]
        eventually(lambda: counts(proxy) == (1, 0, 1, 0), "one is on its way")
        cancellers.append(ask(proxy, victim.key))
        eventually(lambda: counts(proxy) == (1, 1, 1, 0), "the other waits for it")
        answer.set()
        with pytest.raises(ErrorAnswer, match="57014"):
            victim.results()
        eventually(lambda: counts(proxy) == (1, 1, 1, 1), "the server is not free yet")
        servers = give(proxy, "show servers")
        assert one(servers, database="db")["state"] == "being_canceled"
        for state in ("active", "waiting"):
            assert sample(proxy, "poolproxy_pool_cancel_requests", state=state) == 1
        done.set()
        for canceller in cancellers:
            assert canceller.at_end()
            canceller.close()
        eventually(lambda: counts(proxy) == (0, 0, 0, 0), "all is done")
        assert one(give(proxy, "show pools"), database="db")["sv_idle"] == 1
