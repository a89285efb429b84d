"""Clients that speak TLS, with sockets that don't block."""

from __future__ import annotations

import ssl

from tests.system.protocol_client import RawClient


class Encrypted(ssl.SSLSocket):
    """What can't be done now raises BlockingIOError, and what can't be any more BrokenPipeError, as on a
    socket without TLS. After the first the same bytes have to be sent again. After the second OpenSSL would
    want them too, and blame others for their length, so it is not asked again.
    """

    lost = False

    def recv(self, buflen: int = 65536, flags: int = 0) -> bytes:
        try:
            return super().recv(buflen, flags)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            raise BlockingIOError from error

    def send(self, data, flags: int = 0) -> int:  # type: ignore[no-untyped-def]
        if self.lost:
            raise BrokenPipeError
        try:
            return super().send(data, flags)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            raise BlockingIOError from error
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError) as error:
            self.lost = True
            raise BrokenPipeError from error


def encrypt(client: RawClient, authority: str) -> None:
    """Go over to TLS; blocks. ``authority``: the file with who is believed."""
    context = ssl.create_default_context(cafile=authority)
    context.sslsocket_class = Encrypted
    client.encrypt(context)
