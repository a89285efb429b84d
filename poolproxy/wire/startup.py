"""The first packet of a connection: start-up, SSLRequest, GSSENCRequest, CancelRequest.

https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP
"""

from __future__ import annotations

import struct

import attrs

from poolproxy.errors import PoolerError

SSL_REQUEST_CODE = (1234 << 16) | 5679
GSSENC_REQUEST_CODE = (1234 << 16) | 5680
CANCEL_REQUEST_CODE = (1234 << 16) | 5678
PROTOCOL_3 = 3 << 16
# The newest minor version that is spoken here: 3.2, which differs from 3.0 in the length of cancel keys.
# (There is no 3.1.) https://www.postgresql.org/docs/current/protocol.html#PROTOCOL-VERSIONS
NEWEST_MINOR = 2
PROTOCOL_OPTION = "_pq_."  # how the names of protocol options begin; none is known here

MAX_STARTUP = 10_000  # bytes; PostgreSQL's MAX_STARTUP_PACKET_LENGTH
MAX_CANCEL_SECRET = 256  # bytes; protocol 3.2 allows as many, 3.0 has four
SHORT_SECRET, LONG_SECRET = 4, 32  # bytes of the secrets that PostgreSQL gives in 3.0 and 3.2
MAX_USER = 127  # bytes; PgBouncer's limit
MAX_DATABASE = 63  # bytes; PostgreSQL's identifier limit

LENGTH = 4  # bytes, before all else
_HEAD = struct.Struct(">II")

SSL_REQUEST = _HEAD.pack(8, SSL_REQUEST_CODE)


@attrs.frozen
class SslRequest:
    pass


@attrs.frozen
class GssRequest:
    pass


@attrs.frozen
class CancelPacket:
    pid: int
    secret: bytes


@attrs.frozen
class Startup:
    """A StartupMessage: its minor protocol version and its parameters as sent, in order."""

    minor: int
    parameters: dict[str, str]

    @property
    def database(self) -> str:
        """What is asked for; without a name it is the user's."""
        return self.parameters.get("database") or self.parameters.get("user", "")

    @property
    def spoken(self) -> int:
        """The minor version that both sides know."""
        return min(self.minor, NEWEST_MINOR)

    @property
    def unknown_options(self) -> tuple[str, ...]:
        """The protocol options that the client asks for in vain."""
        return tuple(name for name in self.parameters if name.startswith(PROTOCOL_OPTION))

    @property
    def needs_negotiation(self) -> bool:
        """Whether the client must be told that it gets less than it has asked for."""
        return self.minor > NEWEST_MINOR or bool(self.unknown_options)

    @property
    def secret_size(self) -> int:
        """Bytes of a cancel key's secret that this client can take."""
        return LONG_SECRET if self.minor >= 2 else SHORT_SECRET


FirstPacket = SslRequest | GssRequest | CancelPacket | Startup


def parse_first_packet(data: bytes | bytearray) -> tuple[FirstPacket, int] | None:
    """The first packet in ``data`` and its length, or None if more bytes are needed.

    Raises PoolerError with PgBouncer's text. At most MAX_STARTUP bytes are ever asked for.
    """
    if len(data) < LENGTH:
        return None
    length = int.from_bytes(data[:LENGTH], "big")
    if not _HEAD.size <= length <= MAX_STARTUP:
        raise _bad_header(data)  # at once: who sends a length of 0 may send no more
    if len(data) < length:
        return None
    code = int.from_bytes(data[LENGTH : _HEAD.size], "big")
    return _interpret(code, bytes(data[8:length]), data), length


def _interpret(code: int, body: bytes, data: bytes | bytearray) -> FirstPacket:
    if code == SSL_REQUEST_CODE and not body:
        return SslRequest()
    if code == GSSENC_REQUEST_CODE and not body:
        return GssRequest()
    if code == CANCEL_REQUEST_CODE and 8 <= len(body) <= 4 + MAX_CANCEL_SECRET:
        return CancelPacket(int.from_bytes(body[:4], "big"), body[4:])
    if code >> 16 == 3:
        return Startup(code & 0xFFFF, _parameters(body))
    if code >> 16 == 2:
        raise PoolerError("old V2 protocol not supported")
    raise _bad_header(data)


def _bad_header(data: bytes | bytearray) -> PoolerError:
    return PoolerError(
        f"bad packet header: '{bytes(data[:8]).hex()}'",
        hint="This port speaks the PostgreSQL protocol, version 3.",
    )


def _parameters(body: bytes) -> dict[str, str]:
    if not body.endswith(b"\0"):
        raise PoolerError("invalid startup packet layout: expected terminator as last byte")
    items = body[:-1].split(b"\0")
    # Each value ends with a zero byte too, so what follows the last one is empty.
    if items.pop() or len(items) % 2:
        raise PoolerError("invalid startup packet layout: expected terminator as last byte")
    texts = [_text(item) for item in items]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _text(item: bytes) -> str:
    try:
        return item.decode()
    except UnicodeDecodeError:
        # Names and values in another encoding can't be mapped to a pool or to a SET that is safe.
        raise PoolerError("invalid startup packet layout: text is not UTF-8") from None


def startup_message(parameters: dict[str, str], minor: int = 0) -> bytes:
    """A StartupMessage of protocol 3.``minor``."""
    items = b"".join(f"{k}\0{v}\0".encode() for k, v in parameters.items()) + b"\0"
    return _HEAD.pack(8 + len(items), PROTOCOL_3 + minor) + items


def cancel_request(pid: int, secret: bytes) -> bytes:
    """A CancelRequest packet."""
    return struct.pack(">III", 12 + len(secret), CANCEL_REQUEST_CODE, pid) + secret
