"""From a permit to a logged-in server connection.

One trio task a permit, bounded by server_connect_timeout. However it ends, the permit is accounted
for: the relay has a server with it, or a :class:`~poolproxy.relay.closing.Closing` reads the socket to
its end, or (where nothing was ever connected) it goes straight back.
"""

from __future__ import annotations

import base64
import logging
import os
import socket
from time import monotonic

import attrs
import trio

from poolproxy.auth.exchange import Compute
from poolproxy.auth.secrets import parse_secret
from poolproxy.auth.server import Done, Fail, Reply, ServerExchange, Wait
from poolproxy.errors import PoolerError
from poolproxy.ipc.messages import (
    CancelKey,
    Parameter,
    Permit,
    ServerClosed,
    ServerFailed,
    ServerOpening,
    ServerUp,
)
from poolproxy.relay.context import Pool
from poolproxy.relay.server import Address, Server
from poolproxy.wire.build import password_message
from poolproxy.wire.codes import (
    AUTHENTICATION,
    BACKEND_KEY_DATA,
    ERROR_RESPONSE,
    IDLE,
    NEGOTIATE_PROTOCOL_VERSION,
    NOTICE_RESPONSE,
    PARAMETER_STATUS,
    READY_FOR_QUERY,
)
from poolproxy.wire.read import backend_key, error_fields, parameter_status
from poolproxy.wire.startup import startup_message
from poolproxy.worker.cancel import connect
from poolproxy.worker.login import derive
from poolproxy.worker.streams import Eof, Stream, tune
from poolproxy.worker.worker import Worker

log = logging.getLogger(__name__)

MAX_PARAMETERS = 200  # ParameterStatus messages of one log-in; PostgreSQL sends about 15


@attrs.frozen
class ServerError(Exception):
    """The attempt has failed; ``from_server``: PostgreSQL has answered, but not with a log-in."""

    reason: str
    sqlstate: str = "08006"
    from_server: bool = False


@attrs.frozen
class Greeting:
    """What PostgreSQL says in a successful log-in."""

    key: CancelKey
    parameters: dict[str, str]


async def open_server(worker: Worker, pool: Pool, permit: Permit) -> None:
    """Use ``permit``: connect, log in, give the server to the pool; or report why not."""
    worker.hurried += 1
    attempt = ServerLogin(worker, pool, permit)
    limit = worker.config.settings.server_connect_timeout or float("inf")
    try:
        with trio.move_on_after(limit) as scope:
            await attempt.run()
        if scope.cancelled_caught:
            attempt.failed(ServerError("connect timeout"))
    except ServerError as error:
        attempt.failed(error)
    except PoolerError as error:
        # What answers is no PostgreSQL, or a broken one.
        attempt.failed(ServerError(error.message))
    except (Eof, OSError) as error:
        attempt.failed(
            ServerError("server conn crashed?" if isinstance(error, Eof) else str(error))
        )
    finally:
        worker.hurried -= 1
        attempt.give_up()


