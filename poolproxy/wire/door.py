"""Where statements are refused that would change the state of the session (``session_state = error``).

The statement does not reach the server. In its place goes one that raises the error: so the error comes in
its order among the other answers, and transaction and pipeline go on as they do after any error.
"""

from __future__ import annotations

from collections.abc import Container
from struct import Struct

from poolproxy.errors import PoolerError
from poolproxy.wire.build import message
from poolproxy.wire.codes import PARSE, QUERY
from poolproxy.wire.effects import Does, statement
from poolproxy.wire.frontend import HEADER
from poolproxy.wire.said import MOST
from poolproxy.wire.sql_words import statements

_unpack_header = Struct(">BI").unpack_from

_IMPOSSIBLE = 1 << 31  # bytes: no message is so long


class Door:
    """One client's stream. ``tracked``: names of parameters that may be set; ``refused``: statements.

    Of a message with more than MOST bytes only so many are waited for and read.
    """

    __slots__ = ("_drop", "_head", "_left", "refused", "tracked")

    def __init__(self, tracked: Container[bytes]) -> None:
        self.tracked = tracked
        self.refused = 0
        self._head = b""
        self._left = 0
        self._drop = False  # whether what is left is not to go on

    @property
    def between_messages(self) -> bool:
        """True when no message is half way through."""
        return not self._left and not self._head

    def feed(self, data: bytes, *, strict: bool = True) -> bytes:
        """What may go on of all that has come; the rest is kept until more comes.

        Without ``strict`` nothing is refused, and only what has been kept is looked at.
        """
        data = self._head + data
        self._head = b""
        position = start = min(self._left, len(data))
        self._left -= start
        passed = [] if self._drop else [data[:start]]
        while position + HEADER <= len(data):
            code, length = _unpack_header(data, position)
            stop = position + length + 1
            if strict and code in (QUERY, PARSE) and 4 <= length < _IMPOSSIBLE:
                if min(stop, position + MOST) > len(data):
                    break
                message = data[position:stop]
                instead = self._instead(code, message[:MOST])
                self._drop = instead is not None
                passed.append(message if instead is None else instead)
            else:
                # An impossible length is for Frontend to complain about.
                stop = max(stop, position + HEADER)
                self._drop = False
                passed.append(data[position:stop])
            position = stop
        self._left += max(0, position - len(data))
        self._head = data[position:]
        return b"".join(passed)

    def _instead(self, code: int, beginning: bytes) -> bytes | None:
        """What is to go in the place of a message that begins so; None if it may go itself."""
        name, text = b"", beginning[HEADER:]
        if code == PARSE:
            name, _, text = text.partition(b"\0")
        phrase = self._refused(text.partition(b"\0")[0])
        if not phrase:
            return None
        self.refused += 1
        instead = _raise(_refusal(phrase)).encode() + b"\0"
        return message(code, instead if code == QUERY else name + b"\0" + instead + b"\0\0")

    def _refused(self, text: bytes) -> str:
        """What in ``text`` is refused, in words; "" if nothing is."""
        for tokens in statements(text):
            read = statement(tokens, self.tracked)
            for effect in read.effects if read is not None else ():
                if effect.does is Does.MARK:
                    return effect.phrase
        return ""


def _refusal(phrase: str) -> PoolerError:
    return PoolerError(
        f"{phrase} is not allowed (session_state)",
        sqlstate="0A000",
        severity="ERROR",
        hint="It would outlive the transaction, and other clients use the same server connection. Use"
        " SET LOCAL or the like, another session_state, or pool_mode = session.",
        reason="session_state",
    )


def _raise(error: PoolerError) -> str:
    # None of the texts has a quote or a backslash in it.
    return (
        "DO LANGUAGE plpgsql $poolproxy$BEGIN RAISE EXCEPTION USING"
        f" ERRCODE = '{error.sqlstate}', MESSAGE = '{error.message}', HINT = '{error.hint}';"
        " END$poolproxy$"
    )
