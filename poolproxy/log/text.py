"""Log lines as PgBouncer writes them, so that its users' log readers go on working.

``YYYY-MM-DD HH:MM:SS.mmm TZ [pid] LEVEL text``, lines after the first begin with a tab.
"""

from __future__ import annotations

import logging
import os
import time

from poolproxy.log.party import Party

NOISE = 5
NAMES = {
    logging.CRITICAL: "FATAL",
    logging.ERROR: "ERROR",
    logging.WARNING: "WARNING",
    logging.INFO: "LOG",
    logging.DEBUG: "DEBUG",
    NOISE: "NOISE",
}
# Names come from peers: what would steer a terminal or rewrite a line is shown as its code.
_ESCAPED = {
    code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"
}
_BY_VERBOSITY = (logging.INFO, logging.DEBUG, NOISE)


class Formatter(logging.Formatter):
    """PgBouncer's line format. ``bare``: without what syslog adds by itself.

    A line of worker N that is about no connection begins with "worker N: "; what begins with a connection
    stays as log readers know it, and the process id tells the worker.
    """

    def __init__(self, worker: int | None = None, *, bare: bool = False) -> None:
        super().__init__()
        self._whose = "" if worker is None else f"worker {worker}: "
        self._bare = bare
        self._pid = os.getpid()
        self._second, self._stamp, self._zone = -1, "", ""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line, with continuation lines for its traceback."""
        text = record.getMessage()
        if self._whose and not _is_about_connection(record):
            text = self._whose + text
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        text = text.translate(_ESCAPED).replace("\n", "\n\t")
        if self._bare:
            return text
        second = int(record.created)
        if second != self._second:
            local = time.localtime(second)
            self._second = second
            self._stamp = time.strftime("%Y-%m-%d %H:%M:%S", local)
            self._zone = time.strftime("%Z", local)
        level = NAMES.get(record.levelno, record.levelname)
        return f"{self._stamp}.{int(record.msecs):03d} {self._zone} [{self._pid}] {level} {text}"


def _is_about_connection(record: logging.LogRecord) -> bool:
    arguments = record.args
    return isinstance(arguments, tuple) and bool(arguments) and isinstance(arguments[0], Party)


def level_of(verbose: int) -> int:
    """The least level that is logged at the setting ``verbose`` (0 to 3)."""
    return _BY_VERBOSITY[min(verbose, len(_BY_VERBOSITY) - 1)]
