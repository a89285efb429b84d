"""Log lines as JSON, one object a line."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime

import msgspec

from poolproxy.log.party import Party
from poolproxy.log.text import NAMES

_encode = msgspec.json.Encoder().encode


class JsonFormatter(logging.Formatter):
    """``worker`` is the worker's number, None in the acceptor. Fields that say nothing are left out."""

    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._whose = {"pid": os.getpid()} | ({} if worker is None else {"worker": worker})

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line; who it is about is told by fields, not in the message."""
        fields: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": NAMES.get(record.levelno, record.levelname),
            **self._whose,
        }
        party = record.args[0] if isinstance(record.args, tuple) and record.args else None
        if isinstance(party, Party) and record.msg.startswith("%s"):
            assert isinstance(record.args, tuple)
            fields["connection"] = party.connection
            fields |= {"database": party.database, "user": party.user, "address": party.address}
            message = record.msg[2:].lstrip(": ") % record.args[1:]
        else:
            message = record.getMessage()
        fields["message"] = message
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return _encode({key: _printable(value) for key, value in fields.items()}).decode()


def _printable(value: object) -> object:
    # Names come from clients, and may be no UTF-8.
    if isinstance(value, str):
        return str(value).encode("utf-8", "backslashreplace").decode()
    return value
