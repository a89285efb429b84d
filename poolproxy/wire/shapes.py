"""What a statement takes and gives: what a client that has asked for it relies on from then on.

PostgreSQL refuses to execute a statement whose columns are no longer those that it had when it was prepared
("cached plan must not change result type"), and keeps the types of its parameters. A statement that is
prepared anew on another server connection, behind the client's back, would have what is true by then. So the
answer to a client's Describe is remembered by a digest, its *shape*, and held against that of the other
connection.

What PostgreSQL compares is compared: the columns' names, types and modifiers, not which table they are of.
"""

from __future__ import annotations

from hashlib import blake2b
from struct import Struct

from poolproxy.wire.codes import NO_DATA, PARAMETER_DESCRIPTION, ROW_DESCRIPTION

_unpack_column = Struct("!IHIhih").unpack_from
_COLUMN = 18  # bytes behind the name: table, number in it, type, size of it, modifier, format

# The answers to a Describe of a statement: the first of these, and then one of the others.
SHAPES = frozenset((PARAMETER_DESCRIPTION, ROW_DESCRIPTION, NO_DATA))
MAX_SHAPE = (
    300_000  # bytes of one of them; PostgreSQL's have at most 65535 parameters or 1664 columns
)


def parameters(body: bytes) -> bytes:
    """The digest of a ParameterDescription."""
    return blake2b(body, digest_size=16).digest()


def shape(parameters: bytes, body: bytes) -> bytes:
    """The digest of what a statement takes and gives. ``body``: of a RowDescription, empty of a NoData."""
    digest = blake2b(parameters, digest_size=16)
    position = 2
    while position < len(body):
        end = body.find(b"\0", position) + 1
        if not end or end + _COLUMN > len(body):
            digest.update(body[position:])
            break
        _, _, kind, _, modifier, _ = _unpack_column(body, end)
        digest.update(b"%b%d %d;" % (body[position:end], kind, modifier))
        position = end + _COLUMN
    return digest.digest()
