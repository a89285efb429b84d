"""Every message that answers nothing is a violation, whatever its type and wherever it comes."""

from __future__ import annotations

import pytest

from poolproxy.wire.backend import Backend, Violation
from poolproxy.wire.build import message, parameter_status
from poolproxy.wire.prepared import PreparedBackend
from poolproxy.wire.statements import Names, Statements

# Each type that a server can send, with a body that has the right form.
MESSAGES = {
    "1": b"",
    "2": b"",
    "3": b"",
    "n": b"",
    "s": b"",
    "I": b"",
    "c": b"",
    "C": b"SELECT 1\0",
    "T": b"\0\0",
    "t": b"\0\0",
    "D": b"\0\0",
    "V": b"\xff\xff\xff\xff",
    "G": b"\0\0\0",
    "H": b"\0\0\0",
    "W": b"\0\0\0",
    "d": b"copied\n",
    "Z": b"I",
    "R": b"\0\0\0\0",
    "K": bytes(8),
    "v": bytes(8),
}
# What PostgreSQL may send at any time.
ANY_TIME = {"N": b"Mhello\0\0", "A": b"\0\0\0\1a\0\0", "S": b"TimeZone\0UTC\0"}
UNEXPECTED = set("WRKv")

# What is owed, and which messages can come next: an error always, and what may come at any time.
OWED = {
    "": "",
    "Q": "TDCIGHdcZ",
    "P": "1",
    "B": "2",
    "C": "3",
    "D": "Ttn",
    "E": "DCIsGHdc",
    "S": "Z",
    "F": "VZ",
}


def said(code: str) -> bytes:
    return message(ord(code), MESSAGES[code])


@pytest.fixture(params=["plain", "preparing", "special"])
def back(request: pytest.FixtureRequest) -> Backend:
    """A conversation: ordinary, with shared statements, and amid one of these."""
    if request.param == "plain":
        return Backend()
    prepared = PreparedBackend(Statements(), 10)
    prepared.awake = True
    if request.param == "special":
        names = Names()
        parse = message(ord("P"), b"one\0select 1\0\0\0")
        prepared.forward(names, parse + message(ord("S"), b""), 1 << 20)
        # The statement stays unsettled behind what is owed first.
        prepared.feed(message(ord("1"), b"") + message(ord("Z"), b"I"))
        prepared.special += 1
    return prepared


def owe(back: Backend, code: str) -> None:
    if code:
        back.owe([ord(code), *([] if code in "QFS" else [ord("S")])])


@pytest.mark.parametrize("code", MESSAGES)
@pytest.mark.parametrize("owed", OWED)
def test_only_what_answers_the_first_request_is_taken(back: Backend, owed: str, code: str) -> None:
    """In any other place it is a violation of a known kind."""
    owe(back, owed)
    if code in OWED[owed]:
        back.feed(said(code))
        return
    with pytest.raises(Violation) as caught:
        back.feed(said(code))
    assert caught.value.kind == ("unexpected" if code in UNEXPECTED else "unasked")


@pytest.mark.parametrize("code", MESSAGES)
def test_nothing_may_follow_readiness(back: Backend, code: str) -> None:
    """Not in the same bytes, and not in later ones."""
    owe(back, "Q")
    with pytest.raises(Violation):
        back.feed(said("C") + said("Z") + said(code))
    fresh = Backend()
    owe(fresh, "Q")
    assert fresh.feed(said("C") + said("Z")) == (said("C") + said("Z"), True)
    with pytest.raises(Violation):
        fresh.feed(said(code))


@pytest.mark.parametrize("code", MESSAGES)
def test_nothing_but_readiness_follows_the_end_of_a_batch(back: Backend, code: str) -> None:
    """A second row of a command that is complete is nobody's."""
    back.owe([ord(code_) for code_ in "PBES"])
    answer = said("1") + said("2") + said("D") + said("C")
    if code == "Z":
        assert back.feed(answer + said("Z"))[0] == answer + said("Z")
        return
    with pytest.raises(Violation):
        back.feed(answer + said(code))


@pytest.mark.parametrize("owed", OWED)
@pytest.mark.parametrize("code", ANY_TIME)
def test_notices_may_come_at_any_time(back: Backend, owed: str, code: str) -> None:
    """PostgreSQL sends them on its own account; they answer nothing and take nothing."""
    owe(back, owed)
    before = list(back.owed)
    sent = message(ord(code), ANY_TIME[code])
    assert back.feed(sent)[0] == sent
    assert list(back.owed) == before


@pytest.mark.parametrize("code", [*MESSAGES, *ANY_TIME, "E", "?"])
@pytest.mark.parametrize("length", [0, 1, 2, 3])
def test_an_impossible_length_is_malformed(back: Backend, code: str, length: int) -> None:
    """Whoever may have asked for it, and in pieces, too: nothing is kept for ever."""
    owe(back, "Q")
    sent = code.encode() + length.to_bytes(4, "big") + b"rest"
    with pytest.raises(Violation) as caught:
        any(back.feed(bytes((byte,))) is None for byte in sent)
    assert caught.value.kind == "malformed"


@pytest.mark.parametrize("code", "BFPQXYpu?\0\xff")
def test_a_type_that_no_server_sends_is_a_violation(back: Backend, code: str) -> None:
    """Those of clients among them."""
    owe(back, "Q")
    with pytest.raises(Violation):
        back.feed(message(ord(code), b""))


@pytest.mark.parametrize("size", [0, 2, 100])
def test_readiness_has_one_byte(back: Backend, size: int) -> None:
    """With none, the next message's type would be taken for the state of the transaction."""
    owe(back, "Q")
    with pytest.raises(Violation, match="ReadyForQuery"):
        back.feed(message(ord("Z"), b"I" * size) + said("I"))


@pytest.mark.parametrize("body", [b"", b"name", b"name\0value", b"name\0", b"a\0b\0c\0"])
def test_a_broken_parameter_is_malformed(back: Backend, body: bytes) -> None:
    """Found where it is read, before anything of these bytes is forwarded."""
    owe(back, "Q")
    with pytest.raises(Violation, match="broken ParameterStatus"):
        back.feed(message(ord("S"), body))
    assert parameter_status("a", "b") == message(ord("S"), b"a\0b\0")


def test_a_violation_leaves_known_where_the_client_is(back: Backend) -> None:
    """Nothing of the bytes with a violation is forwarded, so a client amid a row is there still."""
    owe(back, "Q")
    row = message(ord("D"), b"x" * 100)
    back.feed(said("T") + row[:50])
    left = back.left
    assert left == len(row) - 50
    with pytest.raises(Violation):
        back.feed(row[50:] + said("1"))
    assert back.left == left
