"""What PostgreSQL answers to requests that are cancelled before they have begun.

Theory of operation. A client that waits for a server has sent messages that nobody has seen. When its wait
is cancelled each request among them is refused, in the form in which PostgreSQL refuses: a Query or
FunctionCall gets ErrorResponse and ReadyForQuery; of an extended-query batch the first message gets
ErrorResponse, the others up to Sync get nothing, and Sync gets ReadyForQuery. A batch whose Sync has
not come yet leaves the client ``skipping``: what it sends up to that Sync is dropped.

All requests are refused, not the first alone: what a client has sent behind a statement was meant for
the case that this one was executed.

https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-EXT-QUERY
"""

from __future__ import annotations

from struct import Struct

import attrs

from poolproxy.wire.build import ready_for_query
from poolproxy.wire.codes import BIND, CLOSE, DESCRIBE, EXECUTE, FUNCTION_CALL, PARSE, QUERY, SYNC
from poolproxy.wire.frontend import HEADER, ORDINARY

_unpack_header = Struct(">BI").unpack_from

_SIMPLE = frozenset((QUERY, FUNCTION_CALL))
_EXTENDED = frozenset((PARSE, BIND, DESCRIBE, EXECUTE, CLOSE))


@attrs.frozen
class Cancelled:
    """``answer`` goes to the client for the first ``used`` bytes, which are whole messages."""

    answer: bytes
    used: int
    skipping: bool


def cancelled(data: bytes, error: bytes) -> Cancelled:
    """Refuse the whole messages at the beginning of ``data`` with ``error``, an ErrorResponse.

    Stops before a message that is not complete, or that is none of those which need an answer.
    """
    ready = ready_for_query()
    answers = []
    skipping = False
    position, end = 0, len(data)
    while position + HEADER <= end:
        code, length = _unpack_header(data, position)
        stop = position + length + 1
        if code not in ORDINARY or length < 4 or stop > end:
            break
        if code == SYNC:
            answers.append(ready)
            skipping = False
        elif not skipping and code in _SIMPLE:
            answers += (error, ready)
        elif not skipping and code in _EXTENDED:
            answers.append(error)
            skipping = True
        position = stop
    return Cancelled(b"".join(answers), position, skipping)


def behind_sync(data: bytes, position: int) -> tuple[int, bool]:
    """Skip messages from ``position`` on: (where that ends, whether behind a Sync).

    It ends behind the next Sync, before a message that is not complete with its header, before one that
    does not belong in a batch (Terminate, or rubbish), or beyond the end: then so many bytes of the
    last message are still to come.
    """
    end = len(data)
    while position + HEADER <= end:
        code, length = _unpack_header(data, position)
        if code not in ORDINARY or length < 4:
            break
        position += length + 1
        if code == SYNC:
            return position, True
    return position, False
