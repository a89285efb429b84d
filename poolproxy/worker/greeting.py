"""The conversation with a server from its answer to the start-up packet to its first ReadyForQuery."""

from __future__ import annotations

import logging

import attrs

from poolproxy.auth.exchange import Compute
from poolproxy.auth.server import Done, Fail, Reply, ServerExchange, Wait
from poolproxy.errors import PoolerError
from poolproxy.ipc.messages import CancelKey
from poolproxy.log.party import Party
from poolproxy.wire.build import password_message
from poolproxy.wire.codes import (
    AUTHENTICATION,
    BACKEND_KEY_DATA,
    ERROR_RESPONSE,
    IDLE,
    NEGOTIATE_PROTOCOL_VERSION,
    NOTICE_RESPONSE,
    PARAMETER_STATUS,
    READY_FOR_QUERY,
)
from poolproxy.wire.read import backend_key, error_fields, parameter_status
from poolproxy.wire.startup import NEWEST_MINOR, PROTOCOL_3
from poolproxy.worker.deriving import derive
from poolproxy.worker.streams import Eof, Stream

log = logging.getLogger(__name__)

# PostgreSQL's error for a protocol that it does not know (feature_not_supported), and PgBouncer's.
REFUSES_PROTOCOL = ("0A000", "08P01")
MAX_PARAMETERS = 200  # ParameterStatus messages of one log-in; PostgreSQL sends about 15


@attrs.frozen
class ServerError(Exception):
    """The attempt has failed; ``from_server``: PostgreSQL has answered, but not with a log-in."""

    reason: str
    sqlstate: str = "08006"
    from_server: bool = False


@attrs.frozen
class Refused(ServerError):
    """PostgreSQL has refused the log-in, in these words."""


def server_error(error: Exception) -> ServerError:
    """What has ended a log-in, as one of these."""
    match error:
        case ServerError():
            return error
        case PoolerError():
            return ServerError(error.message)  # what answers is no PostgreSQL, or a broken one
        case Eof():
            return ServerError("server conn crashed?")
    return ServerError(f"connect failed: {error}")


class TooNew(Exception):
    """The server has closed at the sight of a protocol that it does not know."""


@attrs.frozen
class Greeting:
    """What PostgreSQL says in a successful log-in."""

    key: CancelKey
    parameters: dict[str, str]


async def understood(stream: Stream) -> None:
    """Return with the answer to the start-up packet still unread; raises TooNew if it was refused.

    PostgreSQL negotiates since 9.3.22, 9.4.17, 9.5.12, 9.6.8 and 10.3. Older ones, and many poolers, have an
    error for it, or nothing.
    """
    try:
        code, body = await stream.peek()
    except (Eof, PoolerError):
        raise TooNew from None
    if code == ERROR_RESPONSE and error_fields(body).sqlstate in REFUSES_PROTOCOL:
        await stream.until_eof()
        raise TooNew


async def prove(stream: Stream, exchange: ServerExchange, name: Party) -> None:
    """Authenticate. Raises Refused, ServerError, Eof."""
    while True:
        code, body = await stream.message()
        if code == ERROR_RESPONSE:
            raise refused(body)
        if code == NOTICE_RESPONSE or negotiated(code, body):
            continue
        if code != AUTHENTICATION or len(body) < 4:
            raise ServerError("unknown pkt")
        step = exchange.feed(int.from_bytes(body[:4], "big"), body[4:])
        while isinstance(step, Compute):
            step = exchange.computed(await derive(step.request))
        match step:
            case Done():
                return
            case Reply(payload):
                await stream.send(password_message(payload))
            case Fail(error):
                log.warning("%s: %s %s", name, error.message, error.hint)
                raise ServerError(error.message, error.sqlstate, from_server=True)
            case Wait():
                pass


async def read_greeting(stream: Stream) -> Greeting:
    """What comes after authentication. Raises Refused, ServerError, Eof."""
    key = CancelKey(0, b"\0\0\0\0")
    parameters: dict[str, str] = {}
    while True:
        code, body = await stream.message()
        if code == PARAMETER_STATUS and len(parameters) < MAX_PARAMETERS:
            name, value = parameter_status(body)
            parameters[name] = value
        elif code == BACKEND_KEY_DATA:
            key = CancelKey(*backend_key(body))
        elif code == READY_FOR_QUERY and body == bytes((IDLE,)):
            return Greeting(key, parameters)
        elif code == ERROR_RESPONSE:
            raise refused(body)
        elif code != NOTICE_RESPONSE:
            raise ServerError("unknown pkt")


def negotiated(code: int, body: bytes) -> bool:
    """Whether this is a NegotiateProtocolVersion; raises ServerError if nothing is left to agree on."""
    if code != NEGOTIATE_PROTOCOL_VERSION:
        return False
    lowest, highest = PROTOCOL_3.to_bytes(4, "big"), (PROTOCOL_3 + NEWEST_MINOR).to_bytes(4, "big")
    if not lowest <= body[:4] <= highest or body[4:] != bytes(4):
        raise ServerError("unsupported protocol version")
    return True


def refused(body: bytes) -> Refused:
    """PostgreSQL's own words, for the clients that wait."""
    fields = error_fields(body)
    return Refused(fields.message, fields.sqlstate, from_server=True)
