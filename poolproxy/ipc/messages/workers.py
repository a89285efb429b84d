"""The life of a worker: what it is told of itself, and what it reports."""

from __future__ import annotations

import attrs

from poolproxy.ipc.messages.registry import message


@attrs.frozen
class ConfigFile:
    """The text of a file of the configuration; ``setting`` names it."""

    setting: str
    text: str = attrs.field(repr=False)


# -- acceptor -> worker ------------------------------------------------------------------------------


@message(180)
@attrs.frozen
class Begin:
    """You are the worker in this slot from now on. The first message: until it comes a process is a spare."""

    slot: int


@message(1)
@attrs.frozen
class Configure:
    """The configuration that the acceptor has just validated. ``text`` is TOML, whatever format its file
    has, so that a worker knows but one.

    ``path`` serves for messages and relative names only: the worker reads no file again. ``mock_key``:
    32 random bytes, the same for all workers and the whole run, from which unknown users get salts.
    """

    generation: int
    path: str
    text: str
    auth_file: str  # the text of userlist.txt, "" if there is none
    mock_key: bytes
    files: tuple[ConfigFile, ...] = ()


@message(28)
@attrs.frozen
class Retire:
    """Another worker has taken this one's place: move all clients there or to others, as they become quiet,
    and leave when all are gone. ``timeout`` seconds later those that are left are disconnected; 0: never.
    """

    timeout: float


@message(10)
@attrs.frozen
class Leave:
    """Leave. mode: "clients" (when all clients have left; those that log in are refused), "retire" (the same,
    but they are let in), "servers" (SIGINT: refuse waiting clients, close servers as they are freed), "now".
    """

    mode: str


@message(9)
@attrs.frozen
class Collect:
    """Send a :class:`Snapshot` now, numbered ``request``; also the sign of life that is asked for."""

    request: int


# -- worker -> acceptor ------------------------------------------------------------------------------


@message(64)
@attrs.frozen
class Ready:
    """The worker is up and has loaded configuration ``generation``."""

    pid: int
    generation: int
    schema: str
    compiled: bool


@message(76)
@attrs.frozen
class Bye:
    """The worker's last words: why it ends ("left" is the expected one)."""

    reason: str


@message(88)
@attrs.frozen
class Load:
    """How much processor time the worker has used in all, in seconds, ``at`` that time."""

    at: float
    cpu: float


@message(75)
@attrs.frozen
class Snapshot:
    """The metrics as they are now (poolproxy.metrics.snapshot); ``request`` as in Collect, else 0."""

    request: int
    data: bytes