class ServerLogin:
    """One attempt. Owns the socket until the relay or a Closing has it."""

    def __init__(self, worker: Worker, pool: Pool, permit: Permit) -> None:
        self.worker = worker
        self.pool = pool
        self.permit = permit
        self.sock: socket.socket | None = None
        self.connected = False
        self.done = False

    async def run(self) -> None:
        began = monotonic()
        address = await self._connect()
        assert self.sock is not None
        greeting = await self._log_in(Stream(self.sock))
        # No checkpoint from here on: the socket changes its owner.
        self._succeed(address, greeting, monotonic() - began)

    # -- connecting -------------------------------------------------------------------------------

    async def _connect(self) -> Address:
        """Try the host's addresses in turn; raises ServerError with the last one's reason."""
        reason = "server DNS lookup failed"
        for family, where in await self._addresses():
            sock = socket.socket(family, socket.SOCK_STREAM)
            self.sock = sock
            sock.setblocking(False)
            tune(sock, self.worker.config.settings)
            self._announce(sock, where)
            try:
                await connect(sock, where)
            except OSError as error:
                self.sock = None
                sock.close()
                reason = f"connect failed: {error.strerror or error}"
                continue
            self.connected = True
            return family, where
        raise ServerError(reason)

    async def _addresses(self) -> list[Address]:
        host, port = self.pool.settings.host, self.pool.settings.port
        if host.startswith("/"):
            return [(socket.AF_UNIX, f"{host}/.s.PGSQL.{port}")]
        if host.startswith("@"):
            return [(socket.AF_UNIX, f"\0{host[1:]}/.s.PGSQL.{port}")]
        try:
            found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            log.warning("can't resolve host %s: %s", host, error)
            return []
        return [(family, where) for family, _, _, _, where in found]

    def _announce(self, sock: socket.socket, where: object) -> None:
        # Sent before connect(), so that the acceptor can end whatever becomes of it without us.
        host, port = where[:2] if isinstance(where, tuple) else (str(where), 0)
        opening = ServerOpening(self.permit.permit, host, port)
        self.worker.channel.post(opening, [os.dup(sock.fileno())])

    # -- logging in -------------------------------------------------------------------------------

    async def _log_in(self, stream: Stream) -> Greeting:
        settings = self.pool.settings
        startup = {"user": settings.user, "database": settings.dbname, **dict(settings.startup)}
        await stream.send(startup_message(startup))
        await self._authenticate(stream)
        key = CancelKey(0, b"\0\0\0\0")
        parameters: dict[str, str] = {}
        while True:
            code, body = await stream.message()
            if code == PARAMETER_STATUS and len(parameters) < MAX_PARAMETERS:
                name, value = parameter_status(body)
                parameters[name] = value
            elif code == BACKEND_KEY_DATA:
                key = CancelKey(*backend_key(body))
            elif code == READY_FOR_QUERY and body == bytes((IDLE,)):
                return Greeting(key, parameters)
            elif code == ERROR_RESPONSE:
                raise refused(body)
            elif code != NOTICE_RESPONSE:
                raise ServerError("unknown pkt")

    async def _authenticate(self, stream: Stream) -> None:
        settings, worker = self.pool.settings, self.worker
        exchange = ServerExchange(
            settings.user,
            parse_secret(settings.password) if settings.password else worker.secret(settings.user),
            None,
            worker.scram_keys.get(settings.user) if not settings.forced else None,
            base64.b64encode(os.urandom(18)).decode(),
        )
        while True:
            code, body = await stream.message()
            if code == ERROR_RESPONSE:
                raise refused(body)
            if code in (NOTICE_RESPONSE, NEGOTIATE_PROTOCOL_VERSION):
                continue
            if code != AUTHENTICATION or len(body) < 4:
                raise ServerError("unknown pkt")
            step = exchange.feed(int.from_bytes(body[:4], "big"), body[4:])
            while isinstance(step, Compute):
                step = exchange.computed(await derive(step.request))
            match step:
                case Done():
                    return
                case Reply(payload):
                    await stream.send(password_message(payload))
                case Fail(error):
                    log.warning("%s: %s %s", self._name(0), error.message, error.hint)
                    raise ServerError(error.message, error.sqlstate, from_server=True)
                case Wait():
                    pass

    # -- the end ----------------------------------------------------------------------------------

    def _succeed(self, address: Address, greeting: Greeting, seconds: float) -> None:
        worker, pool, sock = self.worker, self.pool, self.sock
        assert sock is not None
        tracker = worker.context.tracker
        values = tracker.nothing
        for name, value in greeting.parameters.items():
            values = tracker.updated(values, name, value)
        server = Server(
            worker.context,
            sock,
            permit=self.permit.permit,
            keep=self.permit.keep,
            pool=pool,
            key=greeting.key,
            address=address,
            values=worker.shared_values(values),
            name=self._name(greeting.key.pid),
            connected_at=monotonic(),
        )
        self.sock = None
        self.done = True
        if worker.config.settings.log_connections:
            log.info("%s new connection to server", server.name)
        parameters = tuple(Parameter(n, v) for n, v in greeting.parameters.items())
        worker.server_up(server, ServerUp(self.permit.permit, greeting.key, seconds, parameters))

    def failed(self, error: ServerError) -> None:
        """Report; the permit itself goes back in :meth:`give_up`."""
        log.warning("%s closing because: %s", self._name(0), error.reason)
        closes = self.pool.stats.server_closes
        closes["login_failed"] = closes.get("login_failed", 0) + 1
        self.worker.channel.post(
            ServerFailed(self.permit.permit, error.reason, error.sqlstate, error.from_server)
        )

    def give_up(self) -> None:
        """Unless the relay has the server, end what there is and let the permit go back."""
        if self.done:
            return
        self.pool.opening -= 1
        sock, self.sock = self.sock, None
        if sock is None:
            self.worker.channel.post(ServerClosed(self.permit.permit, clean=True))
        elif not self.connected:
            sock.close()
            self.worker.channel.post(ServerClosed(self.permit.permit, clean=True))
        else:
            self.worker.close_server_socket(sock, self.permit.permit, self.pool).shutdown()

    def _name(self, pid: int) -> str:
        settings = self.pool.settings
        where = f"{settings.host}:{settings.port}"
        return f"S-{self.permit.permit}: {settings.database}/{settings.user}@{where} pid={pid}"


def refused(body: bytes) -> ServerError:
    """PostgreSQL's own words, for the clients that wait."""
    fields = error_fields(body)
    return ServerError(fields.message, fields.sqlstate, from_server=True)
