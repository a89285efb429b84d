"""systemd's two small protocols: messages to the manager, and sockets that it has opened for us.

https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
https://www.freedesktop.org/software/systemd/man/latest/sd_listen_fds.html
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import MutableMapping

import attrs

from poolproxy.acceptor.listeners import UNIX, Listener
from poolproxy.errors import ConfigError, Mistake

log = logging.getLogger("poolproxy.acceptor")

FIRST_FD = 3
METRICS = "metrics"  # FileDescriptorName= of the socket unit for metrics_listen

Environment = MutableMapping[str, str]


class Manager:
    """Whoever started us, if it wants to hear of us. ``watchdog``: seconds between two signs of life that
    it asks for; 0: none.
    """

    def __init__(self, environment: Environment) -> None:
        # Taken out, so that no child speaks in our name.
        address = environment.pop("NOTIFY_SOCKET", "")
        period = environment.pop("WATCHDOG_USEC", "")
        pid = environment.pop("WATCHDOG_PID", "") or str(os.getpid())
        wanted = address and period.isdecimal() and pid == str(os.getpid())
        self.watchdog = int(period) / 1e6 if wanted else 0.0
        self.listens = bool(address)
        self._address = "\0" + address[1:] if address.startswith("@") else address

    def ready(self) -> None:
        """Started, or done with a reload."""
        self.tell("READY=1")

    def reloading(self) -> None:
        # Type=notify-reload knows by the time that this answers its own signal.
        self.tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self.tell("STOPPING=1")

    def alive(self) -> None:
        self.tell("WATCHDOG=1")

    def status(self, text: str) -> None:
        """What ``systemctl status`` shows."""
        self.tell(f"STATUS={text}")

    def tell(self, text: str) -> None:
        if not self.listens:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.sendto(text.encode(), self._address)
        except OSError as error:
            log.warning("could not tell systemd %s: %s", text.partition("\n")[0], error.strerror)


@attrs.define(eq=False)
class Inherited:
    """Listening sockets that we were started with, by what they are for."""

    clients: list[Listener] = attrs.Factory(list)
    metrics: list[socket.socket] = attrs.Factory(list)


def inherited_sockets(environment: Environment) -> Inherited:
    """The sockets that the environment speaks of; raises ConfigError for one that can't be listened on."""
    pid = environment.pop("LISTEN_PID", "")
    count = environment.pop("LISTEN_FDS", "")
    names = environment.pop("LISTEN_FDNAMES", "").split(":")
    inherited = Inherited()
    if pid != str(os.getpid()) or not count.isdecimal():
        return inherited
    for number in range(int(count)):
        name = names[number] if number < len(names) else ""
        sock = _adopted(FIRST_FD + number, name)
        if name == METRICS:
            inherited.metrics.append(sock)
        else:
            inherited.clients.append(_listener(sock))
    return inherited


def _adopted(fd: int, name: str) -> socket.socket:
    where = f"socket {fd} of systemd ({name or 'without a name'})"
    try:
        sock = socket.socket(fileno=fd)
        sock.set_inheritable(False)
        sock.setblocking(False)
        stream = sock.type == socket.SOCK_STREAM
        if not (stream and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)):
            sock.close()
            raise ConfigError([Mistake(where, "it is no stream socket that listens")])
    except OSError as error:
        raise ConfigError([Mistake(where, f"it can't be used: {error.strerror}")]) from error
    return sock


def _listener(sock: socket.socket) -> Listener:
    address = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return Listener(sock, UNIX, 0, address=address)  # its file is systemd's
    return Listener(sock, address[0], address[1], address=address)
