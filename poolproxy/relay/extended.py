"""Clients that may send no simple queries (``disable_pqexec``).

A Query message may hold any number of statements, which SQL injection lives on; the extended protocol takes
one at a time. Clients are of such a class only where that is asked for, so others don't pay for the look at
what they send.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

from poolproxy.errors import PoolerError
from poolproxy.relay.client import Client
from poolproxy.wire.codes import QUERY
from poolproxy.wire.frontend import Frontend

C = TypeVar("C", bound=Client)

DISALLOWED = PoolerError(
    "PQexec disallowed",
    hint="disable_pqexec is set: simple queries, which may have several statements, are refused. Send"
    " statements by the extended protocol (Parse, Bind, Execute), as prepared ones are.",
    reason="disable_pqexec",
)


class ExtendedClient(Client):
    """``seen``: the stream up to what has been let through."""

    # No __slots__: a class can inherit those of one base only.

    def __init__(self, *args: Any, **rest: Any) -> None:
        super().__init__(*args, **rest)
        self.seen = Frontend()

    def begin(self, early: bytes) -> None:
        error = self._refused(early)
        super().begin(b"" if error else early)
        if error is not None:
            self.fail(error)

    def received(self, data: bytes) -> None:
        error = self._refused(data)
        if error is None:
            super().received(data)
        else:
            self.fail(error)

    def _refused(self, data: bytes) -> PoolerError | None:
        try:
            _, types, _ = self.seen.feed(data, self.context.max_packet_size)
        except PoolerError as error:
            return error
        return DISALLOWED if QUERY in types else None


def extended_only(kind: type[C]) -> type[C]:
    """The class for what ``kind`` is where simple queries are allowed; its instances are ExtendedClients."""
    found = _extended_only.get(kind)
    if found is None:
        found = type(f"Extended{kind.__name__}", (ExtendedClient, kind), {})
        _extended_only[kind] = found
    return cast(type[C], found)


_extended_only: dict[type, type] = {}
