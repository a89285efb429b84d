"""The log: PgBouncer's lines or JSON, to stderr, a file and syslog, the same in all processes."""

from __future__ import annotations

import logging
import os
import time
from typing import TextIO

from poolproxy.log import outlet as outlets
from poolproxy.log.outlet import Outlet, open_outlet
from poolproxy.log.party import Party
from poolproxy.log.text import level_of
from poolproxy.settings.schema import Settings

__all__ = ["Party", "set_up", "set_verbosity", "sum_up"]


def set_up(
    settings: Settings | None = None,
    worker: int | None = None,
    *,
    stream: TextIO | None = None,
    early: TextIO | None = None,
) -> None:
    """Log as ``settings`` say, by default to stderr only; called again it replaces what it did before.

    So a log file is opened anew, as one that was moved away needs it. ``worker`` is the number of the
    worker that this process is; ``stream`` stands for stderr; so does ``early``, which gets warnings
    and errors only. Raises ConfigError, and then all is as before.
    """
    settings = settings or Settings()
    outlet = open_outlet(settings, worker, early or stream)
    if early is not None:
        outlet.targets[0].setLevel(logging.WARNING)
    ours = logging.getLogger("poolproxy")
    before = ours.handlers[:]
    ours.handlers[:] = [outlet]
    set_verbosity(settings.verbose)
    for handler in before:
        handler.close()
    if settings.syslog and worker is None and not os.path.exists(outlets.SYSLOG):
        ours.warning("there is no %s: nothing gets to syslog until it is there", outlets.SYSLOG)


def set_verbosity(verbose: int) -> None:
    """Change what is logged."""
    logging.getLogger("poolproxy").setLevel(level_of(verbose))


def sum_up() -> None:
    """Tell which warnings have been held back; to be called about once a second."""
    for handler in logging.getLogger("poolproxy").handlers:
        if isinstance(handler, Outlet):
            handler.sum_up(time.time())
