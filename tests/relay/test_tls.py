"""Relayed connections over TLS: all that holds in the clear, and what OpenSSL makes different."""

from __future__ import annotations

import inspect
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from poolproxy.relay.client import Client
from poolproxy.relay.closing import Closing
from poolproxy.relay.engine import SHORT
from poolproxy.relay.preparing import PreparingClient
from poolproxy.relay.tls import LONG, RECORD, TlsConnection, over_tls
from poolproxy.tls.contexts import contexts
from tests.fixtures.tls import Certificates, shake_hands
from tests.relay import harness, test_at_rest, test_ends, test_posting, test_relay, test_short_way
from tests.relay.harness import DONE, SELECT, C, Peer, Relay, row
from tests.settings.loading import load

PART = 4096  # bytes
MODULES = (test_at_rest, test_ends, test_posting, test_relay, test_short_way)
SHARED = [
    pytest.param(module, function, id=f"{module.__name__.rpartition('.')[2]}.{name}")
    for module in MODULES
    for name, function in inspect.getmembers(module, inspect.isfunction)
    if name.startswith("test_") and not inspect.signature(function).parameters
    if not hasattr(function, "pytestmark")
]


class TlsPeer(Peer):
    """A peer whose socket is a TLS one; what OpenSSL has refused is repeated first."""

    sock: ssl.SSLSocket

    def push(self, data: bytes) -> int:
        # OpenSSL tells of no part of what it was given: so it gets small parts.
        total = 0
        try:
            while total < len(data):
                total += self.sock.send(data[total : total + PART])
        except ssl.SSLWantWriteError:
            pass
        return total

    def receive(self) -> bytes:
        received = bytearray()
        while chunk := self.pull() or self._later():
            received += chunk
            self.relay.settle()
        return bytes(received)

    def _later(self) -> bytes:
        # There may be half a record, whose rest comes when the kernel has room for it again.
        self.relay.settle()
        return self.pull()

    def pull(self, size: int = 1 << 20) -> bytes:
        try:
            return self.sock.recv(size)
        except (ssl.SSLWantReadError, ConnectionResetError):
            return b""

    def is_closed(self) -> bool:
        self.receive()
        try:
            return self.sock.recv(1) == b""
        except ssl.SSLWantReadError:
            return False
        except ConnectionResetError:
            return True


class TlsRelay(Relay):
    """Every connection is encrypted."""

    ours: ssl.SSLContext
    theirs: ssl.SSLContext

    def dressed(self, kind: type[C]) -> type[C]:
        return over_tls(kind)

    def peer(self, sock: socket.socket) -> Peer:
        return TlsPeer(self, sock)

    def _pair(self) -> tuple[socket.socket, socket.socket]:
        plain = super()._pair()
        self._sockets = self._sockets[:-2]
        ours = self.ours.wrap_socket(plain[0], server_side=True, do_handshake_on_connect=False)
        theirs = self.theirs.wrap_socket(
            plain[1], server_hostname="127.0.0.1", do_handshake_on_connect=False
        )
        theirs.setblocking(False)
        self._sockets += [ours, theirs]
        shake_hands(theirs, ours)
        return ours, theirs


Make = Callable[..., Any]


@pytest.fixture(scope="module")
def tls_relay(certificates: Certificates) -> Make:
    """As ``harness.relay``, over TLS."""
    pem = certificates.issue("relay", "127.0.0.1")
    settings = load(
        f'[poolproxy]\nclient_tls_sslmode = "require"\nclient_tls_key_file = "{pem.key}"\n'
        f'client_tls_cert_file = "{pem.cert}"\nauth_type = "trust"\n[databases."*"]\n'
    ).settings
    texts = {
        "client_tls_key_file": pem.key.read_text(),
        "client_tls_cert_file": pem.cert.read_text(),
    }
    context = contexts(settings, texts).client
    assert context is not None
    kind = type("BoundRelay", (TlsRelay,), {"ours": context, "theirs": certificates.context()})

    @contextmanager
    def make(
        proxy: Mapping[str, Any] | None = None, database: Mapping[str, Any] | None = None
    ) -> Iterator[Relay]:
        one = kind(proxy or {}, database or {})
        try:
            yield one
        finally:
            one.close()

    return make


