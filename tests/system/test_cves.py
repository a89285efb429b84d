"""What has gone wrong with log-ins to other poolers: a test for each, under its number.

Those that need more than this file has stand where it is: CVE-2015-6817, CVE-2021-3935, CVE-2025-2291 and
CVE-2025-12819 in test_authentication, CVE-2021-3935 and its like once more in test_tls_clients and
test_tls_servers.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import HOST, ProxyProcess, StartProxy
from tests.system.fake_database import (
    AUTHENTICATED,
    GREETING,
    Conversation,
    FakeDatabase,
    error,
)
from tests.system.protocol_client import (
    Connection,
    Eof,
    ErrorAnswer,
    RawClient,
    message,
    query,
    refusal,
    startup,
)

USER, PASSWORD = "postgres", "right"
NONCE = b"the-clients-nonce-0000"


@pytest.fixture(scope="module")
def proxy(start_module_proxy: StartProxy, one_postgres: PostgresServer) -> ProxyProcess:
    """A database for each method that asks for something, and one for all names."""
    to = {"host": HOST, "port": one_postgres.port, "dbname": "postgres"}
    to |= {"user": one_postgres.user, "password": one_postgres.password}
    types = ("plain", "md5", "scram-sha-256", "trust")
    tables = {
        "poolproxy": {"auth_type": "plain", "auth_failure_delay": 0, "client_login_timeout": "5s"},
        "databases": {"*": to, **{name: to | {"auth_type": name} for name in types}},
        "users": {USER: {"password": PASSWORD}},
    }
    return start_module_proxy(tables)


@pytest.fixture(autouse=True)
def the_workers_live(proxy: ProxyProcess) -> Iterator[None]:
    """Whatever was tried, the same processes go on to serve."""
    before = proxy.worker_pids()
    yield
    with RawClient((proxy.host, proxy.port), "trust") as one:
        assert one.query("select 1") == [("1",)]
    assert proxy.worker_pids() == before


def heard(proxy: ProxyProcess, *data: bytes) -> ErrorAnswer:
    """The error that ends a connection on which these are sent, each when the last was answered."""
    with Connection((proxy.host, proxy.port)) as one:
        one.send(data[0])
        for answer in data[1:]:
            assert one.read().code == "R"
            one.send(answer)
        reply = one.read()
        assert reply.code == "E", reply
        assert one.at_end()
        return reply.error()


@pytest.mark.parametrize(
    "name",
    [b"", b"d" * 63, b"d" * 64, b"d" * 9000, b"d\0", b"\xff\xfe", b"*", b'"', b"../x", b"%s%n"],
)
def test_cve_2012_4575_names_of_databases(proxy: ProxyProcess, name: bytes) -> None:
    """A name that is too long, odd or no text is an error for who sends it, also where "*" takes any name."""
    body = startup({"user": USER, "database": name})
    with Connection((proxy.host, proxy.port)) as one:
        one.send(body)
        reply = one.read()
        if reply.code == "R":
            one.send(message("p", b"wrong\0"))
            reply = one.read()
        assert reply.code == "E"
        assert one.at_end()


def test_cve_2015_4054_a_password_before_the_start(proxy: ProxyProcess) -> None:
    """Packets out of their order end a connection, and nothing else."""
    for first in (message("p", b"right\0"), query("select 1"), message("S", bytes(4))):
        assert heard(proxy, first).message.startswith("bad packet header")
    start = startup({"user": USER, "database": "plain"})
    for second in (query("select 1"), message("S"), message("d", b"x")):
        assert heard(proxy, start, second).sqlstate == "08P01"


def initial(length: int, data: bytes = b"n,,n=,r=" + NONCE) -> bytes:
    """A SASLInitialResponse that claims so many bytes."""
    return message("p", b"SCRAM-SHA-256\0" + struct.pack("!I", length & 0xFFFFFFFF) + data)


LENGTHS = [0, 1, 3, 4, 5, 131_073, 2**31 - 1, 2**31, 2**32 - 4, 2**32 - 1]


@pytest.mark.parametrize("length", LENGTHS)
def test_cve_2026_6664_lengths(proxy: ProxyProcess, length: int) -> None:
    """A length that can't be, in any header before authentication and inside of SASL messages."""
    claimed = struct.pack("!I", length)
    if length != 4:
        assert heard(proxy, claimed + struct.pack("!I", 3 << 16)).message.startswith("bad packet")
    for database in ("plain", "md5", "scram-sha-256"):
        start = startup({"user": USER, "database": database})
        last = heard(proxy, start, b"p" + claimed + b"x" * (length - 4 if 4 <= length < 6 else 0))
        assert last.sqlstate in ("08P01", "28P01")
        if length not in (4, 5):
            assert last.message.startswith("bad packet header")
    start = startup({"user": USER, "database": "scram-sha-256"})
    assert heard(proxy, start, initial(length)).message == "SASL authentication failed"


