"""How an answer through the pool may differ from PostgreSQL's own: this list, and nothing else.

Each mask belongs to a row of a table in docs/: the row that tells users of the difference.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from tests.differential import statements
from tests.system.protocol_client import Reply

FEATURES, ERRORS = "features.md", "errors.md"
ALL = ("session", "transaction", "statement")


@attrs.frozen
class Moment:
    """What came from the pool where PostgreSQL has sent ``want``, and then ``then`` (None: nothing any more).

    ``before``: the message before it that is no ParameterStatus. ``status``: the transaction's, of the last
    ReadyForQuery; ``block``: one of them has told of a transaction. ``parameters``: the client has given
    some at its start. ``cancelled``: it has asked so. ``along``: the answers before, as far as the client had
    not waited for them when it asked for this.
    """

    mode: str
    before: Reply | None
    status: str
    parameters: bool
    block: bool
    want: Reply | None
    got: Reply
    then: Reply | None = None
    cancelled: bool = False
    along: tuple[Reply, ...] = ()

    def refused_with(self, sqlstate: str, words: str) -> bool:
        if self.got.code != "E":
            return False
        error = self.got.error()
        return error.sqlstate == sqlstate and error.message == words


@attrs.frozen
class Mask:
    """``ends``: what the client would get from then on is another story, so that it leaves.

    ``closed``: the pooler closes the connection. ``modes`` are those in which it is needed, ``seldom`` those
    in which that hangs on the order of events.
    """

    name: str
    page: str
    row: str
    fits: Callable[[Moment], bool]
    modes: tuple[str, ...] = ALL
    seldom: tuple[str, ...] = ()
    ends: bool = False
    closed: bool = False

    def fits_in(self, mode: str) -> bool:
        return mode in self.modes + self.seldom


def _other_process(moment: Moment) -> bool:
    want, got = moment.want, moment.got
    return want is not None and want.code == got.code == "A" and want.body[4:] == got.body[4:]


def _our_name(moment: Moment) -> bool:
    want, (theirs, found, rest) = moment.want, moment.got.body.partition(b'"POOLPROXY_')
    if want is None or (moment.got.code, want.code) != ("E", "E") or not found:
        return False
    _, quote, rest = rest.partition(b'"')
    return want.body.startswith(theirs + quote) and want.body.endswith(quote + rest)


def _server_defaults(moment: Moment) -> bool:
    discarded = moment.before == Reply("C", b"DISCARD ALL\0")
    reported = moment.got.code == "S" or (moment.want is not None and moment.want.code == "S")
    theirs = moment.parameters or moment.mode == "session"  # servers have those of other clients
    return theirs and discarded and reported


def _reset_amid_pipeline(moment: Moment) -> bool:
    """``show`` of what a client may have given at its start and PostgreSQL does not report."""
    want, before, got = moment.want, moment.before, moment.got
    if want is None or before is None or (before.code, want.code, got.code) != ("T", "D", "D"):
        return False
    shown = before.body.split(b"\0")[1].removeprefix(b"\1")
    default = {b"work_mem": "4MB", b"geqo": "on"}.get(shown)
    discarded = Reply("C", b"DISCARD ALL\0") in moment.along
    return moment.parameters and discarded and got.row() == (default,)


def _aborted(moment: Moment) -> bool:
    words = "current transaction is aborted, commands ignored until end of transaction block"
    return moment.status == "E" and moment.refused_with("25P02", words)


def _no_blocks(moment: Moment) -> bool:
    words = "transaction blocks not allowed in statement pooling mode"
    return moment.block and moment.refused_with("08P01", words)


def _is_stale(reply: Reply | None) -> bool:
    words = "cached plan must not change result type"
    return reply is not None and reply.code == "E" and reply.error().message == words


def _stale_no_more(moment: Moment) -> bool:
    return _is_stale(moment.want) and not _is_stale(moment.got)


def _stale_once(moment: Moment) -> bool:
    return _is_stale(moment.got) and not _is_stale(moment.want)


def _sqlstate(reply: Reply | None) -> str:
    return reply.error().sqlstate if reply is not None and reply.code == "E" else ""


def _not_preparable(moment: Moment) -> bool:
    return _sqlstate(moment.want) == "08P01" and _sqlstate(moment.got)[:2] == "42"


def _not_described(moment: Moment) -> bool:
    want, then, got = moment.want, moment.then, moment.got
    described = want is not None and want.code == "t" and then is not None
    return described and _sqlstate(got)[:2] == "42" and then in (got, Reply("n", b""))


def _not_looked_at(moment: Moment) -> bool:
    want = moment.want
    return want is not None and want.code == "E" and moment.got == Reply("1", b"")


def _cancelled(moment: Moment) -> bool:
    words = "canceling statement due to user request"
    return moment.cancelled and moment.refused_with("57014", words)


MASKS = (
    Mask(
        "the sender of a notification is another process",
        FEATURES,
        statements.LISTEN,
        _other_process,
        modes=("session",),
    ),
    Mask(
        "the server's name of a statement",
        FEATURES,
        statements.NAMED,
        _our_name,
        modes=("transaction", "statement"),
    ),
    # The server lacks the statement, and can't be given it in a failed transaction.
    Mask(
        "25P02 for what PostgreSQL would describe",
        FEATURES,
        statements.NAMED,
        _aborted,
        modes=("transaction",),
        seldom=("statement",),  # only in a transaction that passes because it came in one go
        ends=True,
    ),
    Mask(
        "a statement does not stay refused after DDL",
        FEATURES,
        statements.NAMED,
        _stale_no_more,
        modes=("transaction", "statement"),
        ends=True,
    ),
    Mask(
        "a statement is refused as PostgreSQL would have refused it, without the line in its source",
        FEATURES,
        statements.NAMED,
        lambda moment: _is_stale(moment.want) and _is_stale(moment.got),
        modes=(),
        seldom=("transaction", "statement"),  # when another server is found to differ
    ),
    Mask(
        "what DDL has spoilt in a statement is told before what is wrong with the Bind",
        FEATURES,
        statements.NAMED,
        _not_preparable,
        modes=(),
        seldom=("transaction", "statement"),  # where a server lacks the statement, and can't get it
    ),
    Mask(
        "a statement that DDL has spoilt is described by the error alone",
        FEATURES,
        statements.NAMED,
        _not_described,
        modes=("transaction",),
        seldom=("statement",),
        ends=True,
    ),
    # What others have prepared, or this client before, is not prepared again by its Parse.
    Mask(
        "a statement of before DDL is refused though the client has prepared it anew",
        FEATURES,
        statements.NAMED,
        _stale_once,
        modes=("transaction",),
        seldom=("statement",),
        ends=True,
    ),
    Mask(
        "Parse does not look at the tables",
        FEATURES,
        statements.NAMED,
        _not_looked_at,
        modes=("transaction",),
        seldom=("statement",),
        ends=True,
    ),
    Mask(
        "DISCARD ALL does not go back to the start-up parameters",
        FEATURES,
        statements.RESET,
        _server_defaults,
        modes=("transaction", "statement"),
        seldom=("session",),
        ends=True,
    ),
    Mask(
        "what was sent along with DISCARD ALL has the server's parameters",
        FEATURES,
        statements.AT_START,
        _reset_amid_pipeline,
        modes=("transaction", "statement"),
    ),
    Mask(
        "no transactions in statement mode",
        FEATURES,
        statements.TRANSACTIONS,
        _no_blocks,
        modes=("statement",),
        ends=True,
        closed=True,
    ),
)

# Where servers are terminated and queries are cancelled.
LOSSES = (
    Mask(
        "PostgreSQL's farewell",
        ERRORS,
        "`server conn crashed?`",
        lambda moment: moment.refused_with(
            "57P01", "terminating connection due to administrator command"
        ),
        ends=True,
        closed=True,
    ),
    Mask(
        "server lost",
        ERRORS,
        "`server conn crashed?`",
        lambda moment: moment.refused_with("08006", "server conn crashed?"),
        ends=True,
        closed=True,
    ),
    Mask("cancelled", FEATURES, statements.CANCEL, _cancelled, ends=True),
)