@pytest.mark.parametrize(("module", "function"), SHARED)
def test_as_in_the_clear(
    module: Any, function: Callable[[], None], tls_relay: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a test of the relay pins holds over TLS on both sides, too."""
    monkeypatch.setattr(module, "relay", tls_relay)
    function()


def test_what_openssl_keeps_is_read_without_another_event(tls_relay: Make) -> None:
    """Many records that arrive at once all reach the server."""
    with tls_relay() as r:
        _, postgres = r.server()
        client, app = r.client()
        messages = [test_relay.query(f"select {n} /* {'x' * n} */") for n in range(200)]
        for message in messages:
            app.push(message)
        received = postgres.receive()
        big = test_relay.query("y" * (5 * RECORD))
        app.push(big)
        assert received + postgres.receive() == b"".join(messages) + big
        assert isinstance(client, TlsConnection)
        assert client.sock.pending() == 0


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(
    "size",
    [SHORT - 1, SHORT, SHORT + 1, 2 * SHORT, SHORT + LONG - 1, SHORT + LONG, RECORD, RECORD + 1],
)
def test_a_record_of_any_size_is_read_at_once(tls_relay: Make, size: int, wide: bool) -> None:
    """However much is asked for first: OpenSSL keeps nothing that epoll does not tell of."""
    with tls_relay() as r:
        _, postgres = r.server()
        client, app = r.client()
        if wide:
            r.engine.widen()
        sent = test_relay.query("y" * (size - 6))
        assert len(sent) == size
        assert isinstance(app.sock, ssl.SSLSocket)
        app.sock.send(sent)
        assert postgres.receive() == sent
        assert isinstance(client, TlsConnection)
        assert client.sock.pending() == 0


def test_an_interrupted_write_goes_on_with_the_same_bytes(tls_relay: Make) -> None:
    """A client that does not read makes the relay wait; then it gets all bytes in order."""
    with tls_relay() as r:
        _, postgres = r.server()
        client, app = r.client()
        app.send(SELECT)
        postgres.receive()
        rows = b"".join(row(100 + n % 977) for n in range(3000))
        taken = postgres.flood(rows)
        assert 0 < taken < len(rows)
        assert client.out
        received = bytearray()
        sent = taken
        rest = rows + DONE
        while len(received) < len(rest):
            received += app.pull(4096)
            r.settle()
            sent += postgres.push(rest[sent:])
            r.settle()
        assert received == rest
        assert client.server is None


def test_more_is_put_behind_an_interrupted_write(tls_relay: Make) -> None:
    """An answer of our own behind half-sent bytes does not get in before them."""
    with tls_relay() as r:
        client, app = r.client()
        first = row(400_000)
        client.write(first)
        assert client.out
        client.write(row(7))
        client.write(row(8))
        assert app.receive() == first + row(7) + row(8)
        assert not client.out


def test_a_broken_record_ends_the_connection(tls_relay: Make) -> None:
    """Bytes that are no TLS, amid the stream, end the client, and its server is used again."""
    with tls_relay() as r:
        server, _ = r.server()
        client, app = r.client()
        socket.socket.send(app.sock, b"\x17\x03\x03\x00\x20" + bytes(32))
        r.settle()
        assert client.closed
        assert [reason for _, reason, _ in r.host.closed] == ["client unexpected eof"]
        assert list(r.pool.idle) == [server]


def test_a_write_that_tls_refuses_ends_the_connection(tls_relay: Make) -> None:
    """A session that is over for writing is noticed although the socket has no fault."""
    with tls_relay() as r:
        client, _ = r.client()
        with pytest.raises(ssl.SSLWantReadError):
            client.sock.unwrap()
        client.write(row(1))
        r.settle()
        assert client.closed


def test_the_end_is_told(tls_relay: Make) -> None:
    """A client that is closed gets TLS's own word for the end, not a truncated stream."""
    with tls_relay() as r:
        client, app = r.client()
        client.leave("bye")
        app.sock.suppress_ragged_eofs = False
        assert app.sock.recv(1) == b""


def test_a_server_is_read_to_its_end_as_it_comes(tls_relay: Make) -> None:
    """What a server sends while it is closed is dropped undecrypted; its end is seen, and ours is told."""
    with tls_relay() as r:
        server, postgres = r.server()
        ends: list[bool] = []
        closing = Closing(r.engine, server.sock, 1e9, ends.append)
        postgres.push(row(100))
        r.settle()
        assert not ends
        closing.shutdown()
        assert postgres.sock.recv(1) == b""
        postgres.push(row(100))
        r.settle()
        assert not ends
        postgres.close()
        assert ends == [True]


def test_the_harness_is_the_same() -> None:
    """The modules whose tests are repeated take their relay from the harness."""
    assert all(module.relay is harness.relay for module in MODULES)


def test_each_kind_has_one_class_over_tls() -> None:
    """Asking again makes no further class, and it is still of its kind."""
    assert over_tls(Client) is over_tls(Client)
    assert issubclass(over_tls(PreparingClient), (PreparingClient, TlsConnection))