@pytest.mark.parametrize(
    "final",
    [
        b"",
        b"c=",
        b"c=biws,r=,p=",
        b"c=" + b"A" * 3000 + b",r=x,p=x",
        b"c=biws,r=" + b"n" * 3000 + b",p=" + b"A" * 44,
        b"c=biws,r=" + NONCE + b",p=" + b"A" * 4000,
        b"c=biws,r=" + NONCE + b",p=" + b"=" * 44,
        b"p=" + b"\xff" * 32,
        b"c=biws,r=" + b"x" * 100_000,
        b"," * 4000,
    ],
)
def test_cve_2026_6664_scram_that_is_none(proxy: ProxyProcess, final: bytes) -> None:
    """A malformed client-final of any size is a failed log-in."""
    start = startup({"user": USER, "database": "scram-sha-256"})
    first = initial(len(b"n,,n=,r=" + NONCE))
    assert heard(proxy, start, first, message("p", final)).message == "SASL authentication failed"


def test_a_megabyte_of_password(proxy: ProxyProcess) -> None:
    """PgBouncer crashed by one of 1024 bytes once: longer ones than anybody has are refused."""
    for database in ("plain", "md5"):
        start = startup({"user": USER, "database": database})
        for size in (1023, 1024, 1025, 65_530):
            wrong = heard(proxy, start, message("p", b"x" * size + b"\0"))
            assert wrong.message == "password authentication failed"
        assert heard(proxy, start, message("p", b"x" * 65_531 + b"\0")).sqlstate == "08P01"
        assert heard(proxy, start, message("p", bytes(2**20))).message.startswith("bad packet")


def test_cve_2025_46801_a_warm_pool_believes_nobody(proxy: ProxyProcess) -> None:
    """With server connections of the user at hand a wrong password is as wrong as before."""
    address = (proxy.host, proxy.port)
    for _ in range(3):
        with RawClient(address, "plain", USER, password=PASSWORD) as one:
            assert one.query("select 1") == [("1",)]
        for wrong in ("wrong", PASSWORD + "x", PASSWORD[:-1], "", "right\n"):
            assert "password" in refusal(address, "plain", USER, wrong).message


def test_databases_can_not_be_probed(proxy: ProxyProcess) -> None:
    """Before its log-in a client hears the same of a database that exists and of one that does not."""
    address = (proxy.host, proxy.port)
    found = {
        (answer.message, answer.sqlstate, answer.hint)
        for database in ("anything", "plain", "pgbouncer ", "template0")
        for user in (USER, "nobody")
        for answer in (refusal(address, database, user, "wrong"),)
    }
    assert len(found) == 1


# -- hostile servers ------------------------------------------------------------------------------


def scram(first: str, final: str = "") -> Callable[[Conversation], None]:
    """A server that asks for SCRAM; NONCE in its messages is the client's own."""

    def behave(talk: Conversation) -> None:
        talk.packet()
        talk.send(message("R", b"\0\0\0\x0aSCRAM-SHA-256\0\0"))
        _, body = talk.message()
        nonce = body.rpartition(b"r=")[2].decode()
        talk.send(message("R", b"\0\0\0\x0b" + first.replace("NONCE", nonce).encode()))
        talk.message()
        talk.send(message("R", b"\0\0\0\x0c" + final.encode()) + AUTHENTICATED)
        talk.until_eof()

    return behave


