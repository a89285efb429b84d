"""The console: its clients, its orders, and what workers are asked to show."""

from __future__ import annotations

import attrs

from poolproxy.ipc.messages.parts import CancelKey
from poolproxy.ipc.messages.registry import message

# -- acceptor -> worker ------------------------------------------------------------------------------


@message(30)
@attrs.frozen
class ConsoleRows:
    """Rows of the command that a console client has given; None is NULL. Answered by :class:`ConsoleNext`."""

    client: int
    rows: tuple[tuple[str | None, ...], ...]


@message(31)
@attrs.frozen
class ConsoleEnd:
    """The command has ended: with ``tag``, or with an error. ``notice``: what the client is told beside it.

    ``close``: close the connection without a word.
    """

    client: int
    tag: str = ""
    error: str = ""
    sqlstate: str = ""
    hint: str = ""
    notice: str = ""
    close: bool = False


@message(32)
@attrs.frozen
class Inspect:
    """Make the rows of a SHOW command (its name is ``what``) of what the worker has: the first part of them,
    when asked again the next one. Each is answered by :class:`Inspected`. ``stop``: no more are wanted.
    """

    request: int
    what: str
    stop: bool = False


@message(33)
@attrs.frozen
class Hold:
    """What the operator has stopped, all of it; answered by :class:`Done` when the worker complies.

    ``paused``: every database is, beside those in ``databases``. ``disabled``: databases that refuse clients.
    """

    request: int
    paused: bool
    suspended: bool
    databases: tuple[str, ...]
    disabled: tuple[str, ...]


@message(34)
@attrs.frozen
class Command:
    """The worker's part of a console command: ``verb`` is KILL, RECONNECT (``argument``: a database, "" for
    all) or KILL_CLIENT (a client's number); answered by :class:`Done`.
    """

    request: int
    verb: str
    argument: str


# -- worker -> acceptor ------------------------------------------------------------------------------


@message(90)
@attrs.frozen
class ConsoleUp:
    """A client has logged in to the console; it does not count against max_client_conn any more."""

    client: int
    key: CancelKey
    user: str


@message(91)
@attrs.frozen
class ConsoleCommand:
    """A console client has given a command, which its worker has found to be one, and allowed."""

    client: int
    text: str


@message(92)
@attrs.frozen
class ConsoleNext:
    """The client has taken the rows: it can have more. ``stop``: it is gone, and its command is moot."""

    client: int
    stop: bool = False


@message(93)
@attrs.frozen
class Inspected:
    """A part of what :class:`Inspect` has asked for; ``last``: there is no more."""

    request: int
    rows: tuple[tuple[str | None, ...], ...]
    last: bool


@message(94)
@attrs.frozen
class Done:
    """What :class:`Hold` or :class:`Command` has asked for is done; ``count``: to how many it was."""

    request: int
    count: int = 0
