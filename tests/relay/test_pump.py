"""The pump between a client and the worker that serves it, on real sockets: encrypted, and in the clear."""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

import pytest

from poolproxy.ipc.messages import PoolKey
from poolproxy.relay import lane as lane_module
from poolproxy.relay.engine import CHUNK, Engine
from poolproxy.relay.lane import Lane
from poolproxy.relay.pump import LINGER, Pump
from poolproxy.relay.tls import RECORD
from tests.fixtures.tls import Certificates, shake_hands
from tests.relay.harness import settle

PART = 4096  # bytes
BUFFER = 16_384  # of each socket in the kernel, about
MOST = 12 * CHUNK  # what the kernel's buffers and the pump may keep of one direction

POOL = PoolKey("db", "ann")


@pytest.fixture(autouse=True)
def _prepared() -> None:
    """A pump knows of no statements, so once is enough."""


Contexts: TypeAlias = tuple[ssl.SSLContext, ssl.SSLContext] | None  # the pump's and the client's


class Stand:
    """A pump, the client's socket, and the other worker's. ``ends``: what the pump's owner was told."""

    def __init__(self, contexts: Contexts, *, quiet: bool) -> None:
        self.engine = Engine(quiet=lambda: quiet)
        self.lane = Lane(self.engine)
        plain, far = socket.socketpair()
        inner, self.worker = socket.socketpair()
        for sock in (plain, far, inner, self.worker):
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        self.client, self.outer, self.inner = far, plain, inner
        if contexts is not None:
            ours, theirs = contexts
            outer = ours.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
            client = theirs.wrap_socket(
                far, server_hostname="127.0.0.1", do_handshake_on_connect=False
            )
            shake_hands(client, outer)
            self.client, self.outer = client, outer
        self.ends: list[socket.socket | None] = []
        self.pump = Pump(self.lane, self.outer, inner, POOL, self.ends.append)

    def start(self) -> None:
        self.pump.start()
        self.settle()

    def settle(self) -> None:
        settle(self.engine)

    def push(self, sock: socket.socket, data: bytes) -> int:
        """Send until neither the kernel nor the pump takes more; how many bytes they took."""
        total = 0
        while total < len(data):
            try:
                total += sock.send(data[total : total + PART])
            except (BlockingIOError, ssl.SSLWantWriteError):
                self.settle()
                if not select.select([], [sock], [], 0)[1]:
                    break
        self.settle()
        return total

    def pull(self, sock: socket.socket, size: int = 1 << 20) -> bytes | None:
        """What has arrived; b"" at the end, None if there is nothing now."""
        try:
            return sock.recv(size)
        except (BlockingIOError, ssl.SSLWantReadError):
            return None
        except ConnectionResetError:
            return b""

    def receive(self, sock: socket.socket) -> bytes:
        """All that arrives, up to the end if there is one."""
        received = bytearray()
        while chunk := self.pull(sock) or self._later(sock):
            received += chunk
            self.settle()
        return bytes(received)

    def _later(self, sock: socket.socket) -> bytes | None:
        self.settle()
        return self.pull(sock)

    def is_over(self, sock: socket.socket) -> bool:
        self.receive(sock)
        return self.pull(sock) == b""

    def ended(self) -> bool:
        """Whether the pump has let go of both sockets and of the engine, and has said so once."""
        return len(self.ends) == 1 and len(self.lane) == 0

    def close(self) -> None:
        self.pump.close()
        rest = [sock for sock in self.ends if sock is not None]
        for one in (self.client, self.worker, self.outer, self.inner, *rest):
            one.close()
        self.lane.close()
        assert len(self.engine) == 0
        self.engine.close()


@pytest.fixture(params=["tls", "clear"])
def contexts(request: pytest.FixtureRequest, certificates: Certificates) -> Contexts:
    if request.param == "clear":
        return None
    return certificates.server_context(), certificates.context()


