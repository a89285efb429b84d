"""The listening sockets for clients: made once, at the start, before privileges are dropped."""

from __future__ import annotations

import errno
import grp
import logging
import os
import socket
import stat
from collections.abc import Iterator
from typing import Any

import attrs

from poolproxy.errors import ConfigError, Mistake
from poolproxy.settings.schema import Settings

log = logging.getLogger("poolproxy.acceptor")

UNIX = "unix"


@attrs.define(eq=False)
class Listener:
    """One listening socket. ``host`` is its address, or "unix"; ``path`` is to be unlinked at the end."""

    sock: socket.socket
    host: str
    port: int
    path: str = ""

    @property
    def name(self) -> str:
        """As it is logged, and the label of its metrics."""
        if self.host == UNIX:
            return f"unix:{self.path or self.sock.getsockname()}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def label(self) -> str:
        return UNIX if self.host == UNIX else self.name

    def close(self) -> None:
        """Close, and remove the socket's file."""
        self.sock.close()
        if self.path:
            try:
                os.unlink(self.path)
            except OSError as error:
                if error.errno != errno.ENOENT:
                    log.warning("could not remove %s: %s", self.path, error.strerror)


def open_listeners(settings: Settings) -> list[Listener]:
    """Bind all that the settings name. A TCP address that fails is only a warning if another works.

    Raises ConfigError naming the settings when there is nothing to listen on, and for any
    failure of the Unix socket.
    """
    listeners: list[Listener] = []
    mistakes: list[Mistake] = []
    try:
        for host in settings.listen_addr:
            try:
                listeners += _tcp(host, settings)
            except OSError as error:
                text = _reason(error, host, settings.listen_port)
                log.warning("%s (listen_addr)", text)
                mistakes.append(Mistake("listen_addr", text))
        if settings.listen_addr and not listeners:
            raise ConfigError(mistakes)
        if settings.unix_socket_dir:
            listeners.append(_unix(settings))
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    if not listeners:
        text = "nowhere to listen on: set listen_addr or unix_socket_dir"
        raise ConfigError([Mistake("listen_addr", text)])
    return listeners


def _reason(error: OSError, host: str, port: int) -> str:
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if isinstance(error, socket.gaierror):
        return f"can't resolve {host!r}: {error.strerror}"
    if error.errno == errno.EADDRINUSE:
        return f"{where} is in use; choose another listen_port or stop what listens there"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"this machine has no address {host}"
    if error.errno == errno.EACCES:
        return f"{where}: not allowed; ports below 1024 need root, see `user`"
    return f"can't listen on {where}: {error.strerror}"


def _tcp(host: str, settings: Settings) -> list[Listener]:
    listeners: list[Listener] = []
    try:
        for family, address in _resolved(host, settings.listen_port):
            sock = socket.socket(family, socket.SOCK_STREAM)
            listeners.append(Listener(sock, address[0], settings.listen_port))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # Else "*" would bind the port for IPv4 twice, and peers show as ::ffff:a.b.c.d.
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setblocking(False)
            sock.bind(address)
            sock.listen(settings.listen_backlog)
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _resolved(host: str, port: int) -> Iterator[tuple[int, Any]]:
    found = socket.getaddrinfo(
        None if host == "*" else host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    for family, _, _, _, address in dict.fromkeys(found):
        if host != "*" or family != socket.AF_INET6 or _has_ipv6():
            yield family, address


def _has_ipv6() -> bool:
    # Containers often run without IPv6 while the C library still offers its addresses.
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.bind(("::", 0))
    except OSError:
        return False
    return True


def _unix(settings: Settings) -> Listener:
    path = f"{settings.unix_socket_dir}/.s.PGSQL.{settings.listen_port}"
    abstract = path.startswith("@")
    address = "\0" + path[1:] if abstract else path
    try:
        _clear_way(address, "" if abstract else path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener = Listener(sock, UNIX, settings.listen_port)
        try:
            sock.setblocking(False)
            sock.bind(address)
            if not abstract:
                listener.path = path
                _grant_access(path, settings)
            sock.listen(settings.listen_backlog)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        in_use = error.errno == errno.EADDRINUSE
        reason = "unix socket is in use, cannot continue" if in_use else str(error.strerror)
        raise ConfigError([Mistake("unix_socket_dir", f"{path}: {reason}")]) from error
    return listener


def _clear_way(address: str, path: str) -> None:
    """Remove the socket of a process that is gone; raises EADDRINUSE if somebody answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(address)
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            if path and stat.S_ISSOCK(os.lstat(path).st_mode):
                os.unlink(path)
            return
        except BlockingIOError:
            pass  # its backlog is full: very much alive
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _grant_access(path: str, settings: Settings) -> None:
    if settings.unix_socket_group:
        try:
            group = grp.getgrnam(settings.unix_socket_group).gr_gid
        except KeyError:
            text = f"there is no group {settings.unix_socket_group!r}"
            raise ConfigError([Mistake("unix_socket_group", text)]) from None
        os.chown(path, -1, group)
    os.chmod(path, settings.unix_socket_mode)
