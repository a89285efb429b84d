"""Bytes that no client should send: a clear error or a close, and nothing else happens."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Iterator

import psycopg
import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import ProxyProcess, started_proxies
from tests.system.protocol_client import (
    GSSENC_REQUEST,
    SSL_REQUEST,
    SYNC,
    TERMINATE,
    cancel_request,
    message,
    query,
)
from tests.system.rough_client import Closed, RoughClient, ServerError, errors_in, startup
from tests.system.setups import PASSWORD, config, role
from tests.system.watching import descriptors, eventually, metric, permits_out

MOST_SECONDS = 5.0  # a peer that has sent nonsense is gone after this long
HTTP = b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl/8\r\nAccept: */*\r\n\r\n"
GOOD = startup("limited", "db")


@pytest.fixture(scope="session")
def postgres(one_postgres: PostgresServer) -> PostgresServer:
    """One version of PostgreSQL is enough for all of this module."""
    return one_postgres


@pytest.fixture(scope="module", params=["scram-sha-256", "trust"])
def proxy(postgres: PostgresServer, request: pytest.FixtureRequest) -> Iterator[ProxyProcess]:
    """Two workers that give a log-in one second."""
    tables = config(
        postgres, auth_type=request.param, client_login_timeout=1.0, default_pool_size=4
    )
    with role(postgres, "limited"), started_proxies() as start:
        yield start(tables)


with_scram = pytest.mark.parametrize("proxy", ["scram-sha-256"], indirect=True)
with_trust = pytest.mark.parametrize("proxy", ["trust"], indirect=True)


@pytest.fixture(autouse=True)
def unharmed(proxy: ProxyProcess) -> Iterator[None]:
    """Every test here leaves the same workers, with as many descriptors, able to serve."""
    serve(proxy)
    workers = proxy.worker_pids()
    # The descriptors of servers differ by how many are idle now; each permit is one in its worker
    # and its duplicate in the acceptor.
    before = spare_descriptors(proxy)
    yield
    serve(proxy)
    assert proxy.worker_pids() == workers
    assert "Traceback" not in proxy.log
    eventually(lambda: metric(proxy, "poolproxy_clients") == 0, 15, "no client is counted")
    eventually(lambda: spare_descriptors(proxy) <= before, 15, "no descriptor is left")
    assert permits_out(proxy) <= 4


def spare_descriptors(proxy: ProxyProcess) -> float:
    family = (proxy.pid, *proxy.worker_pids())
    return sum(map(descriptors, family)) - 2 * permits_out(proxy)


def serve(proxy: ProxyProcess) -> None:
    """A client with the right password gets an answer."""
    url = proxy.url(user="limited", password=PASSWORD.replace(" ", "%20"), database="db")
    with psycopg.connect(url, connect_timeout=5) as connection:
        assert connection.execute("select 1").fetchone() == (1,)


def answer(proxy: ProxyProcess, data: bytes) -> list[ServerError]:
    """What the proxy says before it closes; fails if it doesn't close."""
    with RoughClient(proxy.port, timeout=MOST_SECONDS) as client:
        client.sock.sendall(data)
        return errors_in(client.until_eof())


def packed(*numbers: int) -> bytes:
    return struct.pack(f"!{len(numbers)}I", *numbers)


