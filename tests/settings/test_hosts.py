from __future__ import annotations

from typing import Any

import pytest

from poolproxy.settings.hosts import MOST_HOSTS, SERVER_HOSTS, SERVER_PORTS, Host, pair
from poolproxy.settings.values import Kind, Unexpected
from tests.settings.loading import USER, load, mistakes

GOOD: list[tuple[Kind[Any], object, object]] = [
    (SERVER_HOSTS, "db-1.example.org", ("db-1.example.org",)),
    (SERVER_HOSTS, "10.0.0.1", ("10.0.0.1",)),
    (SERVER_HOSTS, "2001:DB8:0::1", ("2001:db8::1",)),
    (SERVER_HOSTS, "/var/run/postgresql", ("/var/run/postgresql",)),
    (SERVER_HOSTS, "a, b,[::1]", ("a", "b", "::1")),
    (SERVER_HOSTS, ["a", "/run/pg"], ("a", "/run/pg")),
    (SERVER_PORTS, 5432, (5432,)),
    (SERVER_PORTS, "5432", (5432,)),
    (SERVER_PORTS, "5432, 5433", (5432, 5433)),
    (SERVER_PORTS, [5432, 5433], (5432, 5433)),
]
BAD: list[tuple[Kind[Any], object]] = [
    (SERVER_HOSTS, ""),
    (SERVER_HOSTS, []),
    (SERVER_HOSTS, 5),
    (SERVER_HOSTS, "a,"),
    (SERVER_HOSTS, "host:5432"),
    (SERVER_HOSTS, "-host"),
    (SERVER_HOSTS, "/" + "x" * 92),
    (SERVER_HOSTS, ["a"] * (MOST_HOSTS + 1)),
    (SERVER_PORTS, "5432,"),
    (SERVER_PORTS, [0]),
    (SERVER_PORTS, 70000),
    (SERVER_PORTS, True),
]


@pytest.mark.parametrize(("kind", "value", "meaning"), GOOD)
def test_hosts_and_ports_are_read(kind: Kind[Any], value: object, meaning: object) -> None:
    """One value, a text with commas and an array are read alike."""
    assert kind.read(value) == meaning


@pytest.mark.parametrize(("kind", "value", "meaning"), GOOD)
def test_what_is_written_reads_back(kind: Kind[Any], value: object, meaning: object) -> None:
    """The TOML that a kind writes means the value again."""
    written = kind.write(meaning).strip('"[]')
    assert kind.read(written) == meaning


@pytest.mark.parametrize(("kind", "value"), BAD)
def test_a_wrong_host_or_port_is_refused(kind: Kind[Any], value: object) -> None:
    """An empty or endless list, and each item that is none, is refused."""
    with pytest.raises(Unexpected):
        kind.read(value)


def test_a_port_in_a_host_is_sent_to_its_setting() -> None:
    """The habit of other tools is answered with what to write here."""
    with pytest.raises(Unexpected, match="the port goes into port"):
        SERVER_HOSTS.read("a,db:5432")


def test_hosts_get_their_ports() -> None:
    """One port is for all hosts, several are for one each; the same place twice is one."""
    assert pair(("a", "b"), (5,)) == (Host("a", 5), Host("b", 5))
    assert pair(("a", "b"), (5, 6)) == (Host("a", 5), Host("b", 6))
    assert pair(("a", "a", "b"), (5,)) == (Host("a", 5), Host("b", 5))


def test_ports_must_fit_the_hosts() -> None:
    """Two ports for three hosts is a mistake at the line of the port."""
    text = f'{USER}[databases.app]\nhost = "a,b,c"\nport = [1, 2]\n'
    assert mistakes(text) == ["pool.toml:5: 2 ports for 3 hosts: give one, or one for each"]


def test_a_pool_knows_its_hosts() -> None:
    """A pool has the hosts of its database in order, and how they are chosen."""
    text = (
        f'{USER}[databases.app]\nhost = ["a", "b"]\nport = "1,2"\nload_balance_hosts = "disable"\n'
        'target_session_attrs = "read-write"\n'
    )
    pool = load(text).pool("app", "joe")
    assert pool is not None
    assert pool.hosts == (Host("a", 1), Host("b", 2))
    assert pool.load_balance_hosts.value == "disable"
    assert pool.target_session_attrs.value == "read-write"


def test_a_unix_socket_has_its_path() -> None:
    """The address of a folder's socket is PostgreSQL's name for it; "@" is the abstract one."""
    assert Host("/run/pg", 5432).socket_path == "/run/pg/.s.PGSQL.5432"
    assert Host("@pg", 5432).socket_path == "\0pg/.s.PGSQL.5432"
    assert str(Host("::1", 5432)) == "[::1]:5432"
