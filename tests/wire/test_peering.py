from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from poolproxy.wire.peering import MOST_PEER_ID, marked, passed_on, peer_of, restored

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
