"""What prepared statements are called: by clients, by servers, and in the FIFO of what is owed.

See ``wire.prepared`` for the theory.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from enum import Enum, auto
from hashlib import blake2b
from struct import Struct
from weakref import WeakValueDictionary

from poolproxy.wire.codes import CLOSE, PARSE
from poolproxy.wire.frontend import PLAIN_BUT_SQL, PLAIN_BUT_UNNAMED

_pack_header = Struct(">BI").pack

ALL = b"\0"  # no statement of a client's has this name
UNNAMED = b""


class Statement:
    """One distinct statement. ``tail``: its Parse message behind the name (text and types); b"" while it is
    known only by its name, because a server has it.
    """

    __slots__ = ("__weakref__", "name", "tail")

    def __init__(self, name: bytes, tail: bytes) -> None:
        self.name = name
        self.tail = tail

    def parse_message(self) -> bytes:
        body = self.name + b"\0" + self.tail
        return _pack_header(PARSE, len(body) + 4) + body

    def close_message(self) -> bytes:
        return _pack_header(CLOSE, len(self.name) + 6) + b"S" + self.name + b"\0"


NO_STATEMENT = Statement(b"", b"")
# The unnamed statement of a client that has none, on a server where another client's may be: its name there
# is that of none, so that PostgreSQL refuses it.
MISSING = Statement(b"(unnamed)", b"")


DIGEST_BYTES = (
    18  # of a statement's name: too many for two to have the same, by chance or by malice
)


def statement_name(tail: bytes, place: str) -> bytes:
    """What servers know a statement by.

    It follows from the statement alone. So a server connection that comes from another process, with what its
    clients have prepared there, has nothing under a name that means something else here; and of that only the
    names have to come along.
    """
    where = place.encode()
    digest = blake2b(len(where).to_bytes(4, "big") + where + tail, digest_size=DIGEST_BYTES)
    return b"POOLPROXY_" + urlsafe_b64encode(digest.digest())


class Statements:
    """The statements of a pool, each as long as a client or a server has it.

    ``client_parses``, ``server_parses``, ``binds``: messages that named one, from clients and to servers.
    """

    def __init__(self) -> None:
        self._known: WeakValueDictionary[tuple[str, bytes], Statement] = WeakValueDictionary()
        self._named: WeakValueDictionary[bytes, Statement] = WeakValueDictionary()
        self.client_parses = 0
        self.server_parses = 0
        self.binds = 0

    def __len__(self) -> int:
        return len(self._named)

    def get(self, tail: bytes, place: str = "") -> Statement:
        """The statement with this text and these types, in this place (see :class:`Names`)."""
        statement = self._known.get((place, tail))
        if statement is None:
            statement = self.named(statement_name(tail, place))
            statement.tail = tail
            self._known[place, tail] = statement
        return statement

    def named(self, name: bytes) -> Statement:
        """The statement that servers know by this name."""
        statement = self._named.get(name)
        if statement is None:
            statement = self._named[name] = Statement(name, b"")
        return statement

    def known(self, name: bytes, tail: bytes) -> Statement:
        """The same, when a client has it and comes from another process."""
        statement = self.named(name)
        statement.tail = tail
        return statement


class Names:
    """What a client's names stand for; ``unsettled``: the unanswered entry that changed a name last.

    The name ``ALL`` is unsettled by a query that may deallocate all. ``size``: bytes of names and texts.
    ``place``: what else the meaning of a text hangs on, such as search_path; those who differ in it share
    no statement, or PostgreSQL would refuse it to one of them ("cached plan must not change result type").
    ``unnamed``: the client has used the unnamed statement beyond the Sync of its Parse, or its Bind
    came without a Parse: it is a name among these from then on, but for one that is too long (``passed``),
    which PostgreSQL has as it came.
    """

    __slots__ = ("passed", "place", "size", "statements", "unnamed", "unsettled")

    def __init__(self, place: str = "") -> None:
        self.place = place
        self.statements: dict[bytes, Statement] = {}
        self.unsettled: dict[bytes, Entry] = {}
        self.size = 0
        self.unnamed = False
        self.passed = False

    @property
    def plain(self) -> dict[int, bytes]:
        """How messages begin that have nothing to do with these names."""
        return PLAIN_BUT_UNNAMED if self.unnamed else PLAIN_BUT_SQL

    def put(self, name: bytes, statement: Statement) -> None:
        """``name``, which is free, stands for ``statement``."""
        self.statements[name] = statement
        self.size += len(name) + len(statement.tail)

    def drop(self, name: bytes) -> None:
        """``name`` is free, if it was not."""
        statement = self.statements.pop(name, None)
        if statement is not None:
            self.size -= len(name) + len(statement.tail)


class Kind(Enum):
    """What an entry's answer means."""

    PARSED = auto()  # the client's own Parse
    INJECTED_PARSE = auto()
    EVICTED = auto()  # an injected Close
    FAKED_PARSE = auto()
    FAKED_CLOSE = auto()
    DUPLICATE = auto()  # a Parse that the server is to refuse
    DEALLOCATED = auto()  # a Query
    SWEEP = auto()  # a Query that may deallocate all


class Entry(int):
    """An entry of the FIFO that is more than a type. It equals the type whose answer takes it.

    ``segment``: the number of its Sync segment. ``epoch``: how often all statements had been forgotten
    before. ``refused``: an error has answered it.
    """

    kind: Kind
    statement: Statement
    name: bytes
    names: Names | None
    segment: int
    epoch: int
    refused: bool
