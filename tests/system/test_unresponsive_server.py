"""A server that listens and says nothing: what is asked of it ends in time, by the settings for it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.fixtures.proxy import HOST, StartProxy
from tests.system.fake_database import GREETING, Conversation, FakeDatabase, result
from tests.system.protocol_client import RawClient, cancel_request, query, startup
from tests.system.support import Tables, client, eventually, sample

SHORT = 0.5  # seconds, the timeouts here
SLACK = 3.0  # seconds by which a busy machine may be late
GIVEN_UP = "closing because: connect timeout"


def tables(port: int, **proxy: object) -> Tables:
    """One worker before the server of this port."""
    return {
        "poolproxy": {"auth_type": "trust", "pool_mode": "transaction", "workers": 1, **proxy},
        "databases": {"db": {"host": HOST, "port": port, "pool_size": 1}},
        "users": {"postgres": {"password": "unused"}},
    }


@contextmanager
def deaf(backlog: int) -> Iterator[int]:
    """The port of a listener that accepts nobody; with few places in its queue all are taken."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((HOST, 0), backlog=backlog))
        address = listener.getsockname()
        for _ in range(2 if backlog == 0 else 0):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        yield address[1]


@pytest.mark.parametrize("backlog", [0, 100], ids=["while connecting", "while logging in"])
def test_server_connect_timeout(start_proxy: StartProxy, backlog: int) -> None:
    """A connection that is not made, or made and not answered, is given up and tried again."""
    with deaf(backlog) as port:
        settings = {
            "server_connect_timeout": SHORT,
            "server_login_retry": 0.1,
            "server_close_timeout": 0.1,
        }
        proxy = start_proxy(tables(port, **settings))
        with RawClient((proxy.host, proxy.port), log_in=False) as one:
            began = time.monotonic()
            one.send(startup({"user": "postgres", "database": "db"}))
            for number in (1, 2):
                eventually(lambda n=number: proxy.log.count(GIVEN_UP) >= n, f"timeout {number}")
                assert number * SHORT * 0.9 <= time.monotonic() - began <= number * SHORT + SLACK
        proxy.stop()


def test_clients_hear_of_a_connect_timeout(start_proxy: StartProxy) -> None:
    """After a connect timeout who waits goes on waiting; who asks from then on is told at once."""

    def behave(talk: Conversation) -> None:
        talk.packet()
        if database.connections == 1:
            talk.send(GREETING)
            talk.message()
        else:
            talk.until_eof()

    with FakeDatabase(behave) as database:
        proxy = start_proxy(tables(database.port, server_connect_timeout=SHORT))
        with client(proxy, "db") as one, client(proxy, "db") as two, client(proxy, "db") as three:
            one.send(query("ends its server"))
            assert one.farewell().message == "server conn crashed?"
            two.send(query("needs another, and waits"))
            eventually(lambda: GIVEN_UP in proxy.log, "the timeout")
            for _ in range(2):  # the news to the acceptor, and from there to the worker
                sample(proxy, "poolproxy_clients")
            assert two.is_silent()
            three.send(query("needs another, too"))
            error = three.farewell()
        words = "server login has been failing, cached error: connect timeout (server_login_retry)"
        assert (error.message, error.sqlstate) == (words, "08006")
        proxy.stop()


def test_cancel_wait_timeout(start_proxy: StartProxy) -> None:
    """A cancel that the server leaves open lets its sender go on after the timeout; as it may still
    arrive, the server serves nobody else.
    """
    asked, go_on = threading.Event(), threading.Event()

    def behave(talk: Conversation) -> None:
        try:
            talk.packet()
        except EOFError:  # a CancelRequest
            talk.until_eof()
            return
        talk.send(GREETING)
        while True:
            _, body = talk.message()
            sql = body[:-1].decode()
            if sql == "long":
                asked.set()
                go_on.wait(20)
            talk.send(result(sql))

    with FakeDatabase(behave) as database:
        proxy = start_proxy(tables(database.port, cancel_wait_timeout=SHORT))
        with client(proxy, "db") as one:
            one.send(query("long"))
            assert asked.wait(5)
            began = time.monotonic()
            with RawClient((proxy.host, proxy.port), log_in=False) as canceller:
                canceller.send(cancel_request(one.key))
                assert canceller.at_end()
            assert SHORT * 0.9 <= time.monotonic() - began <= SHORT + SLACK
            go_on.set()
            assert one.results() == [("long",)]
            assert one.query("next") == [("next",)]
        name = "poolproxy_worker_cancel_requests_total"
        eventually(lambda: sample(proxy, name, outcome="unconfirmed") == 1, "it is counted")
        assert database.connections == 3
        proxy.stop()
