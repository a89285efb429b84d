"""Cancel requests."""

from __future__ import annotations

import attrs

from poolproxy.ipc.messages.parts import CancelKey
from poolproxy.ipc.messages.registry import message

# -- acceptor -> worker ------------------------------------------------------------------------------


@message(8)
@attrs.frozen
class Cancel:
    """Cancel what the client with this key is running; answer with :class:`CancelDone`."""

    request: int
    key: CancelKey


@message(41)
@attrs.frozen
class PassOn:
    """Pass this CancelRequest on to another instance; answer with :class:`CancelDone`."""

    request: int
    host: str
    port: int
    key: CancelKey


# -- worker -> acceptor ------------------------------------------------------------------------------


@message(73)
@attrs.frozen
class CancelRequest:
    """A CancelRequest has arrived from a client; answered by :class:`CancelDone` to the same worker."""

    request: int
    key: CancelKey


@message(74)
@attrs.frozen
class CancelDone:
    """The cancel with this number is finished, sent on or not. Goes both ways."""

    request: int


@message(87)
@attrs.frozen
class CancelMissed:
    """The answer to a :class:`Cancel` for a client that is on its way to another worker: ask that one."""

    request: int
