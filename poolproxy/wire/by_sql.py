"""Prepared statements of the protocol that a client deallocates by SQL, in a Query or by Bind and Execute.

What is deallocated on the server is a stand-in: see ``wire.deallocate``, and ``wire.prepared`` for the
theory.
"""

from __future__ import annotations

from struct import Struct

from poolproxy.wire.codes import EXECUTE, QUERY
from poolproxy.wire.deallocate import ALL, deallocated
from poolproxy.wire.frontend import HEADER, SWEEP
from poolproxy.wire.provision import FLUSH_MESSAGE, MAX_HEAD, Forwarded, Incomplete, Provision, Wait
from poolproxy.wire.statements import (
    DEALLOCATE_STAND_IN,
    NO_STATEMENT,
    STAND_IN,
    UNNAMED,
    Kind,
    Names,
    Statement,
)

_pack_header = Struct(">BI").pack

MOST_PORTALS = 100  # bound to a DEALLOCATE at a time; those of more don't find the statement
# Stands in for a Query that deallocates a shared statement: refused and answered as that would be.
_INSTEAD_OF_DEALLOCATE = (
    b'PREPARE "POOLPROXY_0" AS SELECT 1; DEALLOCATE "POOLPROXY_0"\0'  # never a statement's name
)


class SqlDeallocation(Provision):
    """The part of a PreparedBackend that looks at what a client's SQL deallocates."""

    __slots__ = ()

    def _bound(self, names: Names, portal: bytes, statement: Statement) -> Statement:
        """What to bind a portal to in the place of ``statement``, a DEALLOCATE."""
        name = statement.deallocates
        if name is None or len(names.portals) >= MOST_PORTALS:
            return statement
        if name != ALL and self._find(names, name) is None:
            return statement
        names.portals[portal] = name
        return statement if name == ALL else DEALLOCATE_STAND_IN

    def _execute(self, names: Names, message: bytes, size: int, result: Forwarded) -> bool:
        """An Execute deallocates if its portal is bound to that: all, or a stand-in, made right before."""
        if not names.portals:
            return False
        if len(message) < size < MAX_HEAD:
            raise Incomplete
        name = names.portals.get(message[HEADER : message.find(b"\0", HEADER)])
        if name is None:
            return False
        if name == ALL:
            if len(message) < size:
                return False
            result.out += [message, FLUSH_MESSAGE]  # names wait for what it does
            self._entry(EXECUTE, Kind.SWEEP, NO_STATEMENT, ALL, names)
            return True
        if self._amid_segments():
            raise Wait  # an earlier segment may fail the transaction
        statement = self._find(names, name)
        kind = Kind.MISSED
        if statement is None:
            self._close_stand_in(result)
        else:
            self._make_stand_in(result)
            kind = Kind.DEALLOCATION
            names.drop(name)
        result.out.append(message)
        self._entry(EXECUTE, kind, statement or STAND_IN, name, names)
        return True

    def _deallocate(self, names: Names, message: bytes, size: int, result: Forwarded) -> bool:
        if not names.statements and not names.unsettled:
            return False
        if len(message) < size < MAX_HEAD:
            raise Incomplete
        names.drop(UNNAMED)  # as PostgreSQL does
        name = deallocated(message, HEADER) if size < MAX_HEAD else None
        statement = self._find(names, name) if name is not None else None
        if name is None or statement is None:
            return self._sweep(names, message, size, result)
        body = _INSTEAD_OF_DEALLOCATE
        result.out.append(_pack_header(QUERY, len(body) + 4) + body)
        self._entry(QUERY, Kind.DEALLOCATED, statement, name, names)
        self._segment += 1
        return True

    def _sweep(self, names: Names, message: bytes, size: int, result: Forwarded) -> bool:
        """A query that may be DEALLOCATE ALL or DISCARD ALL: names must wait for what it does."""
        if len(message) < size or not SWEEP.search(message):
            return False
        result.out.append(message)
        self._entry(QUERY, Kind.SWEEP, NO_STATEMENT, ALL, names)
        self._segment += 1
        return True
