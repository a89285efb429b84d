"""Relayed connections whose bytes are encrypted.

They are what their kind is in the clear (:func:`over_tls` adds to a class) but for how they read and
write. The relay writes by ``quick`` where it is in a hurry; that is -1 here, so what is posted comes to
:meth:`TlsConnection._send`, and connections in the clear pay next to nothing for the difference.

What OpenSSL demands:

* A write that the kernel has refused is repeated with the same bytes first: they are encrypted already. They
  are the beginning of ``out``, to which more is only appended; a longer repetition is allowed.
* epoll does not see what OpenSSL has decrypted and nobody has fetched. OpenSSL reads record by record, and we
  fetch all that it holds (16 kB at most): so after each read it has nothing left, and what epoll sees is all
  there is.
* Either direction may have to wait for the other, when a key is changed amid the stream.
* An error of the protocol is not one of the socket, so epoll would never tell: the socket is shut down
  for it, and epoll reports that.
"""

from __future__ import annotations

import os
import socket
import ssl
from typing import Any, TypeVar, cast

import attrs

from poolproxy.relay.connection import Connection
from poolproxy.relay.engine import CHUNK, HANGUP, READ, SHORT, WRITE

RECORD = 16_384  # bytes in a record of TLS at most
# Behind a record as long as this there is often another one (PostgreSQL writes 8 kB at a time); else epoll
# says so, which costs less than to try in vain.
LONG = 4096

C = TypeVar("C", bound=Connection)


@attrs.frozen
class Encryption:
    """How connections to a server are encrypted: its ``host``, for SNI and the certificate; ``direct``
    without an SSLRequest.
    """

    context: ssl.SSLContext
    host: str
    direct: bool


class TlsConnection(Connection):
    """``tls``: version and cipher, for people. ``encryption``: of a server, for what else connects there.

    ``read_waits_to_write``, ``write_waits_to_read``: what OpenSSL waits for before it can do the other.
    """

    # No __slots__: a class can inherit those of one base only, and OpenSSL needs far more memory.

    sock: ssl.SSLSocket

    def __init__(self, *args: Any, **rest: Any) -> None:
        super().__init__(*args, **rest)
        self.quick = -1
        self.read_waits_to_write = self.write_waits_to_read = False
        self.tls = ""
        self.encryption: Encryption | None = None

    def watch(self) -> None:
        self.engine.watch(self.fd, self)
        if self.writing:
            self._update()

    def _update(self) -> None:
        if not self.closed:
            reads = self.reading or self.write_waits_to_read
            writes = (self.writing and not self.write_waits_to_read) or self.read_waits_to_write
            self.engine.modify(self.fd, READ * reads | WRITE * writes)

    # -- reading ----------------------------------------------------------------------------------

    def readable(self) -> None:
        if self.write_waits_to_read:
            self.flush()
        if not self.closed and self.reading:
            self._read()

    def _read(self) -> None:
        most = self.engine.size
        part = self._record(most)
        if part and len(part) < most == SHORT:
            self.received(part)  # the usual case
            return
        parts: list[bytes] = []
        size = 0
        while part:
            parts.append(part)
            size += len(part)
            if (len(part) < LONG and len(part) != most) or size >= CHUNK:
                break  # the others get their turn
            part = self._record(RECORD)
        if parts:
            self.received(parts[0] if len(parts) == 1 else b"".join(parts))
        if part == b"" and not self.closed:
            self.received(b"")

    def _record(self, size: int) -> bytes | None:
        """What a record holds, up to ``size``; b"" at the end, None if nothing can be read now."""
        try:
            data = self.sock.read(size)
        except ssl.SSLWantReadError:
            data = None
        except ssl.SSLWantWriteError:
            if not self.read_waits_to_write:
                self.read_waits_to_write = True
                self._update()
            return None
        except (OSError, ValueError):
            data = b""
        if self.read_waits_to_write:
            self.read_waits_to_write = False
            self._update()
        return data

    def other_event(self, mask: int) -> None:
        if mask & HANGUP and not self.reading:
            self.hung_up()
            return
        if (mask & WRITE and self.out) or self.write_waits_to_read:
            self.flush()
        if not self.closed and self.reading:
            self._read()

    # -- writing ----------------------------------------------------------------------------------

    def flush(self) -> None:
        self.write_waits_to_read = False
        self.out = self.out[self._send(self.out) :]
        self.writing = bool(self.out)
        self._update()
        if not self.out:
            self.drained()

    def _send(self, data: bytes) -> int:
        """The same in the words of OpenSSL, which says how many bytes it has taken, from the first one on."""
        sent = 0
        try:
            sent = self.sock.send(data)
            while sent < len(data):
                sent += self.sock.send(memoryview(data)[sent:])
        except ssl.SSLWantWriteError:
            return sent
        except ssl.SSLWantReadError:
            self.write_waits_to_read = True
            return sent
        except (OSError, ValueError):
            _break(self.sock)
            return len(data)
        return sent

    # -- the end ----------------------------------------------------------------------------------

    @property
    def is_settled(self) -> bool:
        """Whether OpenSSL has nothing for us, and needs nothing to go on."""
        return not (self.read_waits_to_write or self.write_waits_to_read or self.sock.pending())

    def close(self) -> None:
        if not self.closed:
            self.engine.flush()
            say_goodbye(self.sock)
            try:
                # Closing with unread bytes sends a reset, and the peer may lose what it was told before.
                os.read(self.fd, CHUNK)
            except OSError:
                pass
        super().close()


def over_tls(kind: type[C]) -> type[C]:
    """The class for what ``kind`` is in the clear; its instances are TlsConnections."""
    found = _over_tls.get(kind)
    if found is None:
        bases = (TlsConnection, kind)
        found = type(f"Tls{kind.__name__}", bases, {})
        _over_tls[kind] = found
    return cast(type[C], found)


_over_tls: dict[type, type] = {}


def say_goodbye(sock: socket.socket) -> None:
    """Tell a TLS peer that nothing more comes (close_notify), if the kernel takes that now."""
    if isinstance(sock, ssl.SSLSocket):
        try:
            sock.unwrap()
        except (OSError, ValueError):
            pass  # its answer is not waited for; or the connection is broken, or was never set up


def shut_down(sock: socket.socket) -> None:
    """End our direction of the stream; what is read from ``sock`` afterwards is no plain text. OSError."""
    say_goodbye(sock)
    sock.shutdown(socket.SHUT_WR)


def _break(sock: socket.socket) -> None:
    try:
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # SSLSocket's own would forget the session
    except OSError:
        pass
