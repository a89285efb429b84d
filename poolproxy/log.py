"""Log lines as PgBouncer writes them, so that its users' log readers go on working.

``YYYY-MM-DD HH:MM:SS.mmm TZ [pid] LEVEL text``, lines after the first begin with a tab. The same
in acceptor and workers, all to stderr: a line is one write, so they do not mix.
"""

from __future__ import annotations

import logging
import os
import time
from typing import TextIO

NOISE = 5
_NAMES = {
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
    """PgBouncer's line format."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line, with continuation lines for its traceback."""
        local = time.localtime(record.created)
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", local)
        zone = time.strftime("%Z", local)
        level = _NAMES.get(record.levelno, record.levelname)
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        text = text.translate(_ESCAPED).replace("\n", "\n\t")
        return f"{stamp}.{int(record.msecs):03d} {zone} [{os.getpid()}] {level} {text}"


def level_of(verbose: int) -> int:
    """The least level that is logged at the setting ``verbose`` (0 to 3)."""
    return _BY_VERBOSITY[min(verbose, len(_BY_VERBOSITY) - 1)]


def set_up(verbose: int, stream: TextIO | None = None) -> None:
    """Log to ``stream``, stderr if None; called again it replaces what it did before."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Formatter())
    ours = logging.getLogger("poolproxy")
    ours.handlers[:] = [handler]
    ours.propagate = False
    set_verbosity(verbose)


def set_verbosity(verbose: int) -> None:
    """Change what is logged."""
    logging.getLogger("poolproxy").setLevel(level_of(verbose))
