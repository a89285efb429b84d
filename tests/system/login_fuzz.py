"""States that a log-in can be in, and what a client could send in each of them that is not expected."""

from __future__ import annotations

import random
import struct

import attrs

from tests.system.protocol_client import (
    GSSENC_REQUEST,
    SSL_REQUEST,
    cancel_request,
    message,
    startup,
)

USER = "postgres"
FIRST = b"n,,n=,r=the-clients-nonce-0000"
# Lengths that a header may claim: around the header's own, at the limits of both kinds of packets, at
# those of integers.
LENGTHS = (
    *(0, 1, 3, 4, 5, 7, 8, 9, 255, 9_999, 10_000, 10_001),
    *(65_531, 65_535, 131_071, 131_072, 131_073),
    *(2**31 - 1, 2**31, 2**32 - 5, 2**32 - 1),
)
CODES = (3 << 16, (3 << 16) + 2, (3 << 16) + 65_535, 2 << 16, 4 << 16, 0, 2**32 - 1)
CODES += (80877102, 80877103, 80877104, 80877105)
LETTERS = b"QPBDECFHSXdcfpRKZEv"


@attrs.frozen
class State:
    """``database`` decides the method; ``answers``: how many questions have been answered; ``half``: an
    encryption request has, and nothing came after it.
    """

    database: str = ""
    answers: int = 0
    tls: bool = False
    half: str = ""


STATES = (
    State(),
    State(tls=True),
    State(half="gss"),
    State(half="ssl"),
    *(
        State(database, answers, tls)
        for tls in (False, True)
        for database, answers in (
            ("plain", 0),
            ("md5", 0),
            ("scram", 0),
            ("scram", 1),
            ("stranger", 0),
            ("stranger", 1),
            ("cert", 0),
            ("ldap", 0),
        )
    ),
)


def initial(data: bytes, mechanism: bytes = b"SCRAM-SHA-256") -> bytes:
    return message("p", mechanism + b"\0" + struct.pack("!i", len(data)) + data)


def start(state: State) -> bytes:
    user = "stranger" if state.database == "stranger" else USER
    return startup({"user": user, "database": state.database or "plain"})


def right(state: State) -> bytes:
    """What would be right in form here, and never lets anybody in."""
    if state.half == "ssl":
        return b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03" + bytes(60)
    if not state.database:
        return start(State("plain"))
    if state.database in ("scram", "stranger"):
        proof = b"c=biws,r=the-clients-nonce-0000,p=" + b"A" * 43 + b"="
        return message("p", proof) if state.answers else initial(FIRST)
    return message("p", b"md5" + b"0" * 32 + b"\0")


class Fuzz:
    """One random attack on each call."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    def bytes_for(self, state: State) -> bytes:
        """What to send in this state."""
        kind = self.chance.choice((self._typed, self._typed, self._first, self._cut, self._changed))
        data = kind(state)
        if self.chance.random() < 0.2:
            data += self.chance.choice((self._typed, self._changed))(state)
        return data

    def _body(self, length: int) -> bytes:
        most = max(0, min(length, 400))
        return self.chance.choice((bytes(most), self.chance.randbytes(most), b"a" * most, b""))

    def _typed(self, state: State) -> bytes:
        code = self.chance.choice(
            (self.chance.choice(LETTERS), self.chance.randrange(256), b"p"[0])
        )
        length = self.chance.choice(LENGTHS)
        return bytes((code,)) + struct.pack("!I", length) + self._body(length - 4)

    def _first(self, state: State) -> bytes:
        length, code = self.chance.choice(LENGTHS), self.chance.choice(CODES)
        return struct.pack("!II", length, code) + self._body(length - 8)

    def _cut(self, state: State) -> bytes:
        whole = right(state)
        return whole[: self.chance.randrange(len(whole) + 1)]

    def _changed(self, state: State) -> bytes:
        data = bytearray(self.chance.choice((right(state), right(state), *OTHERS)))
        for _ in range(self.chance.randint(1, 3)):
            at = self.chance.randrange(len(data) + 1)
            change = self.chance.randrange(4)
            if change == 0:
                data[at : at + 1] = self.chance.randbytes(1)
            elif change == 1:
                del data[at : at + self.chance.randint(1, 6)]
            elif change == 2:
                data[at:at] = self.chance.choice((b"\0", b",", b"=", b"p=", b"\xff\xfe", b"r=" * 9))
            else:
                data[at : at + 4] = struct.pack("!I", self.chance.choice(LENGTHS))
        return bytes(data)


OTHERS = (SSL_REQUEST, GSSENC_REQUEST, cancel_request((1, bytes(4))), initial(FIRST, b"GS2-KRB5"))
