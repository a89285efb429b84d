from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolproxy.wire.peering import MOST_PEER_ID, marked, passed_on, peer_of, restored
from poolproxy.wire.startup import CancelPacket, cancel_request, parse_first_packet

pids = st.integers(0, 2**31 - 1)
peers = st.integers(1, MOST_PEER_ID)
secrets = st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=32, max_size=32))


def test_the_layout_is_that_of_pgbouncer() -> None:
    """Of a key's 8 bytes, 1 and 2 are the peer's id, little-endian; the two lowest bits of byte 7 are set."""
    pid, secret = marked(0x11223344, bytes.fromhex("aabbccd0"), 0x2B1A)
    assert (pid.to_bytes(4, "big") + secret).hex() == "111a2b44aabbccd3"


@given(pids, secrets, peers)
def test_a_key_tells_its_peer(pid: int, secret: bytes, peer: int) -> None:
    """Whatever the rest of the key is; a long one leaves the process id as it is."""
    number, found = marked(pid, secret, peer)
    assert peer_of(number, found) == peer
    assert len(found) == len(secret)
    assert 0 <= number < 2**31
    assert len(secret) == 4 or number == pid


@given(pids, secrets, peers)
def test_a_key_is_passed_on_three_times(pid: int, secret: bytes, peer: int) -> None:
    """Each time it is another one, of the same peer, that can be restored; the fourth time there is none."""
    number, first = marked(pid, secret, peer)
    seen = [first]
    while (following := passed_on(seen[-1])) is not None:
        seen.append(following)
    assert len(set(seen)) == 4
    assert {restored(each) for each in seen} == {first}
    assert {peer_of(number, each) for each in seen} == {peer}


# -- beside a PgBouncer ---------------------------------------------------------------------------

# Bytes of a real one; the file says how they were got.
RECORDED = [
    line.split()
    for line in Path(__file__).with_name("recorded_peers.txt").read_text().splitlines()
    if not line.startswith("#")
]


def key_of(packet: str) -> tuple[int, bytes]:
    """The key in a CancelRequest, as a client's first packet is read."""
    found = parse_first_packet(bytes.fromhex(packet))
    assert found is not None
    assert isinstance(found[0], CancelPacket)
    return found[0].pid, found[0].secret


@pytest.mark.parametrize(
    ("came", "went"), [words[1:] for words in RECORDED if words[0] == "forward"]
)
def test_what_goes_to_a_peer_is_what_pgbouncer_sends(came: str, went: str) -> None:
    """Byte by byte. A long key, which PgBouncer has not and drops, goes to instances that made it."""
    pid, secret = key_of(came)
    assert peer_of(pid, secret) == 0x2B1A
    following = passed_on(secret)
    if len(secret) == 4:
        assert (cancel_request(pid, following).hex() if following is not None else "-") == went
    else:
        assert went == "-"
        assert following is not None


@pytest.mark.parametrize(
    ("key", "taken"), [words[1:] for words in RECORDED if words[0] == "accept"]
)
def test_a_key_that_pgbouncer_takes_is_one_that_we_send(key: str, taken: str) -> None:
    """Its clients' keys are read as its own; it finds them whatever was taken off on the way; so do we."""
    whole = bytes.fromhex(key)
    pid, secret = int.from_bytes(whole[:4], "big"), whole[4:]
    assert peer_of(pid, secret) == 2
    assert restored(secret) == secret
    sent = [secret]
    while (following := passed_on(sent[-1])) is not None:
        sent.append(following)
    assert taken in [cancel_request(pid, each).hex() for each in sent]
    assert (key_of(taken)[0], restored(key_of(taken)[1])) == (pid, secret)
