"""Who is this client? The exchange of ``poolproxy.auth`` over its socket.

Before it ends well nothing of the client reaches a server but the name that it gives, as the parameter of
auth_query.
"""

from __future__ import annotations

import base64
import os
import pwd
import socket
import struct
from typing import NamedTuple

import attrs
import trio

from poolproxy.auth.client import (
    Accept,
    Ask,
    ClientExchange,
    Compute,
    Consult,
    Reject,
    start,
)
from poolproxy.auth.hba import Visit
from poolproxy.auth.secrets import Secret
from poolproxy.auth.tls import TlsInfo
from poolproxy.errors import PoolerError
from poolproxy.ipc.messages import Accepted
from poolproxy.settings.access import Way, way_in
from poolproxy.wire import build
from poolproxy.wire.codes import PASSWORD
from poolproxy.worker.consult import consult
from poolproxy.worker.deriving import derive
from poolproxy.worker.lookup import look_up
from poolproxy.worker.options import Wishes
from poolproxy.worker.patience import Waiting
from poolproxy.worker.streams import Stream
from poolproxy.worker.worker import Worker

_UCRED = struct.Struct("3i")
_SALT_BYTES = 16
_NONCE_BYTES = 18
# These ask for no secret of ours, so nobody is looked up.
_WITHOUT_SECRET = frozenset({"any", "pam", "ldap"})


class Credentials(NamedTuple):
    """Who is at the other end of a Unix socket (unix(7), SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int


def credentials(sock: socket.socket) -> Credentials:
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return Credentials(*_UCRED.unpack(data))


@attrs.define
class Arrival:
    """A client with its start-up packet read. ``sock``: its socket, which ``stream`` reads."""

    accepted: Accepted
    sock: socket.socket
    stream: Stream
    wanted: Wishes
    waiting: Waiting
    tls: TlsInfo | None = None

    @property
    def is_local(self) -> bool:
        return self.sock.family == socket.AF_UNIX

    def visit(self) -> Visit:
        """What the rules go by."""
        address = self.accepted.peer.strip("[]").partition("%")[0]
        return Visit(
            self.wanted.database,
            self.wanted.user,
            "" if self.is_local else address,
            tls=self.tls is not None,
            replication=self.wanted.replication == "true",
        )


async def authenticate(worker: Worker, arrival: Arrival) -> None:
    """Return when the client has proven who it is; raises PoolerError."""
    try:
        await _prove(worker, arrival)
    except PoolerError as error:
        if error.reason == "auth":
            # From the client's last message on, so that the time of the check does not show.
            delay = worker.config.settings.auth_failure_delay
            await trio.sleep_until(arrival.stream.received_at + delay)
        raise


async def _prove(worker: Worker, arrival: Arrival) -> None:
    way = way_in(worker.config, worker.files, arrival.visit())
    exchange = await _begin(worker, arrival, way)
    stream = arrival.stream
    step = exchange.first()
    while True:
        match step:
            case Ask(code, data):
                await stream.send(build.authentication(code, data))
                arrival.waiting.anew()
                step = exchange.feed(await _password(stream))
            case Compute(request):
                arrival.waiting.excused = True
                step = exchange.computed(await derive(request))
                arrival.waiting.excused = False
            case Consult(password):
                arrival.waiting.excused = True
                step = exchange.consulted(await consult(way, arrival.wanted.user, password))
                arrival.waiting.excused = False
            case Accept(final, keys, password):
                if keys is not None:
                    worker.keep_keys(keys)
                if password is not None:
                    worker.keep_password(arrival.wanted.database, arrival.wanted.user, password)
                if final is not None:
                    await stream.send(build.authentication(*final))
                return
            case Reject(error):
                raise error


async def _begin(worker: Worker, arrival: Arrival, way: Way) -> ClientExchange:
    user, tls = arrival.wanted.user, arrival.tls
    return start(
        way.method,
        user,
        await _secret(worker, arrival, way),
        salt=os.urandom(_SALT_BYTES),
        nonce=base64.b64encode(os.urandom(_NONCE_BYTES)).decode(),
        mock_key=worker.mock_key,
        iterations=worker.config.settings.scram_iterations,
        names=await _names(arrival, way.method),
        map=way.map,
        end_point=tls.server_end_point if tls is not None else None,
    )


async def _secret(worker: Worker, arrival: Arrival, way: Way) -> Secret | None:
    if way.method in _WITHOUT_SECRET:
        return None
    user = arrival.wanted.user
    known = worker.secret(user)
    if known is not None:
        return known
    return await look_up(worker, arrival.wanted.database, user)


async def _names(arrival: Arrival, method: str) -> tuple[str, ...]:
    """What others than the client itself say of who it is."""
    if method == "cert" and arrival.tls is not None:
        name = arrival.tls.peer_common_name
        return (name,) if name else ()
    if method == "peer" and arrival.is_local:
        uid = credentials(arrival.sock).uid
        # In a thread: the system may ask a directory over the network.
        return await trio.to_thread.run_sync(_system_user, uid)
    return ()


def _system_user(uid: int) -> tuple[str, ...]:
    try:
        return (pwd.getpwuid(uid).pw_name,)
    except KeyError:
        return ()


async def _password(stream: Stream) -> bytes:
    code, body = await stream.message()
    if code != PASSWORD:
        raise PoolerError("unknown pkt", hint="A password message was expected.")
    return body
