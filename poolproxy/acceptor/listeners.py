"""The listening sockets for clients: opened at the start, before privileges are dropped, and by reloads."""

from __future__ import annotations

import errno
import grp
import logging
import os
import socket
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs

from poolproxy.errors import ConfigError, Mistake
from poolproxy.settings.schema import Settings

log = logging.getLogger("poolproxy.acceptor")

UNIX = "unix"
DEFER_SECONDS = 45  # as in PgBouncer


@attrs.define(eq=False)
class Listener:
    """One listening socket. ``host`` is its address, or "unix"; ``path`` is to be unlinked at the end.

    ``address`` is what it was bound to, as socket.bind() takes it.
    """

    sock: socket.socket
    host: str
    port: int
    path: str = ""
    address: Any = None

    @property
    def name(self) -> str:
        """As it is logged, and the label of its metrics."""
        if self.host == UNIX:
            return f"unix:{self.path or self.sock.getsockname()}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def label(self) -> str:
        return UNIX if self.host == UNIX else self.name

    @property
    def closed(self) -> bool:
        return self.sock.fileno() < 0

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
    with _closed_on_error(listeners):
        for host in settings.listen_addr:
            try:
                _tcp(host, settings, (), listeners)
            except OSError as error:
                text = _reason(error, host, settings.listen_port)
                log.warning("%s (listen_addr)", text)
                mistakes.append(Mistake("listen_addr", text))
        if settings.listen_addr and not listeners:
            raise ConfigError(mistakes)
        if settings.unix_socket_dir:
            listeners.append(_unix(settings))
    _demand_any(listeners)
    return listeners


def reopen_listeners(settings: Settings, present: Sequence[Listener]) -> list[Listener]:
    """The listeners for changed settings; those of ``present`` that are still wanted are among them.

    Nothing in ``present`` is closed here, so that no client finds the door shut. Raises ConfigError for
    any that can't be opened, or whose access can't be changed; then nothing has changed.
    """
    opened: list[Listener] = []
    kept: list[Listener] = []
    with _closed_on_error(opened):
        for host in settings.listen_addr:
            try:
                found = _tcp(host, settings, present, opened)
                kept += [listener for listener in found if listener not in kept]
            except OSError as error:
                text = _reason(error, host, settings.listen_port)
                raise ConfigError([Mistake("listen_addr", text)]) from error
        if settings.unix_socket_dir:
            address = _unix_address(settings)
            same = [listener for listener in present if listener.address == address]
            kept += same
            for listener in same:
                _change_access(listener, settings)
            if not same:
                opened.append(_unix(settings))
        _demand_any([*kept, *opened])
        for listener in kept:
            listener.sock.listen(settings.listen_backlog)  # a second call changes the backlog
    return [*kept, *opened]


def _demand_any(listeners: Sequence[Listener]) -> None:
    if not listeners:
        text = "nowhere to listen on: set listen_addr or unix_socket_dir"
        raise ConfigError([Mistake("listen_addr", text)])


@contextmanager
def _closed_on_error(listeners: list[Listener]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for listener in listeners:
            listener.close()
        raise


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


def _tcp(
    host: str, settings: Settings, present: Sequence[Listener], opened: list[Listener]
) -> list[Listener]:
    """Listen on the addresses of ``host``. What is new is added to ``opened``; returns those of
    ``present`` that will do.
    """
    kept = []
    mine: list[Listener] = []
    with _closed_on_error(mine):
        for family, address in bindable(host, settings.listen_port):
            same = [x for x in present if x.address == address and x.sock.family == family]
            kept += same
            if same or any(x.address == address for x in opened):
                continue
            sock = socket.socket(family, socket.SOCK_STREAM)
            mine.append(Listener(sock, address[0], settings.listen_port, address=address))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # Else "*" would bind the port for IPv4 twice, and peers show as ::ffff:a.b.c.d.
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if settings.so_reuseport:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if settings.tcp_defer_accept:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, DEFER_SECONDS)
            sock.setblocking(False)
            with sharing_ports([sock, *(x.sock for x in present if x.host != UNIX)]):
                sock.bind(address)
                sock.listen(settings.listen_backlog)
    opened += mine
    return kept


@contextmanager
def sharing_ports(sockets: Sequence[socket.socket]) -> Iterator[None]:
    """Let "*" be bound while we listen on one of its addresses with the same port, and the other way round.

    Linux looks at the flag of both sockets when it binds. It is not left on: with it another process of the
    same user could listen on our port by mistake.
    """
    if len(sockets) == 1:
        yield
        return
    before = [sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) for sock in sockets]
    _set_reuse(sockets, [1] * len(sockets))
    try:
        yield
    finally:
        _set_reuse(sockets, before)


def _set_reuse(sockets: Sequence[socket.socket], values: Iterable[int]) -> None:
    for sock, value in zip(sockets, values, strict=True):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, value)


def bindable(host: str, port: int) -> Iterator[tuple[int, Any]]:
    """Families and addresses to listen on for a host, "*" for all. Raises OSError if it is not known."""
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


def _unix_address(settings: Settings) -> str:
    path = f"{settings.unix_socket_dir}/.s.PGSQL.{settings.listen_port}"
    return "\0" + path[1:] if path.startswith("@") else path


def _unix(settings: Settings) -> Listener:
    address = _unix_address(settings)
    path = "" if address.startswith("\0") else address
    try:
        _clear_way(address, path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener = Listener(sock, UNIX, settings.listen_port, address=address)
        with _closed_on_error([listener]):
            sock.setblocking(False)
            sock.bind(address)
            listener.path = path
            if path:
                _grant_access(path, settings)
            sock.listen(settings.listen_backlog)
    except OSError as error:
        in_use = error.errno == errno.EADDRINUSE
        reason = "unix socket is in use, cannot continue" if in_use else str(error.strerror)
        shown = address.replace("\0", "@")
        raise ConfigError([Mistake("unix_socket_dir", f"{shown}: {reason}")]) from error
    return listener


def _change_access(listener: Listener, settings: Settings) -> None:
    if not listener.path:
        return
    try:
        _grant_access(listener.path, settings)
    except OSError as error:
        text = f"{listener.path}: {error.strerror}"
        raise ConfigError([Mistake("unix_socket_group", text)]) from error


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