GOOD_FIRST = "r=NONCEmore,s=c2FsdHNhbHQ=,i=4096"
SIGNATURE = "A" * 43 + "="
HOSTILE = {
    "a long nonce": scram("r=NONCE" + "x" * 3000 + ",s=c2FsdHNhbHQ=,i=4096"),
    "an endless nonce": scram("r=NONCE" + "x" * 100_000 + ",s=c2FsdHNhbHQ=,i=4096"),
    "a long salt": scram("r=NONCEmore,s=" + "c2Fs" * 900 + ",i=4096"),
    "ten to the ninth": scram("r=NONCEmore,s=c2FsdHNhbHQ=,i=1000000000"),
    "another's nonce": scram("r=somebody-elses,s=c2FsdHNhbHQ=,i=4096"),
    "the nonce alone": scram("r=NONCE,s=c2FsdHNhbHQ=,i=4096"),
    "a wrong signature": scram(GOOD_FIRST, f"v={SIGNATURE}"),
    "a long signature": scram(GOOD_FIRST, "v=" + "A" * 4000),
    "no signature": scram(GOOD_FIRST, ""),
}


@contextmanager
def before(
    start: StartProxy, servers: Mapping[str, Callable[[Conversation], None]]
) -> Iterator[ProxyProcess]:
    """A pooler with one worker before these servers, each a database by its name; the worker survives."""
    with ExitStack() as stack:
        fakes = {name: stack.enter_context(FakeDatabase(one)) for name, one in servers.items()}
        tables = {
            "poolproxy": {"auth_type": "trust", "client_login_timeout": "15s", "workers": 1},
            "databases": {name: {"host": HOST, "port": one.port} for name, one in fakes.items()},
            "users": {USER: {"password": PASSWORD}},
        }
        proxy = start(tables)
        workers = proxy.worker_pids()
        yield proxy
        assert proxy.worker_pids() == workers


def test_cve_2026_6665_servers_that_lie_in_scram(start_proxy: StartProxy) -> None:
    """Nonces, salts and iterations beyond reason, and proofs that are none, end a log-in before its time."""
    with before(start_proxy, HOSTILE) as proxy:
        address = (proxy.host, proxy.port)
        answers = {name: refusal(address, name, USER).message for name in HOSTILE}
    reasons = "failed to answer authreq|wrong password type|server login failed"
    assert all(re.search(reasons, text) for text in answers.values()), answers


ODD_ERRORS = {
    "empty": message("E"),
    "no fields": message("E", b"\0"),
    "no SQLSTATE": error(S="FATAL", M="no state"),
    "no message": error(S="FATAL", C="28000"),
    "twice": message("E", b"MFirst\0MSecond\0C\0C28000\0\0"),
    "unknown fields": error(q="what", M="odd", C="28000"),
    "a long SQLSTATE": error(M="odd", C="0" * 5000),
    "no end": message("E", b"Mno end"),
    "not UTF-8": message("E", b"M\xff\xfe\0C\xff\0\0"),
}


def test_cve_2026_6666_errors_that_lack_fields(start_proxy: StartProxy) -> None:
    """At its log-in or instead of an answer, such an error ends the server; the client hears of one."""

    def at_login(reply: bytes) -> Callable[[Conversation], None]:
        def behave(talk: Conversation) -> None:
            talk.packet()
            talk.send(reply)
            talk.until_eof()

        return behave

    def at_query(reply: bytes) -> Callable[[Conversation], None]:
        def behave(talk: Conversation) -> None:
            talk.packet()
            talk.send(GREETING)
            talk.message()
            talk.send(reply)

        return behave

    servers = {f"login {name}": at_login(reply) for name, reply in ODD_ERRORS.items()}
    servers |= {f"query {name}": at_query(reply) for name, reply in ODD_ERRORS.items()}
    with before(start_proxy, servers) as proxy:
        for name in servers:
            with RawClient((proxy.host, proxy.port), log_in=False) as one:
                try:
                    one.log_in({"user": USER, "database": name})
                    one.query("select 1")
                except (ErrorAnswer, Eof):
                    continue
            pytest.fail(f"{name}: no error")
