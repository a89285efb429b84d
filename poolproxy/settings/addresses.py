"""Kinds of values that say where to listen. No name is resolved here."""

from __future__ import annotations

import ipaddress
import re

import attrs

from poolproxy.settings.values import (
    Kind,
    Plain,
    Unexpected,
    count,
    listed,
    quoted,
    read_text,
    shown,
)

PORT = count(1, 65535)

# Linux takes 107 bytes for a socket's path (unix(7)); the longest name in it is /.s.PGSQL.65535.
LONGEST_SOCKET_DIR = 107 - len("/.s.PGSQL.65535")
# More workers than any machine has cores is a slip of the finger.
MOST_WORKERS = 1024

_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?")
# What looks like an IPv4 address has to be one: "127.0.0.300" is no host name.
_DIGITS_AND_DOTS = re.compile(r"[0-9.]+")
_HOST_AND_PORT = re.compile(r"(\[[^\[\]]+\]|[^:\[\]]+):([^:]+)")
_MODE = re.compile(r"(?:0o)?[0-7]{3,4}")


@attrs.frozen
class Address:
    """A TCP address to listen on; the host is a name, an address without brackets, or "*"."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def read_host(text: str) -> str:
    """A host name or address; raises :class:`Unexpected`."""
    if ":" in text:
        try:
            return str(ipaddress.IPv6Address(text.removeprefix("[").removesuffix("]")))
        except ValueError:
            raise Unexpected("a port has a setting of its own") from None
    if not (_is_ipv4(text) if _DIGITS_AND_DOTS.fullmatch(text) else _HOST_NAME.fullmatch(text)):
        raise Unexpected
    return text


def _is_ipv4(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def _read_listen_host(text: str) -> str:
    try:
        return text if text == "*" else read_host(text)
    except Unexpected as error:
        hint = "the port goes into listen_port" if error.hint else f"{shown(text)} is neither"
        raise Unexpected(hint) from None


LISTEN_HOSTS = listed(
    "list of addresses",
    'a list of addresses or host names such as ["127.0.0.1", "::1"], or "*" for all',
    _read_listen_host,
)


def read_socket_dir(value: object) -> str:
    """A folder that is short enough, or ""; raises :class:`Unexpected`."""
    text = read_text(value)
    if text and (not text.startswith("/") or len(text.encode()) > LONGEST_SOCKET_DIR):
        raise Unexpected
    return text


SOCKET_DIR = Kind(
    "folder",
    f'a folder with its whole path of at most {LONGEST_SOCKET_DIR} bytes, or "" for none',
    read_socket_dir,
    quoted,
)


def _read_endpoint(value: object) -> Address | None:
    text = read_text(value).strip()
    if not text:
        return None
    match = _HOST_AND_PORT.fullmatch(text)
    if match is None:
        raise Unexpected
    host, port = match.groups()
    if host.startswith("[") and ":" not in host:
        raise Unexpected
    return Address(host if host == "*" else read_host(host), PORT.read(port))


ENDPOINT: Kind[Address | None] = Kind(
    "host:port",
    'an address with its port such as "127.0.0.1:9127" or "[::1]:9127", or "" for none',
    _read_endpoint,
    lambda address: quoted(str(address) if address else ""),
)


def _read_mode(value: object) -> int:
    if isinstance(value, str) and _MODE.fullmatch(value.strip()):
        value = int(value.strip().removeprefix("0o"), 8)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 0o777:
        raise Unexpected
    return value


MODE = Kind(
    "octal mode",
    'a mode in octal such as "0770"',
    _read_mode,
    lambda mode: quoted(f"{mode:04o}"),
    Plain.OCTAL,
)


def _read_workers(value: object) -> int:
    if isinstance(value, str) and value.strip().lower() == "auto":
        return 0
    return count(1, MOST_WORKERS).read(value)


WORKERS = Kind(
    f'"auto" or 1 to {MOST_WORKERS}',
    f'"auto" or a whole number, 1 to {MOST_WORKERS}',
    _read_workers,
    lambda number: str(number) if number else quoted("auto"),
)
