"""Cancel keys that tell which instance of a group has the client.

A CancelRequest comes by a connection of its own, and behind a load balancer to any instance. So a key has
its instance's ``peer_id`` in it (1 to 16383), and the number of times that it may still be passed on. The
layout is PgBouncer's, so that both can be in one group: of the 8 bytes of a key, the process id's four come
first, bytes 1 and 2 are the peer's id, little-endian, and the two lowest bits of byte 7 are the times left,
3 at first.

The long keys of protocol 3.2 have room for it in the secret, in its first two bytes and its last one: the
process id can then be the true one. (PgBouncer has no long keys.)
"""

from __future__ import annotations

SHORT = 4  # bytes of a secret before protocol 3.2
TTL = 0x03
MOST_PEER_ID = 0x3FFF


def marked(pid: int, secret: bytes, peer_id: int) -> tuple[int, bytes]:
    """The key with the peer's id in it, and with all times left."""
    last = bytes((secret[-1] | TTL,))
    if len(secret) > SHORT:
        return pid, peer_id.to_bytes(2, "little") + secret[2:-1] + last
    return pid & 0xFF0000FF | int.from_bytes(peer_id.to_bytes(2, "little"), "big") << 8, (
        secret[:-1] + last
    )


def peer_of(pid: int, secret: bytes) -> int:
    """The id of the instance that has made this key, if one of its group has."""
    if len(secret) > SHORT:
        return int.from_bytes(secret[:2], "little")
    return int.from_bytes(pid.to_bytes(4, "big")[1:3], "little")


def restored(secret: bytes) -> bytes:
    """The secret as it was made, however often the key has been passed on."""
    return secret[:-1] + bytes((secret[-1] | TTL,))


def passed_on(secret: bytes) -> bytes | None:
    """The secret for the next instance; None if it has been passed on too often."""
    if not secret[-1] & TTL:
        return None
    return secret[:-1] + bytes((secret[-1] - 1,))