FIRST_PACKETS = {
    "length 0": (packed(0, 196608), "bad packet header"),
    "length 0 and no more": (packed(0), "bad packet header"),
    "length 3 and no more": (packed(3), "bad packet header"),
    "length 3": (packed(3, 196608), "bad packet header"),
    "length 4": (packed(4, 196608), "bad packet header"),
    "length 7": (packed(7, 196608), "bad packet header"),
    "length 2^31-1": (packed(2**31 - 1, 196608), "bad packet header"),
    "length 2^32-1": (packed(2**32 - 1, 196608), "bad packet header"),
    "length 10001": (packed(10001, 196608), "bad packet header"),
    "no parameters": (packed(8, 196608), "invalid startup packet layout"),
    "no user": (packed(9, 196608) + b"\0", "no username supplied"),
    "no zero byte": (packed(16, 196608) + b"useruser", "invalid startup packet layout"),
    "odd strings": (packed(14, 196608) + b"user\0\0", "invalid startup packet layout"),
    "not UTF-8": (startup(b"\xff\xfe", "db"), "text is not UTF-8"),
    "a long user": (startup("u" * 9000, "db"), "too long"),
    "a long database": (startup("limited", "d" * 9000), ""),
    "protocol 2": (packed(296, 2 << 16) + bytes(288), "old V2 protocol not supported"),
    "protocol 9": (packed(8, 9 << 16), "bad packet header"),
    "HTTP": (HTTP, "bad packet header"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), "bad packet header"),
    "SSH": (b"SSH-2.0-OpenSSH_9.9\r\n", "bad packet header"),
    "zeros": (bytes(4096), "bad packet header"),
    "bytes behind SSL": (SSL_REQUEST + GOOD, "received unencrypted data after SSL request"),
    "bytes behind GSS": (GSSENC_REQUEST + GOOD, "received unencrypted data after GSSAPI"),
    "cancel without a key": (packed(8, 80877102), "bad packet header"),
    "half a packet": (GOOD[:20], "client_login_timeout"),
    "silence": (b"", "client_login_timeout"),
    "an unexpected message": (GOOD + query("select 1"), "unknown pkt"),
    "an empty password": (GOOD + message(b"p", b"\0"), ""),
    "SASL garbage": (GOOD + message(b"p", b"SCRAM-SHA-256\0\0\0\0\4\xff\xfe\0,"), ""),
    "SASL length": (GOOD + message(b"p", b"SCRAM-SHA-256\0" + packed(2**31 - 1) + b"n,,"), ""),
    "another mechanism": (GOOD + message(b"p", b"GS2-KRB5\0" + packed(0)), ""),
    "a huge password": (GOOD + b"p" + packed(200_000) + bytes(200_000), "bad packet header"),
    "password 2^31-1": (GOOD + b"p" + packed(2**31 - 1) + bytes(100_000), "bad packet header"),
    "password length 3": (GOOD + b"p" + packed(3), "bad packet header"),
    "half a password": (GOOD + b"p" + packed(100) + b"SCRAM", "client_login_timeout"),
}


@with_scram
@pytest.mark.parametrize(("data", "text"), FIRST_PACKETS.values(), ids=FIRST_PACKETS)
def test_nonsense_before_the_login(proxy: ProxyProcess, data: bytes, text: str) -> None:
    """One FATAL ErrorResponse with a text that tells what is wrong, then a close."""
    errors = answer(proxy, data)
    assert len(errors) == 1
    assert errors[0].fields["S"] == "FATAL"
    assert text in errors[0].message


@with_scram
def test_encryption_is_refused_once_each(proxy: ProxyProcess) -> None:
    """GSSENCRequest and SSLRequest get an N each, a third request an error."""
    with RoughClient(proxy.port, timeout=MOST_SECONDS) as client:
        for request in (GSSENC_REQUEST, SSL_REQUEST):
            client.send(request)
            assert client.sock.recv(1) == b"N"
        client.send(SSL_REQUEST)
        assert "repeated encryption request" in errors_in(client.until_eof())[0].message


@with_trust
def test_login_after_both_refusals(proxy: ProxyProcess) -> None:
    """A client that asks for GSSAPI, then for TLS, then goes on without is served."""
    with RoughClient(proxy.port, timeout=MOST_SECONDS) as client:
        for request in (GSSENC_REQUEST, SSL_REQUEST):
            client.send(request)
            assert client.sock.recv(1) == b"N"
        assert client.log_in("limited", "db").query("select 1") == [("1",)]


@with_trust
def test_every_byte_by_itself(proxy: ProxyProcess) -> None:
    """A start-up packet and a query in pieces of one byte are put together."""
    with RoughClient(proxy.port, timeout=MOST_SECONDS) as client:
        for byte in GOOD + query("select 1"):
            client.send(bytes([byte]))
        client.replies()
        assert [m.code for m in client.replies()] == ["T", "D", "C", "Z"]


