"""What prepared statements are called: by clients, by servers, and in the FIFO of what is owed.

See ``wire.prepared`` for the theory.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Iterable
from enum import Enum, auto
from hashlib import blake2b
from struct import Struct
from weakref import WeakValueDictionary

from poolproxy.wire.codes import CLOSE, DESCRIBE, PARSE
from poolproxy.wire.deallocate import deallocated
from poolproxy.wire.frontend import PLAIN_BUT_PORTALS, PLAIN_BUT_SQL, PLAIN_BUT_UNNAMED

_pack_header = Struct(">BI").pack

UNNAMED = b""


class Statement:
    """One distinct statement. ``tail``: its Parse message behind the name (text and types); b"" while it is
    known only by its name, because a server has it.

    ``deallocates``: what its text deallocates, maybe ALL; None if it does something else. ``superseded``:
    PostgreSQL has refused to execute it, or another of that time, because DDL has changed its result.
    ``special``: either.
    """

    __slots__ = ("__weakref__", "deallocates", "name", "place", "special", "superseded", "tail")

    def __init__(self, name: bytes, tail: bytes) -> None:
        self.name = name
        self.superseded = False
        self.means(tail, "")

    def means(self, tail: bytes, place: str) -> None:
        """What its name stands for."""
        self.tail = tail
        self.place = place
        self.deallocates = deallocated(tail)
        self.special = self.superseded or self.deallocates is not None

    def parse_message(self) -> bytes:
        body = self.name + b"\0" + self.tail
        return _pack_header(PARSE, len(body) + 4) + body

    def describe_message(self) -> bytes:
        return _pack_header(DESCRIBE, len(self.name) + 6) + b"S" + self.name + b"\0"

    def close_message(self) -> bytes:
        return _pack_header(CLOSE, len(self.name) + 6) + b"S" + self.name + b"\0"


NO_STATEMENT = Statement(b"", b"")
# What is deallocated in the place of a client's statement or has its name taken, and what deallocates it. The
# first can stay behind, so it is closed before it is made. It is empty: a failed transaction takes that, too.
STAND_IN = Statement(b"POOLPROXY_S", bytes(3))
DEALLOCATE_STAND_IN = Statement(b"POOLPROXY_D", b'DEALLOCATE "POOLPROXY_S"' + bytes(3))
# The unnamed statement of a client that has none. On the server another client's may be, so that is closed
# before: then PostgreSQL refuses it, in its own words.
MISSING = Statement(UNNAMED, b"")
NOWHERE = Statement(b"(stale)", b"")  # no server has it


DIGEST_BYTES = (
    18  # of a statement's name: too many for two to have the same, by chance or by malice
)


def statement_name(tail: bytes, place: str, generation: int = 0) -> bytes:
    """What servers know a statement by; it is another one for each ``generation``.

    It follows from the statement alone. So a server connection that comes from another process, with what its
    clients have prepared there, has nothing under a name that means something else here; and of that only the
    names have to come along.
    """
    where = place.encode()
    digest = blake2b(
        len(where).to_bytes(4, "big") + where + tail,
        digest_size=DIGEST_BYTES,
        salt=generation.to_bytes(blake2b.SALT_SIZE, "big"),
    )
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
            generation = 0
            while statement.superseded:
                generation += 1
                statement = self.named(statement_name(tail, place, generation))
            statement.means(tail, place)
            self._known[place, tail] = statement
        return statement

    def named(self, name: bytes) -> Statement:
        """The statement that servers know by this name."""
        statement = self._named.get(name)
        if statement is None:
            statement = self._named[name] = Statement(name, b"")
        return statement

    def known(self, name: bytes, tail: bytes, place: str) -> Statement:
        """The same, when a client has it comes from another process, and is in this ``place`` by now. It may
        have prepared it in another one, which is not forgotten if it is known.
        """
        statement = self.named(name)
        if not statement.tail:
            statement.means(tail, place)
        return statement

    def supersede(self, statements: Iterable[Statement]) -> None:
        """Who prepares one of these anew gets another one, which every server parses anew."""
        for statement in statements:
            statement.superseded = statement.special = True
            key = statement.place, statement.tail
            if self._known.get(key) is statement:
                del self._known[key]


class Names:
    """What a client's names stand for; ``unsettled``: the unanswered entry that changed a name last.

    The name ``ALL`` is unsettled by a query that may deallocate all. ``size``: bytes of names and texts.
    ``place``: what else the meaning of a text hangs on, such as search_path; those who differ in it share
    no statement, or PostgreSQL would refuse it to one of them ("cached plan must not change result type").
    ``unnamed``: the client has used the unnamed statement beyond the Sync of its Parse, or its Bind
    came without a Parse: it is a name among these from then on, but for one that is too long (``passed``),
    which PostgreSQL has as it came. ``briefly``: it is one only because it is a DEALLOCATE.
    ``portals``: those that are bound to a DEALLOCATE of a name, with the name. ``told``: the shapes
    (``wire.shapes``) that the client has been told, by a Describe of the statement; ``telling``: those that
    it has asked for.
    """

    __slots__ = (
        "briefly",
        "passed",
        "place",
        "portals",
        "size",
        "statements",
        "telling",
        "told",
        "unnamed",
        "unsettled",
    )

    def __init__(self, place: str = "") -> None:
        self.place = place
        self.statements: dict[bytes, Statement] = {}
        self.unsettled: dict[bytes, Entry] = {}
        self.size = 0
        self.portals: dict[bytes, bytes] = {}
        self.told: dict[bytes, bytes] = {}
        self.telling: set[bytes] = set()
        self.unnamed = False
        self.briefly = False
        self.passed = False

    @property
    def plain(self) -> dict[int, bytes]:
        """How messages begin that have nothing to do with these names."""
        if self.portals:
            return PLAIN_BUT_PORTALS
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
            self.told.pop(name, None)
            self.telling.discard(name)


class Kind(Enum):
    """What an entry's answer means."""

    PARSED = auto()  # the client's own Parse
    INJECTED_PARSE = auto()
    EVICTED = auto()  # an injected Close
    PASSING = auto()  # another message of ours, that changes nothing
    FAKED_PARSE = auto()
    FAKED_CLOSE = auto()
    DUPLICATE = auto()  # a Parse that the server is to refuse
    DEALLOCATED = auto()  # a Query
    DEALLOCATION = auto()  # an Execute
    MISSED = (
        auto()
    )  # an Execute that is to fail, as it deallocates a name that is not there any more
    SWEEP = auto()  # a Query that may deallocate all, or an Execute of it
    DESCRIBED = auto()  # the client's own Describe of a statement
    CHECKED = auto()  # an injected one
    STALE = auto()  # a Bind that is to fail, as the client was told another shape


class Entry(int):
    """An entry of the FIFO that is more than a type. It equals the type whose answer takes it.

    ``segment``: the number of its Sync segment. ``epoch``: how often all statements had been forgotten
    before. ``refused``: an error has answered it. ``shape``: of what is evicted, or the digest so far of what
    is described.
    """

    kind: Kind
    statement: Statement
    name: bytes
    names: Names | None
    segment: int
    epoch: int
    refused: bool
    shape: bytes
