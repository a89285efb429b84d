"""A database server that lies, stalls or floods: clients get errors, and nothing leaks to others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest

from tests.fixtures.proxy import ProxyProcess, StartProxy
from tests.system.fake_database import (
    AUTHENTICATED,
    GREETING,
    KEY,
    READY,
    Conversation,
    FakeDatabase,
    error,
    parameter,
    result,
)
from tests.system.protocol_client import message
from tests.system.rough_client import Closed, RoughClient, ServerError
from tests.system.setups import PASSWORD
from tests.system.watching import descriptors, eventually, metric, permits_out, private_bytes

MEGABYTE = 1024 * 1024


def tables(ports: Mapping[str, int], **proxy: object) -> dict[str, Any]:
    """One worker before the fakes, a database for each by its name; everything times out soon."""
    defaults = {
        "auth_type": "trust",
        "pool_mode": "transaction",
        "workers": 1,
        "default_pool_size": 1,
        "server_connect_timeout": 1.0,
        "server_login_retry": 0.1,
        "client_login_timeout": 2.0,
        "query_wait_timeout": 2.0,
        "server_close_timeout": 1.0,
        "worker_timeout": 3.0,
    }
    return {
        "poolproxy": defaults | proxy,
        "databases": {name: {"host": "127.0.0.1", "port": ports[name]} for name in ports},
        "users": {"limited": {"password": PASSWORD}},
    }


def flood(*parts: bytes) -> Callable[[Conversation], None]:
    """Send the first parts once and the last one for ever."""

    def behave(talk: Conversation) -> None:
        talk.packet()
        talk.send(b"".join(parts[:-1]))
        while True:
            talk.send(parts[-1] * 1000)

    return behave


def say(data: bytes) -> Callable[[Conversation], None]:
    """Answer the start-up packet with ``data`` and wait for the proxy to go."""

    def behave(talk: Conversation) -> None:
        talk.packet()
        talk.send(data)
        talk.until_eof()

    return behave


def scram(iterations: str) -> Callable[[Conversation], None]:
    """Ask for SCRAM with that many iterations."""

    def behave(talk: Conversation) -> None:
        talk.packet()
        talk.send(message(b"R", b"\0\0\0\x0aSCRAM-SHA-256\0\0"))
        _, body = talk.message()
        nonce = body.rpartition(b"r=")[2].decode()
        first = f"r={nonce}more,s=c2FsdHNhbHQ=,i={iterations}"
        talk.send(message(b"R", b"\0\0\0\x0b" + first.encode()))
        talk.until_eof()

    return behave


def hang_up(talk: Conversation) -> None:
    """Close in the middle of a message."""
    talk.packet()
    talk.send(GREETING[:11])


LOGINS: dict[str, Callable[[Conversation], None]] = {
    "closes at once": lambda talk: None,
    "closes in the middle": hang_up,
    "silence": say(b""),
    "garbage": say(b"\xff\xfe" * 100),
    "HTTP": say(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "an empty error": say(message(b"E")),
    "an error without fields": say(message(b"E", b"\0")),
    "an error without a message": say(error(S="FATAL", C="28000")),
    "an error without its end": say(message(b"E", b"Mno zero byte")),
    "a huge error": say(b"E\x7f\xff\xff\xff" + bytes(200_000)),
    "length 0": say(b"R\0\0\0\0"),
    "length 3": say(b"R\0\0\0\3"),
    "length 2^31-1": say(b"R\x7f\xff\xff\xff" + bytes(100_000)),
    "an unknown method": say(message(b"R", b"\0\0\0\x63")),
    "an empty method": say(message(b"R")),
    "Kerberos": say(message(b"R", b"\0\0\0\2")),
    "SASL without mechanisms": say(message(b"R", b"\0\0\0\x0a\0")),
    "SASL with others": say(message(b"R", b"\0\0\0\x0aGS2-KRB5\0\0")),
    "SASL final first": say(message(b"R", b"\0\0\0\x0cv=abc")),
    "md5 without salt": say(message(b"R", b"\0\0\0\5")),
    "a billion iterations": scram("1000000000"),
    "no iterations": scram("0"),
    "negative iterations": scram("-1"),
    "endless iterations": scram("9" * 10000),
    "ready for a query in a transaction": say(AUTHENTICATED + KEY + message(b"Z", b"T")),
    "ready for a query, too long": say(AUTHENTICATED + KEY + message(b"Z", b"I" * 100)),
    "a short key": say(AUTHENTICATED + message(b"K", b"\0") + READY),
    "a broken parameter": say(AUTHENTICATED + message(b"S", b"name") + READY),
    "a row": say(AUTHENTICATED + message(b"D", b"\0\0") + READY),
    "endless parameters": flood(AUTHENTICATED, parameter("a", "b")),
    "endless new parameters": say(
        AUTHENTICATED + b"".join(parameter(f"name{i}", "x" * 100) for i in range(5000))
    ),
    "endless notices": flood(AUTHENTICATED, message(b"N", b"Mhello\0\0")),
    "endless bytes": flood(AUTHENTICATED, b"\0" * 1000),
    "endless authentication": flood(AUTHENTICATED),
}


@pytest.fixture(scope="module")
def refusals(start_module_proxy: StartProxy) -> dict[str, ServerError]:
    """What a client of each of these hears, all of them being asked at once through one worker."""
    with ExitStack() as stack:
        fakes = {n: stack.enter_context(FakeDatabase(behave)) for n, behave in LOGINS.items()}
        proxy = start_module_proxy(tables({name: fakes[name].port for name in fakes}))
        workers = proxy.worker_pids()
        before, held = private_bytes(workers[0]), descriptors(workers[0])
        pool = stack.enter_context(ThreadPoolExecutor(len(LOGINS)))
        heard = dict(zip(LOGINS, pool.map(partial(refusal, proxy), LOGINS), strict=True))
        assert proxy.worker_pids() == workers
        assert private_bytes(workers[0]) - before < 30 * MEGABYTE
    eventually(lambda: permits_out(proxy) == 0, 15, "permits come back")
    eventually(lambda: descriptors(workers[0]) <= held, 15, "no descriptor is left")
    return heard


def refusal(proxy: ProxyProcess, database: str) -> ServerError:
    with RoughClient(proxy.port, timeout=10) as client, pytest.raises(ServerError) as caught:
        client.log_in("limited", database).query("select 1")
    return caught.value


@pytest.mark.parametrize("name", LOGINS)
def test_hostile_logins(refusals: dict[str, ServerError], name: str) -> None:
    """Clients hear of a failure in time, and the worker stays alive, small and able to serve."""
    assert refusals[name].fields["S"] == "FATAL"
    assert refusals[name].message


def answering(answer: Callable[[Conversation, str], None]) -> Callable[[Conversation], None]:
    """Let the log-in succeed; ``answer`` is called for each query."""

    def behave(talk: Conversation) -> None:
        talk.packet()
        talk.send(GREETING)
        while True:
            code, body = talk.message()
            if code == b"Q":
                answer(talk, body[:-1].decode())

    return behave


ANSWERS = {
    "an extra ReadyForQuery": lambda sql: result(sql) + READY,
    "a whole extra result": lambda sql: result(sql) + result("somebody else's"),
    "an extra row": lambda sql: result(sql) + message(b"D", b"\0\0"),
    "an extra parameter and row": lambda sql: (
        result(sql) + parameter("a", "b") + message(b"D", b"\0\0")
    ),
    "half a message behind": lambda sql: result(sql) + b"D\0\0\1\0ab",
    "half a header behind": lambda sql: result(sql) + b"D\0",
    "a notification and a result": lambda sql: (
        result(sql) + message(b"A", b"\0\0\0\1a\0\0") + result("somebody else's")
    ),
    "unknown type": lambda sql: message(b"?", b"") + result(sql),
    "length 3": lambda sql: b"D\0\0\0\3" + result(sql),
    "length 0": lambda sql: b"T\0\0\0\0" + result(sql),
    "a huge ParameterStatus": lambda sql: b"S\x7f\xff\xff\xff" + bytes(100_000),
    "CopyBoth": lambda sql: message(b"W", bytes(3)) + result(sql),
    "authentication": lambda sql: AUTHENTICATED + result(sql),
}


@pytest.fixture(scope="module")
def liars(start_module_proxy: StartProxy) -> Iterator[ProxyProcess]:
    """A proxy before a database for each of the answers, given to queries that say "hostile"."""

    def lie(made: Callable[[str], bytes], talk: Conversation, sql: str) -> None:
        talk.send(made(sql) if "hostile" in sql else result(sql))

    with ExitStack() as stack:
        ports = {
            name: stack.enter_context(FakeDatabase(answering(partial(lie, made)))).port
            for name, made in ANSWERS.items()
        }
        yield start_module_proxy(tables(ports))


@pytest.mark.parametrize("name", ANSWERS)
def test_no_answer_reaches_another_client(liars: ProxyProcess, name: str) -> None:
    """What a server sends beyond what it owes ends it; no client ever sees what is not its own."""
    workers = liars.worker_pids()
    with RoughClient(liars.port) as other:
        other.log_in("limited", name)
        for number in range(3):
            ask(liars, name, f"hostile {number}")
            tag = f"harmless {number}"
            assert other.query(tag) == [(tag,)]
    assert liars.worker_pids() == workers


def ask(proxy: ProxyProcess, database: str, sql: str) -> None:
    """Ask by a client of its own; an answer, if there is one, is the right one."""
    with RoughClient(proxy.port, timeout=5) as client:
        client.log_in("limited", database)
        try:
            assert client.query(sql) == [(sql,)]
        except (ServerError, Closed):
            pass


UNSOLICITED = {
    "a notification and a notice": message(b"A", b"\0\0\0\1a\0\0") + message(b"N", b"Mhello\0\0"),
    "a notification and ReadyForQuery": message(b"A", b"\0\0\0\1a\0\0") + READY,
    "half a notification": message(b"A", b"\0\0\0\1a\0\0")[:7],
    "a notice": message(b"N", b"Mhello\0\0"),
    "an error": error(S="FATAL", C="57P01", M="bye"),
    "ReadyForQuery": READY,
    "a zero byte": b"\0",
}


class Chatterbox(FakeDatabase):
    """Says something unasked after the query "first", when it may ``speak``."""

    def __init__(self, unsolicited: bytes) -> None:
        self.speak = threading.Event()

        def answer(talk: Conversation, sql: str) -> None:
            talk.send(result(sql))
            if sql == "first":
                self.speak.wait(5)
                talk.send(unsolicited)

        super().__init__(answering(answer))


@pytest.fixture(scope="module")
def chatterboxes(
    start_module_proxy: StartProxy,
) -> Iterator[tuple[ProxyProcess, dict[str, Chatterbox]]]:
    """A proxy before a database for each of these messages."""
    with ExitStack() as stack:
        fakes = {name: stack.enter_context(Chatterbox(said)) for name, said in UNSOLICITED.items()}
        yield start_module_proxy(tables({name: fakes[name].port for name in fakes})), fakes


@pytest.mark.parametrize("name", UNSOLICITED)
def test_unsolicited_messages_on_an_idle_server(
    chatterboxes: tuple[ProxyProcess, dict[str, Chatterbox]], name: str
) -> None:
    """An idle server that speaks is closed, and the next query goes to another connection."""
    proxy, fakes = chatterboxes
    with RoughClient(proxy.port) as client:
        client.log_in("limited", name)
        assert client.query("first") == [("first",)]
        before = proxy.log.count("idle server got dirty")
        fakes[name].speak.set()
        eventually(
            lambda: proxy.log.count("idle server got dirty") > before, 10, "its server is closed"
        )
        assert client.query("second") == [("second",)]
    assert fakes[name].connections == 2


def test_notifications_on_an_idle_server(start_proxy: StartProxy) -> None:
    """A notification for nobody is dropped, and the server stays."""
    notify, notified = threading.Event(), threading.Event()

    def answer(talk: Conversation, sql: str) -> None:
        talk.send(result(sql))
        if sql == "first":
            notify.wait(5)
            talk.send(message(b"A", b"\0\0\0\1channel\0text\0") * 2)
            notified.set()

    with FakeDatabase(answering(answer)) as database:
        proxy = start_proxy(tables({"db": database.port}))
        with RoughClient(proxy.port) as client:
            client.log_in("limited", "db")
            assert client.query("first") == [("first",)]
            notify.set()
            assert notified.wait(5)
            metric(proxy, "poolproxy_clients")  # a round through acceptor and worker
            assert client.query("second") == [("second",)]
        assert database.connections == 1
        proxy.stop()


def test_an_endless_result_after_its_client_has_left(start_proxy: StartProxy) -> None:
    """Who goes on sending whatever happens costs only abandoned_work_timeout and server_close_timeout."""

    def answer(talk: Conversation, sql: str) -> None:
        while "endless" in sql:
            talk.send(message(b"D", bytes(10_000)) * 100)
        talk.send(result(sql))

    with FakeDatabase(answering(answer)) as database:
        limits = {"query_wait_timeout": 10.0, "abandoned_work_timeout": 1.0}
        proxy = start_proxy(tables({"db": database.port}, **limits))
        workers = proxy.worker_pids()
        with RoughClient(proxy.port) as client, RoughClient(proxy.port) as other:
            other.log_in("limited", "db")
            client.log_in("limited", "db").send(message(b"Q", b"endless\0"))
            client.sock.recv(1000)
            client.reset()
            assert other.query("another") == [("another",)]
        assert proxy.worker_pids() == workers
        proxy.stop()