AFTER_LOGIN = {
    "unknown type": (message(b"?"), "unknown pkt"),
    "type 0": (bytes(5), "unknown pkt"),
    "a server's type": (message(b"Z", b"I"), "unknown pkt"),
    "a password": (message(b"p", b"secret\0"), "unknown pkt"),
    "start-up again": (GOOD, "unknown pkt"),
    "HTTP": (HTTP, "unknown pkt"),
    "length 0": (b"Q" + packed(0), "bad packet header"),
    "length 3": (b"Q" + packed(3), "bad packet header"),
    "length 2^31": (b"Q" + packed(2**31), "bad packet header"),
    "length 2^32-1": (b"S" + packed(2**32 - 1), "bad packet header"),
    "length 3 behind a query": (query("select 1") + b"S" + packed(3), "bad packet header"),
    "unknown behind a query": (query("select 1") + b"\xff" + packed(4), "unknown pkt"),
    "unknown behind a named statement": (
        message(b"P", b"name\0select 1\0\0\0") + b"?" + packed(4),
        "unknown pkt",
    ),
    "length 3 behind a named statement": (
        message(b"P", b"name\0select 1\0\0\0") + SYNC + b"S" + packed(3),
        "bad packet header",
    ),
    "unknown in a transaction": (query("begin") + b"\xff" + packed(4), "unknown pkt"),
}


@with_trust
@pytest.mark.parametrize(("data", "text"), AFTER_LOGIN.values(), ids=AFTER_LOGIN)
def test_nonsense_after_the_login(proxy: ProxyProcess, data: bytes, text: str) -> None:
    """An ErrorResponse and a close; what came before it in the same chunk is lost with it."""
    with RoughClient(proxy.port, timeout=MOST_SECONDS) as client:
        client.log_in("limited", "db").send(data)
        errors = errors_in(client.until_eof())
    assert len(errors) == 1
    assert text in errors[0].message


ENDS = {
    "Terminate": TERMINATE,
    "Terminate and more": TERMINATE + query("select 1"),
    "Terminate with a long body": b"X" + packed(2**31 - 1),
    "Terminate of length 0": b"X" + packed(0),
    "a query and Terminate": query("select pg_sleep(0.01)") + TERMINATE,
    "half a query": query("select 'abc'")[:9],
    "half a header": b"Q\0\0",
    "a long query without end": b"Q" + packed(2**31 - 10) + b"select 1",
    "a long query without end, begun": b"Q" + packed(2**31 - 10) + bytes(300_000),
    "Parse without Sync": message(b"P", b"\0select 1\0\0\0"),
    "Parse without a zero byte": message(b"P", b"name") + SYNC,
    "Bind without a zero byte": message(b"B", b"\0name") + SYNC,
    "Describe of nothing": message(b"D", b"S") + SYNC,
    "Close without a name": message(b"C") + SYNC,
    "Bind of what is not there": message(b"B", b"\0name\0" + bytes(6)) + SYNC,
    "a thousand Syncs": SYNC * 1000,
    "COPY without end": query("copy (select 1) to stdout; begin"),
    "CopyData out of place": message(b"d", bytes(100_000)) + message(b"c"),
}


@with_trust
@pytest.mark.parametrize("data", ENDS.values(), ids=ENDS)
def test_clients_that_leave_badly(proxy: ProxyProcess, data: bytes) -> None:
    """Whatever a client sends last, it can leave by itself."""
    for end in (RoughClient.close, RoughClient.reset):
        with RoughClient(proxy.port, timeout=MOST_SECONDS) as client:
            client.log_in("limited", "db").send(data)
            end(client)
    eventually(lambda: metric(proxy, "poolproxy_clients") == 0, 15, "they are gone")


