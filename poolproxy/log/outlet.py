"""The way from a record to where it is written: stderr, a file, syslog."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from logging.handlers import SysLogHandler
from typing import TextIO

from poolproxy.errors import ConfigError, Mistake
from poolproxy.log.json import JsonFormatter
from poolproxy.log.party import Party
from poolproxy.log.repeats import WINDOW, Repeats
from poolproxy.log.text import Formatter
from poolproxy.settings.enums import LogFormat
from poolproxy.settings.schema import Settings

SYSLOG = "/dev/log"
_AGAIN = "again %d times within %g s: %s"
_OTHERS = "%d more warnings within %g s, too many different ones to tell them apart"


class Outlet(logging.Handler):
    """The handler of all our loggers: writes each record to the ``targets``."""

    def __init__(self, targets: list[logging.Handler], limit: int) -> None:
        super().__init__()
        self.targets = targets
        self._repeats = Repeats(limit)

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, unless it is a warning that has been written often enough just now."""
        self.sum_up(record.created)
        if (
            record.levelno < logging.WARNING
            or record.exc_info
            or self._repeats.admit(_text(record))
        ):
            self._write(record)

    def sum_up(self, now: float) -> None:
        """Tell what was held back, if it is time for that; ``now`` is ``time.time()``."""
        for text, count in self._repeats.summary(now):
            again = (_OTHERS, (count, WINDOW)) if text is None else (_AGAIN, (count, WINDOW, text))
            self._write(
                logging.LogRecord("poolproxy", logging.WARNING, "", 0, again[0], again[1], None)
            )

    def _write(self, record: logging.LogRecord) -> None:
        for target in self.targets:
            if record.levelno >= target.level:
                target.handle(record)

    def close(self) -> None:
        """Tell what is left, and close the targets."""
        self.sum_up(time.time() + 2 * WINDOW)
        for target in self.targets:
            target.close()
        super().close()


def _text(record: logging.LogRecord) -> str:
    """What makes two records the same: all but whom they are about."""
    arguments = record.args
    if isinstance(arguments, tuple) and arguments and isinstance(arguments[0], Party):
        return (record.msg[2:].lstrip(": ") if record.msg.startswith("%s") else record.msg) % (
            arguments[1:] if record.msg.startswith("%s") else arguments
        )
    return record.getMessage()


class _Syslog(SysLogHandler):
    """Never waits for the daemon: what it does not take at once is lost."""

    socket: socket.socket

    def _connect_unixsocket(self, address: str) -> None:
        # Also when it connects again after an error, "full" among them.
        super()._connect_unixsocket(address)  # type: ignore[misc]
        self.socket.setblocking(False)

    def handleError(self, record: logging.LogRecord) -> None:
        """There is nowhere to tell of it."""


def open_outlet(settings: Settings, worker: int | None, stream: TextIO | None = None) -> Outlet:
    """What the settings ask for. Raises ConfigError, with all opened targets closed.

    A syslog that is not there is none: its daemon may come later.
    """
    targets: list[logging.Handler] = [logging.StreamHandler(stream or sys.stderr)]
    try:
        if settings.logfile:
            targets.append(_file(settings.logfile))
        for target in targets:
            target.setFormatter(_formatter(settings, worker))
        if settings.syslog:
            targets.append(_syslog(settings, worker))
    except BaseException:
        for target in targets:
            target.close()
        raise
    return Outlet(targets, settings.log_repeat_limit)


def _formatter(settings: Settings, worker: int | None) -> logging.Formatter:
    return JsonFormatter(worker) if settings.log_format is LogFormat.JSON else Formatter(worker)


def _file(path: str) -> logging.Handler:
    try:
        # Appending, so that the lines of all processes stay whole.
        return logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise ConfigError(
            [Mistake(f"logfile {path}", f"can't be opened: {error.strerror}")]
        ) from error


def _syslog(settings: Settings, worker: int | None) -> logging.Handler:
    handler = _Syslog(SYSLOG, settings.syslog_facility.value)
    json = settings.log_format is LogFormat.JSON
    handler.setFormatter(JsonFormatter(worker) if json else Formatter(worker, bare=True))
    handler.ident = f"{settings.syslog_ident}[{os.getpid()}]: "
    handler.append_nul = False
    return handler
