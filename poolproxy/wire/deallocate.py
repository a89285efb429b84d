"""SQL's DEALLOCATE of a prepared statement that was made by the protocol.

PostgreSQL has one set of names for both. Here the client's name is no name of the server's, so what is to
be deallocated there is a stand-in that is made right before. It is answered as the client's own would be.
"""

from __future__ import annotations

import re

# What may stand between words. Nothing in it is tried twice, however the rest goes on.
_SPACE = rb"(?>\s|--[^\n\r\0]*|/\*(?:[^*\0]|\*(?!/))*\*/)"
_DEALLOCATE = re.compile(
    rb"%(space)s*+deallocate%(space)s++(?:prepare%(space)s++)?"
    rb'(?:"((?:[^"\0]|"")+)"|(?!all(?![\w$\x80-\xff]))([a-z_\x80-\xff][\w$\x80-\xff]*))'
    rb"(?:%(space)s|;)*+\0" % {b"space": _SPACE},
    re.IGNORECASE,
)
_DEALLOCATE_ALL = re.compile(
    rb"%(space)s*+(?:deallocate%(space)s++(?:prepare%(space)s++)?|discard%(space)s++)all"
    rb"(?:%(space)s|;)*+\0" % {b"space": _SPACE},
    re.IGNORECASE,
)

ALL = b"\0"  # no statement of a client's has this name


def deallocated(text: bytes, start: int = 0) -> bytes | None:
    """The name that the text from ``start`` up to its zero byte deallocates, if that is all that it does; or
    ``ALL``.

    Not found behind nested comments, or written as ``U&"..."``.
    """
    match = _DEALLOCATE.match(text, start)
    if match is None:
        return ALL if _DEALLOCATE_ALL.match(text, start) else None
    quoted, plain = match.groups()
    return bytes(quoted.replace(b'""', b'"') if quoted else plain.lower())