@with_trust
def test_a_flood_of_cancels(proxy: ProxyProcess) -> None:
    """Thousands of cancel requests with random keys are closed without a word and hit nobody."""
    chance = random.Random(1)
    with RoughClient(proxy.port) as client:
        client.log_in("limited", "db").send(query("select pg_sleep(1), 1"))
        for _ in range(20):
            flood = [RoughClient(proxy.port, timeout=MOST_SECONDS) for _ in range(50)]
            for one in flood:
                key = chance.choice([bytes(4), chance.randbytes(4), chance.randbytes(200)])
                one.send(cancel_request((chance.choice([client.key[0], 0, 2**31 - 1]), key)))
            for one in flood:
                assert one.until_eof() == b""
                one.close()
        assert any(m.code == "D" for m in client.replies())
        for _ in range(50):  # and with the right key, while nothing runs
            with RoughClient(proxy.port, timeout=MOST_SECONDS) as one:
                one.send(cancel_request(client.key))
                assert one.until_eof() == b""
        assert client.query("select 1") == [("1",)]


SEEDS = (GOOD, SSL_REQUEST + GOOD, GOOD + message(b"p", b"SCRAM-SHA-256\0\0\0\0\4n,,n=,r=a"), HTTP)
TALK = (
    query("select 1"),
    query("begin; select 1; commit") + SYNC,
    message(b"P", b"\0select $1::int\0\0\0")
    + message(b"B", bytes(8))
    + message(b"E", bytes(5))
    + SYNC,
    message(b"P", b"name\0select $1::int\0\0\0") + message(b"D", b"Sname\0") + SYNC,
    message(b"B", b"\0name\0\0\0\0\1\0\0\0\1" + b"1\0\0") + message(b"E", bytes(5)) + SYNC,
    message(b"C", b"Sname\0") + message(b"H") + SYNC,
    message(b"D", b"S\0") + message(b"C", b"S\0") + message(b"H") + SYNC,
    query("copy (select 1) to stdout") + message(b"d", b"x") + message(b"f", b"no\0"),
)


def mutated(chance: random.Random, data: bytes) -> bytes:
    """``data`` with some bytes changed, cut out or put in."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed) + 1)
        what = chance.randrange(4)
        if what == 0:
            changed[at : at + 1] = chance.randbytes(1)
        elif what == 1:
            del changed[at : at + chance.randint(1, 8)]
        elif what == 2:
            changed[at:at] = chance.randbytes(chance.randint(1, 8))
        else:
            changed[at : at + 4] = packed(chance.choice([0, 3, 4, 5, 2**31 - 1, 2**32 - 1, 65536]))
    return bytes(changed)


@pytest.mark.parametrize("seed", range(3))
def test_mutated_conversations(proxy: ProxyProcess, seed: int) -> None:
    """Some hundred damaged conversations, in pieces and cut off anywhere, harm nobody."""
    chance = random.Random(seed)
    for _ in range(120):
        data = mutated(chance, chance.choice(SEEDS))
        if chance.random() < 0.6:
            data = GOOD + mutated(chance, b"".join(chance.choices(TALK, k=3)))
        with RoughClient(proxy.port, timeout=MOST_SECONDS) as client:
            try:
                at = chance.randrange(len(data) + 1)
                client.send(data[:at])
                client.send(data[at:])
                client.sock.settimeout(chance.choice([0.001, 0.02]))
                client.until_eof()
            except (Closed, TimeoutError):
                pass
            chance.choice([client.close, client.reset])()


@with_trust
def test_control_characters_do_not_reach_the_log(proxy: ProxyProcess) -> None:
    """A name can't write lines of its own or commands for a terminal into the log."""
    name = "evil\n2026-01-01 FATAL all is lost\x1b[2J\r"
    answer(proxy, startup(name, "db"))
    assert "\x1b" not in proxy.log
    assert "\r" not in proxy.log
    assert "\n2026-01-01 FATAL" not in proxy.log


def pour(client: RoughClient) -> None:
    """Send until the other side has enough."""
    while True:
        client.send(HTTP * 1000)


@with_scram
def test_a_refused_client_that_never_stops_sending(proxy: ProxyProcess) -> None:
    """Who goes on sending after its error is cut off soon, and keeps nobody waiting meanwhile."""
    with RoughClient(proxy.port, timeout=MOST_SECONDS) as client:
        began = time.monotonic()
        with pytest.raises((Closed, TimeoutError)):
            pour(client)
        assert time.monotonic() - began < MOST_SECONDS
