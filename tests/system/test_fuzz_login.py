"""Everything before authentication, with everything that it does not expect.

A real pooler is brought into each state that a log-in can be in, and there each type of message, each length
at an edge and each cut of what would have been right is sent. A worker must not die, must not keep a
connection longer than client_login_timeout allows, must not leak a descriptor, and must let nobody in.

``LOGIN_FUZZ_CASES=20000 pytest tests/system/test_fuzz_login.py`` runs long, with another seed each time.
"""

from __future__ import annotations

import os
import random
import ssl
import struct
from collections.abc import Awaitable, Callable, Iterator

import attrs
import pytest
import trio

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import HOST, ProxyProcess, StartProxy
from tests.fixtures.tls import Certificates
from tests.system.login_fuzz import LETTERS, STATES, USER, Fuzz, State, right, start
from tests.system.protocol_client import (
    GSSENC_REQUEST,
    SSL_REQUEST,
    RawClient,
    message,
)
from tests.system.support import eventually
from tests.system.watching import descriptors

CASES = int(os.environ.get("LOGIN_FUZZ_CASES", "0"))
USUAL_CASES = 900
AT_ONCE = 100
LOGIN_TIMEOUT = 5.0  # seconds; enough for as many handshakes at once, on a busy machine
PATIENCE = 40.0  # seconds for a connection to be closed, on a busy machine


@pytest.fixture(scope="module")
def proxy(
    start_module_proxy: StartProxy, one_postgres: PostgresServer, certificates: Certificates
) -> ProxyProcess:
    """A database for each method; the one of ldap asks where nobody answers."""
    to = {"host": HOST, "port": one_postgres.port, "dbname": "postgres"}
    pem = certificates.issue("fuzz", HOST)
    tables = {
        "poolproxy": {
            "auth_type": "scram-sha-256",
            "auth_failure_delay": 0,
            "auth_ldap_options": f"ldapserver={HOST} ldapport=1 ldapprefix=uid=",
            "client_login_timeout": f"{LOGIN_TIMEOUT}s",
            "client_tls_sslmode": "prefer",
            "client_tls_key_file": str(pem.key),
            "client_tls_cert_file": str(pem.cert),
            "client_tls_ca_file": str(certificates.ca),
            "max_client_conn": 2000,
            "max_logins": 2000,
            "listen_backlog": 1000,
            "log_pooler_errors": False,
            "log_connections": False,
            "workers": 2,
        },
        "databases": {
            "scram": to,
            "stranger": to,
            **{
                name: to | {"auth_type": name} for name in ("plain", "md5", "cert", "ldap", "trust")
            },
        },
        "users": {USER: {"password": one_postgres.password}},
    }
    return start_module_proxy(tables)


@pytest.fixture(autouse=True)
def nothing_is_lost(proxy: ProxyProcess) -> Iterator[None]:
    """The same processes with as many descriptors as before, and they serve."""
    address = (proxy.host, proxy.port)
    for _ in range(8):  # whatever is opened once is open
        RawClient(address, "trust").leave()

    def state() -> dict[int, int]:
        return {pid: descriptors(pid) for pid in (proxy.pid, *proxy.worker_pids())}

    before = state()
    yield
    eventually(lambda: state().keys() == before.keys(), "no worker has died")
    eventually(
        lambda: all(state()[pid] <= before[pid] for pid in before),
        f"no descriptor is lost: {before}",
    )
    with RawClient(address, "trust") as one:
        assert one.query("select 1") == [("1",)]


class Peer:
    """A connection to the pooler in a certain state."""

    def __init__(self, stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]) -> None:
        self.stream = stream
        self.received = bytearray()

    async def reach(self, state: State, context: ssl.SSLContext) -> None:
        if state.half == "gss":
            await self._asked(GSSENC_REQUEST, 1)
        elif state.half == "ssl" or state.tls:
            await self._asked(SSL_REQUEST, 1)
        self.received.clear()
        if state.tls:
            assert isinstance(self.stream, trio.SocketStream)
            self.stream = trio.SSLStream(
                self.stream, context, server_hostname=HOST, https_compatible=True
            )
            await self.stream.do_handshake()
        if state.database:
            await self._asked(start(state), 9)
        if state.answers:
            await self._asked(right(attrs.evolve(state, answers=0)), 9)
        questions = bytes(self.received).count(b"R\0\0")
        assert questions == (state.answers + 1 if state.database not in ("", "cert") else 0)

    async def _asked(self, data: bytes, least: int) -> None:
        """Send, and wait for an answer; there is none after an error, and that is an answer, too."""
        await self.stream.send_all(data)
        so_far = len(self.received)
        while len(self.received) < so_far + least:
            more = await self.stream.receive_some()
            if not more:
                return
            self.received += more

    async def until_end(self) -> None:
        try:
            while more := await self.stream.receive_some():
                self.received += more
        except (trio.BrokenResourceError, ssl.SSLError):
            pass


async def conversation(
    proxy: ProxyProcess,
    state: State,
    context: ssl.SSLContext,
    attack: Callable[[Peer], Awaitable[None]],
) -> bytes:
    """Reach the state, attack, and read all that comes until the pooler has closed."""
    with trio.fail_after(PATIENCE):
        peer = Peer(await trio.open_tcp_stream(proxy.host, proxy.port))
        try:
            await peer.reach(state, context)
            try:
                await attack(peer)
            except trio.BrokenResourceError:
                pass  # the pooler has had enough of it
            await peer.until_end()
        finally:
            await trio.aclose_forcefully(peer.stream)
    return bytes(peer.received)


