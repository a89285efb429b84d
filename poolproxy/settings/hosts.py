"""Where a database is: its hosts and their ports, as libpq and PgBouncer have them. No name is resolved here.

``host`` is one host or a list of them; ``port`` is one for all, or as many as there are hosts.
https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-MULTIPLE-HOSTS
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import attrs

from poolproxy.settings.addresses import PORT, read_host, read_socket_dir
from poolproxy.settings.values import Kind, Unexpected, quoted, read_text

T = TypeVar("T")

MOST_HOSTS = 64  # of one database; a longer list is a mistake, and each may be tried in turn


@attrs.frozen
class Host:
    """One host: a name, an address without brackets, or the folder of a Unix socket ("@" begins an
    abstract one).
    """

    name: str
    port: int

    @property
    def is_unix(self) -> bool:
        return self.name.startswith(("/", "@"))

    @property
    def socket_path(self) -> str:
        """The address of the Unix socket, as socket.connect takes it."""
        folder = "\0" + self.name[1:] if self.name.startswith("@") else self.name
        return f"{folder}/.s.PGSQL.{self.port}"

    def __str__(self) -> str:
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


def _one_host(text: str) -> str:
    if text.startswith("/"):
        return read_socket_dir(text)
    try:
        return read_host(text)
    except Unexpected as error:
        raise Unexpected("the port goes into port" if error.hint else "") from None


def _several(read_one: Callable[[object], T]) -> Callable[[object], tuple[T, ...]]:
    """A reader of one value, of a text with commas, or of an array."""

    def read(value: object) -> tuple[T, ...]:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, list):
            items = [items]
        if not 0 < len(items) <= MOST_HOSTS:
            raise Unexpected
        return tuple(read_one(item) for item in items)

    return read


SERVER_HOSTS: Kind[tuple[str, ...]] = Kind(
    "list of hosts",
    "a host name, an address, or the folder of a Unix socket with its whole path, or a list of these",
    _several(lambda item: _one_host(read_text(item).strip())),
    lambda hosts: quoted(",".join(hosts)),
)
ONE_HOST: Kind[str] = Kind(
    "host",
    "a host name, an address, or the folder of a Unix socket with its whole path",
    lambda value: _one_host(read_text(value).strip()),
    quoted,
)
SERVER_PORTS: Kind[tuple[int, ...]] = Kind(
    "list of ports",
    f"{PORT.expected}, or a list of as many as there are hosts",
    _several(PORT.read),
    lambda ports: str(ports[0]) if len(ports) == 1 else f"[{', '.join(map(str, ports))}]",
)


def pair(names: tuple[str, ...], ports: tuple[int, ...]) -> tuple[Host, ...]:
    """The hosts with their ports, each once: the same one twice would be the same one tried twice."""
    if len(ports) != len(names):
        ports = ports[:1] * len(names)
    return tuple(dict.fromkeys(Host(*both) for both in zip(names, ports, strict=True)))
