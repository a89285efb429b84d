"""Which message of a server answers which of its client's: the tables of ``wire.backend``."""

from __future__ import annotations

from struct import Struct

from poolproxy.wire.codes import (
    BIND,
    BIND_COMPLETE,
    CLOSE,
    CLOSE_COMPLETE,
    COMMAND_COMPLETE,
    COPY_DATA,
    COPY_DONE,
    COPY_FAIL,
    COPY_OUT_RESPONSE,
    DATA_ROW,
    DESCRIBE,
    EMPTY_QUERY_RESPONSE,
    ERROR_RESPONSE,
    EXECUTE,
    FUNCTION_CALL,
    FUNCTION_CALL_RESPONSE,
    NO_DATA,
    NOTICE_RESPONSE,
    NOTIFICATION_RESPONSE,
    PARAMETER_DESCRIPTION,
    PARAMETER_STATUS,
    PARSE,
    PARSE_COMPLETE,
    PORTAL_SUSPENDED,
    QUERY,
    ROW_DESCRIPTION,
    SYNC,
)

_unpack_header = Struct(">BI").unpack_from

HEADER = 5  # bytes of type and length

# What a server message takes off the FIFO; 0: nothing.
TAKES = {
    PARSE_COMPLETE: PARSE,
    BIND_COMPLETE: BIND,
    CLOSE_COMPLETE: CLOSE,
    ROW_DESCRIPTION: DESCRIBE,
    NO_DATA: DESCRIBE,
    COMMAND_COMPLETE: EXECUTE,
    EMPTY_QUERY_RESPONSE: EXECUTE,
    PORTAL_SUSPENDED: EXECUTE,
    PARAMETER_DESCRIPTION: 0,
    DATA_ROW: 0,
    COPY_OUT_RESPONSE: 0,
    COPY_DATA: 0,
    COPY_DONE: 0,
    FUNCTION_CALL_RESPONSE: 0,
    NOTICE_RESPONSE: 0,
    NOTIFICATION_RESPONSE: 0,
}
# What takes nothing is an answer too, and only to what is owed first. Notices are no answers.
NOTICES = frozenset((NOTICE_RESPONSE, NOTIFICATION_RESPONSE))
ROWS = NOTICES | {DATA_ROW, COPY_OUT_RESPONSE, COPY_DATA, COPY_DONE}
QUIET_IN_QUERY = ROWS | {ROW_DESCRIPTION, EMPTY_QUERY_RESPONSE}
IN_QUERY = QUIET_IN_QUERY | {COMMAND_COMPLETE}
QUIET = {
    QUERY: QUIET_IN_QUERY,
    EXECUTE: ROWS,
    DESCRIBE: NOTICES | {PARAMETER_DESCRIPTION},
    FUNCTION_CALL: NOTICES | {FUNCTION_CALL_RESPONSE},
}
ANSWERED_BY_READY = frozenset((QUERY, SYNC, FUNCTION_CALL))
ANSWERED = frozenset((PARSE, BIND, DESCRIBE, EXECUTE, CLOSE, SYNC, QUERY, FUNCTION_CALL))
COPY_ENDS = frozenset((COPY_DONE, COPY_FAIL))

# What PostgreSQL sends on its own account: a notice, a notification, a parameter that has changed
# by a reload, the reason for which it closes the connection.
_ASYNCHRONOUS = frozenset(
    (NOTICE_RESPONSE, NOTIFICATION_RESPONSE, PARAMETER_STATUS, ERROR_RESPONSE)
)


def may_come_unasked(data: bytes) -> bool:
    """Whether an idle server may send ``data``, as far as its first message tells."""
    return data[0] in _ASYNCHRONOUS


def only_notifications(data: bytes) -> bool:
    """Whether ``data`` is whole NotificationResponses and nothing else."""
    position, end = 0, len(data)
    while position + HEADER <= end and data[position] == NOTIFICATION_RESPONSE:
        length: int = _unpack_header(data, position)[1]
        position += length + 1
    return position == end
