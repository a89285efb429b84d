from __future__ import annotations

import pytest

from poolproxy.settings.entries import PeerSettings
from tests.settings.loading import DATABASE, SOURCE, USER, load, mistakes

REST = f"{DATABASE}{USER}[poolproxy]\npeer_id = 1\n"


def test_peers_are_read() -> None:
    """Each table [peers.N] is an instance with its own settings; our own may be among them."""
    config = load(
        f'{REST}[peers.1]\nhost = "a"\n[peers.2]\nhost = "/run/b"\nport = 7\npool_size = 3'
    )
    assert config.peers == {
        "1": PeerSettings(host="a"),
        "2": PeerSettings(host="/run/b", port=7, pool_size=3),
    }


@pytest.mark.parametrize("name", ["0", "16384", "x", "-1", "99999999999", "٣"])
def test_a_peer_is_a_number(name: str) -> None:
    """What has no room in a cancel key is no peer."""
    text = f'{REST}[peers."{name}"]\nhost = "a"\n'
    assert mistakes(text) == [
        f"{SOURCE}:7: a peer is a number, its peer_id, 1 to 16383, not {name}"
    ]


def test_a_peer_needs_a_host() -> None:
    """There is no default for it."""
    assert mistakes(f"{REST}[peers.2]\nport = 7\n") == [f"{SOURCE}:7: a peer needs host"]


def test_peers_need_a_peer_id() -> None:
    """Without one our own cancel keys would not be ours to the others."""
    text = f'{DATABASE}{USER}[peers.2]\nhost = "a"\n'
    assert mistakes(text) == [f"{SOURCE}:5: [peers] is of no use without peer_id"]
