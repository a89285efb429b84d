from __future__ import annotations

from typing import Any

import pytest

from poolproxy.settings.addresses import (
    ENDPOINT,
    LISTEN_HOSTS,
    MODE,
    SOCKET_DIR,
    WORKERS,
    Address,
)
from poolproxy.settings.values import Kind, Unexpected

GOOD: list[tuple[Kind[Any], object, object]] = [
    (LISTEN_HOSTS, "127.0.0.1, ::1", ("127.0.0.1", "::1")),
    (LISTEN_HOSTS, ["localhost", "[::1]"], ("localhost", "::1")),
    (LISTEN_HOSTS, "*", ("*",)),
    (LISTEN_HOSTS, "", ()),
    (SOCKET_DIR, "/run/pool", "/run/pool"),
    (SOCKET_DIR, "", ""),
    (ENDPOINT, "127.0.0.1:9127", Address("127.0.0.1", 9127)),
    (ENDPOINT, "[::1]:9127", Address("::1", 9127)),
    (ENDPOINT, "*:9127", Address("*", 9127)),
    (ENDPOINT, "", None),
    (MODE, "0770", 0o770),
    (MODE, "0o700", 0o700),
    (MODE, 0o600, 0o600),
    (WORKERS, "auto", 0),
    (WORKERS, 4, 4),
    (WORKERS, "4", 4),
]
BAD: list[tuple[Kind[Any], object]] = [
    (LISTEN_HOSTS, "a b"),
    (LISTEN_HOSTS, "127.0.0.1:6432"),
    (LISTEN_HOSTS, "127.0.0.300"),
    (LISTEN_HOSTS, 5),
    (SOCKET_DIR, "run"),
    (SOCKET_DIR, "/" + "x" * 92),
    (ENDPOINT, "9127"),
    (ENDPOINT, "localhost:"),
    (ENDPOINT, "localhost:0"),
    (ENDPOINT, "::1:9127"),
    (ENDPOINT, "[nonsense]:9127"),
    (MODE, 777),
    (MODE, "888"),
    (MODE, True),
    (MODE, None),
    (WORKERS, 0),
    (WORKERS, "many"),
    (WORKERS, 5000),
]


@pytest.mark.parametrize(("kind", "value", "meaning"), GOOD)
def test_an_address_is_read(kind: Kind[Any], value: object, meaning: object) -> None:
    """Addresses, sockets, modes and worker numbers are read in each form that is documented."""
    assert kind.read(value) == meaning


@pytest.mark.parametrize(("kind", "value", "meaning"), GOOD)
def test_what_is_written_reads_back(kind: Kind[Any], value: object, meaning: object) -> None:
    """The TOML that a kind writes means the value again."""
    written = kind.write(meaning)
    bare = [part.strip('"') for part in written.strip("[]").split(", ")]
    assert kind.read(bare if kind is LISTEN_HOSTS else written.strip('"')) == meaning


@pytest.mark.parametrize(("kind", "value"), BAD)
def test_a_wrong_address_is_refused(kind: Kind[Any], value: object) -> None:
    """What cannot be an address, or would be cut off by the kernel, is refused."""
    with pytest.raises(Unexpected):
        kind.read(value)


@pytest.mark.parametrize(
    ("kind", "value", "hint"),
    [
        (LISTEN_HOSTS, "127.0.0.1:6432", "the port goes into listen_port"),
    ],
)
def test_a_port_in_a_host_is_sent_to_its_setting(kind: Kind[Any], value: object, hint: str) -> None:
    """The habits of other tools are answered with what to write here."""
    with pytest.raises(Unexpected, match=hint):
        kind.read(value)