def verdict(received: bytes) -> None:
    """Only words of one who has not logged in, each whole, and an error or nothing at the end."""
    data = received.lstrip(b"NS")
    while data:
        code, length = data[:1], struct.unpack_from("!I", data, 1)[0] if len(data) > 4 else 0
        assert code in b"RE", received
        assert 4 <= length < len(data), received
        assert code == b"E" or data[5:9] != bytes(4), f"somebody got in: {received!r}"
        data = data[length + 1 :]


@pytest.mark.timeout(120 + CASES)
async def test_anything_in_any_state(proxy: ProxyProcess, certificates: Certificates) -> None:
    """Random attacks, in one piece or in some, with an end by silence, FIN or reset."""
    seed = random.SystemRandom().randrange(2**32) if CASES else 4
    fuzz, context = Fuzz(seed), certificates.context()
    limit = trio.CapacityLimiter(AT_ONCE)

    async def one(state: State, data: bytes, cuts: list[int], end: int) -> None:
        async def attack(peer: Peer) -> None:
            for first, last in zip([0, *cuts], [*cuts, len(data)], strict=True):
                await peer.stream.send_all(data[first:last])
                await trio.lowlevel.checkpoint()
            if end == 1 and isinstance(peer.stream, trio.SocketStream):
                await peer.stream.send_eof()
            elif end == 2:
                await trio.aclose_forcefully(peer.stream)

        async with limit:
            try:
                received = await conversation(proxy, state, context, attack)
            except trio.ClosedResourceError:
                return  # we have closed it ourselves
            except trio.TooSlowError:
                raise AssertionError(f"seed {seed}: kept open: {state} {data!r}") from None
            if state.half != "ssl":  # there alerts of TLS are the answer
                verdict(received)

    async with trio.open_nursery() as nursery:
        for number in range(CASES or USUAL_CASES):
            state = STATES[number % len(STATES)]
            data = fuzz.bytes_for(state)
            pieces = fuzz.chance.choice((0, 0, 1, 3))
            cuts = sorted(fuzz.chance.randrange(len(data) + 1) for _ in range(pieces))
            # Mostly by FIN: silence takes its time, and after a reset there is nothing to be seen.
            nursery.start_soon(one, state, data, cuts, fuzz.chance.choice((0, 1, 1, 1, 1, 2)))


@pytest.mark.parametrize("tls", [False, True])
async def test_every_cut_of_every_exchange(
    proxy: ProxyProcess, certificates: Certificates, tls: bool
) -> None:
    """After each byte of each message: the end of the stream is the end; and a pause changes nothing."""
    context = certificates.context()
    limit = trio.CapacityLimiter(AT_ONCE)
    answers: dict[tuple[State, bool], list[bytes]] = {}

    async def one(state: State, at: int, end: bool) -> None:
        data = right(state)

        async def attack(peer: Peer) -> None:
            peer.received.clear()
            await peer.stream.send_all(data[:at])
            if end:
                await _no_more(peer)
            else:
                await trio.lowlevel.checkpoint()
                await peer.stream.send_all(data[at:])
                await _no_more(peer)

        async with limit:
            received = await conversation(proxy, state, context, attack)
        verdict(received)
        answers.setdefault((state, end), []).append(received)

    states = [
        s for s in STATES if s.tls is tls and not s.half and s.database not in ("ldap", "cert")
    ]
    async with trio.open_nursery() as nursery:
        for state in states:
            length = len(right(state))
            for at in range(0, length, 1 + length // 25):
                nursery.start_soon(one, state, at, True)
                nursery.start_soon(one, state, at, False)
    for (state, end), found in answers.items():
        if end:
            assert set(found) == {b""}, state
        else:
            first = {received[:1] + received[5:9] for received in found}
            assert len(first) == 1, (state, found)


async def _no_more(peer: Peer) -> None:
    """FIN; over TLS without its goodbye, as who crashes leaves."""
    stream = peer.stream
    raw = stream if isinstance(stream, trio.SocketStream) else stream.transport_stream
    await raw.send_eof()


async def test_every_type_of_message_in_every_state(
    proxy: ProxyProcess, certificates: Certificates
) -> None:
    """What is no answer to the question asked ends the log-in with an error, at once."""
    context = certificates.context()
    limit = trio.CapacityLimiter(AT_ONCE)

    async def one(state: State, code: int) -> None:
        async def attack(peer: Peer) -> None:
            peer.received.clear()
            await peer.stream.send_all(message(bytes((code,)), b"x\0"))

        async with limit:
            began = trio.current_time()
            received = await conversation(proxy, state, context, attack)
            verdict(received)
            assert received[:1] == b"E", (state, code, received)
            assert b"client_login_timeout" not in received, (state, code)
            assert trio.current_time() - began < PATIENCE

    asked = [s for s in STATES if s.database and s.database != "cert"]
    async with trio.open_nursery() as nursery:
        for state in asked:
            for code in sorted({*LETTERS, 0, 0xFF} - {ord("p")}):
                nursery.start_soon(one, state, code)