@pytest.fixture(params=["armed", "held"])
def quiet(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the lane is held between all batches that have something to do."""
    monkeypatch.setattr(lane_module, "TICK", 0.0)
    monkeypatch.setattr(lane_module, "may_be_late", lambda events, *_, bulk: events > 0)
    return bool(request.param == "held")


@pytest.fixture
def stand(contexts: Contexts, quiet: bool) -> Iterator[Stand]:
    """A pump that runs."""
    with _stand(contexts, quiet=quiet) as one:
        one.start()
        yield one


@contextmanager
def _stand(contexts: Contexts, *, quiet: bool = False) -> Iterator[Stand]:
    one = Stand(contexts, quiet=quiet)
    try:
        yield one
    finally:
        one.close()


def pattern(size: int) -> bytes:
    """Bytes whose place shows."""
    return b"".join(number.to_bytes(4, "big") for number in range(size // 4 + 1))[:size]


def ways(stand: Stand) -> list[tuple[socket.socket, socket.socket]]:
    return [(stand.client, stand.worker), (stand.worker, stand.client)]


def test_bytes_arrive_in_order(stand: Stand) -> None:
    """One by one, in records of all sizes, and many megabytes, in both directions."""
    for source, target in ways(stand):
        data = pattern(50)
        for place in range(len(data)):
            source.send(data[place : place + 1])
            stand.settle()
        assert stand.receive(target) == data
        for size in (1, PART - 1, PART, RECORD - 1, RECORD, RECORD + 1, 3 * RECORD + 5):
            data = pattern(size)
            assert stand.push(source, data) == size
            assert stand.receive(target) == data
        data, received = pattern(3 << 20), bytearray()
        sent = 0
        while len(received) < len(data):
            sent += stand.push(source, data[sent:])
            received += stand.receive(target)
        assert bytes(received) == data


def test_both_directions_at_once(stand: Stand) -> None:
    """Each goes on while the other one is full, and is no further than its buffers."""
    data = pattern(4 << 20)
    sent = [stand.push(source, data) for source, _ in ways(stand)]
    assert all(0 < count < MOST for count in sent)
    assert stand.receive(stand.worker) == data[: sent[0]]
    assert stand.push(stand.client, data[sent[0] : sent[0] + 5000]) == 5000
    assert stand.receive(stand.worker) == data[sent[0] : sent[0] + 5000]
    assert stand.receive(stand.client) == data[: sent[1]]


def test_what_has_come_before_the_start_is_passed_on(contexts: Contexts) -> None:
    """What the client has sent on the way is there before the pump waits for anything."""
    with _stand(contexts) as stand:
        stand.client.send(b"early")
        stand.pump.start()
        assert stand.worker.recv(99) == b"early"


def test_the_clients_end_ends_the_other_side(stand: Stand) -> None:
    """It gets what was sent before; whether TLS's own word for the end comes, a FIN, or a reset."""
    stand.client.send(b"last words")
    if isinstance(stand.client, ssl.SSLSocket):
        with pytest.raises(ssl.SSLWantReadError):
            stand.client.unwrap()
    else:
        stand.client.shutdown(socket.SHUT_WR)
    stand.settle()
    assert stand.worker.recv(99) == b"last words"
    assert stand.is_over(stand.worker)
    assert stand.ended()
    assert stand.ends == [None]


def test_a_client_that_is_cut_off_ends_the_other_side(stand: Stand) -> None:
    """Also while much is on its way to it, of which the rest is dropped."""
    data = pattern(1 << 20)
    taken = stand.push(stand.worker, data)
    stand.client.send(b"last words")
    stand.client.close()
    stand.settle()
    assert taken < len(data)
    assert stand.worker.recv(99) == b"last words"
    assert stand.is_over(stand.worker)
    assert stand.ended()


def test_a_client_that_leaves_behind_much(stand: Stand) -> None:
    """The other worker, which is slow, gets all of it, then the end; what it says meanwhile is dropped."""
    data = pattern(1 << 20)
    taken = stand.push(stand.client, data)
    assert taken < len(data)
    stand.client.close()
    stand.settle()
    assert not stand.ends or stand.ended()
    stand.push(stand.worker, pattern(1 << 20))
    received = stand.receive(stand.worker)
    assert data.startswith(received)
    assert len(received) > BUFFER
    assert stand.is_over(stand.worker)
    assert stand.ended()


def test_the_other_workers_end_ends_the_client(stand: Stand) -> None:
    """The client gets what was sent before, then TLS's own word for the end from who is given its socket."""
    stand.worker.send(b"why")
    stand.worker.close()
    stand.settle()
    assert stand.client.recv(99) == b"why"
    assert stand.ends == [stand.outer]
    assert stand.ended()


def test_a_slow_client_gets_all_that_the_other_worker_has_said(stand: Stand) -> None:
    """Also when that is gone, and although the kernel tells of it all the time; what it says is dropped."""
    data = pattern(1 << 20)
    taken = stand.push(stand.worker, data)
    assert CHUNK < taken < len(data)
    stand.worker.close()
    stand.settle()
    assert not stand.ends
    stand.push(stand.client, b"is anybody there?")
    received = bytearray()
    while len(received) < taken:
        received += stand.pull(stand.client, 1000) or stand._later(stand.client) or b""
    assert bytes(received) == data[:taken]
    stand.settle()
    assert stand.ends == [stand.outer]


def test_a_client_that_does_not_read_is_not_waited_for(stand: Stand) -> None:
    """There is a time at which its pump is to be closed."""
    if not isinstance(stand.outer, ssl.SSLSocket):
        stand.outer.setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, PART
        )  # else it takes all at last
    stand.push(stand.worker, pattern(1 << 20))
    assert stand.pump.deadline > 1e300
    stand.worker.close()
    stand.settle()
    while stand.pump.deadline > 1e300:  # what is left here is not more than a chunk
        assert stand.pull(stand.client, RECORD)
        stand.settle()
    assert not stand.ends
    stand.pump.close()
    assert stand.ended()
    assert LINGER < 60


@pytest.mark.parametrize("contexts", ["tls"], indirect=True)
def test_garbage_ends_both(stand: Stand) -> None:
    """Bytes that are no TLS, amid the stream, reach nobody."""
    stand.client.send(b"good")
    socket.socket.send(stand.client, b"\x17\x03\x03\x00\x20" + bytes(32))
    stand.settle()
    assert stand.worker.recv(99) == b"good"
    assert stand.is_over(stand.worker)
    assert stand.ended()


def test_both_end_at_once(stand: Stand) -> None:
    """In whichever order it is seen, the end is told once."""
    stand.push(stand.worker, pattern(1 << 20))
    stand.push(stand.client, pattern(1 << 20))
    stand.client.close()
    stand.worker.close()
    stand.settle()
    assert stand.ended()


def test_a_mistake_of_ours_ends_this_client_only(
    stand: Stand, caplog: pytest.LogCaptureFixture
) -> None:
    """Both sockets are closed, and the pump's owner is told."""
    del stand.pump._inner.other
    stand.worker.send(b"x")
    stand.settle()
    assert stand.is_over(stand.client)
    assert stand.ended()
    assert "error in the pooler" in caplog.text
