"""Leaving the terminal: a process in the background, or one that is quiet."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TextIO

import attrs

READY = b"+"


@attrs.define
class Streams:
    """What is left of the standard streams. ``early``: where to log until :meth:`settle`."""

    early: TextIO
    _tell: Callable[[], None] = lambda: None

    def settle(self) -> None:
        """The start is over: let go of the terminal, and tell who waits for that."""
        self.early.close()
        self._tell()


def quiet() -> Streams:
    """From now on stderr is nowhere, in the processes that we start, too; the start still can be told."""
    early = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace")
    _silence(2)
    return Streams(early)


def leave_terminal() -> Streams | int:
    """Go on in a process of its own. What is returned in the one that was started by hand is its exit
    status: 0 when the other has settled, 1 when it has ended without.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        os.waitpid(child, 0)
        said = os.read(reader, 1)
        os.close(reader)
        return 0 if said == READY else 1
    os.setsid()
    if os.fork():
        # Not the leader of the session, so that no terminal becomes ours by opening it.
        os._exit(0)
    os.close(reader)
    streams = quiet()
    _silence(0)
    _silence(1)

    def tell() -> None:
        os.write(writer, READY)
        os.close(writer)

    return Streams(streams.early, tell)


def _silence(fd: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, fd)
    os.close(null)
