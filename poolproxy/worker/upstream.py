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
from functools import partial
from time import monotonic
from typing import Any

import trio

from poolproxy.auth.server import ServerExchange
from poolproxy.auth.tls import TlsInfo
from poolproxy.errors import PoolerError
from poolproxy.ipc.messages import (
    HostSeen,
    Parameter,
    Permit,
    ServerClosed,
    ServerFailed,
    ServerOpening,
    ServerUp,
)
from poolproxy.log.party import Party
from poolproxy.pool.hosts import Role, reported_role, suits
from poolproxy.relay.context import Pool
from poolproxy.relay.moving import CHANGED, may_move
from poolproxy.relay.server import Address, Server
from poolproxy.relay.session import SessionServer
from poolproxy.relay.tls import Encryption, TlsConnection, over_tls, shut_down
from poolproxy.settings.enums import TargetSession
from poolproxy.settings.hosts import Host
from poolproxy.wire.parameters import Values
from poolproxy.wire.read import ErrorFields
from poolproxy.wire.startup import NEWEST_MINOR, startup_message
from poolproxy.worker import tls
from poolproxy.worker.cancel import connect
from poolproxy.worker.choosing import Elsewhere, NoHost, choose
from poolproxy.worker.credentials import CommandFailed, credential, forget
from poolproxy.worker.first_use import when_used
from poolproxy.worker.greeting import (
    Greeting,
    Refused,
    ServerError,
    TooNew,
    prove,
    read_greeting,
    server_error,
    understood,
)
from poolproxy.worker.hosts import RoleUnknown, addresses, ask_role, leave_if_elsewhere
from poolproxy.worker.server_tls import GOODBYE, may_begin, wanted
from poolproxy.worker.session import Claim
from poolproxy.worker.streams import Eof, Stream, tune
from poolproxy.worker.tls import TlsFailed
from poolproxy.worker.worker import Worker

log = logging.getLogger(__name__)

PART_SECONDS = 5.0  # that a server gets to close a connection which turned out to be of no use
# Errors of PostgreSQL for which another host may be the cure: it starts, stops, or has no room.
ELSEWHERE = ("57P", "53")


async def open_server(attempt: ServerLogin) -> None:
    """Use a permit: connect, log in, give the server to the pool, or to the client with the claim; or report
    why not.
    """
    worker = attempt.worker
    worker.hurried += 1
    limit = worker.config.settings.server_connect_timeout or float("inf")
    try:
        with trio.move_on_after(limit) as scope:
            await attempt.run()
        if scope.cancelled_caught:
            if attempt.asks_for_newer:
                worker.silent_servers.add(attempt.host)
            attempt.failed(ServerError("connect timeout"))
    except (ServerError, PoolerError, Eof, OSError) as error:
        attempt.failed(server_error(error))
    finally:
        worker.hurried -= 1
        attempt.give_up()


class ServerLogin:
    """One attempt. Owns the socket until the relay or a Closing has it.

    It begins when the permit is read, not when its task has its turn: to the ledger it is one of before a
    reload if the permit was sent before that, and so it must be here.
    """

    def __init__(
        self, worker: Worker, pool: Pool, permit: Permit, claim: Claim | None = None
    ) -> None:
        self.worker = worker
        self.pool = pool
        self.permit = permit
        self.claim = claim
        self.contexts = worker.contexts
        self.host = pool.settings.hosts[0]
        self.role: Role | None = None
        self.began = monotonic()
        self.sock: socket.socket | None = None
        self.tls: TlsInfo | None = None
        self.encryption: Encryption | None = None
        self.asks_for_newer = False
        self.connected = False
        self.done = False

    async def run(self) -> None:
        if self.permit.hosts:
            wanted = self.pool.settings.target_session_attrs
            try:
                address, greeting = await choose(self.permit.hosts, wanted, self._try)
            except NoHost as fault:
                raise ServerError(str(fault)) from fault
        else:
            address, greeting = await self._reach()
            self.role = reported_role(greeting.parameters)
        # No checkpoint from here on: the socket changes its owner.
        self._succeed(address, greeting, monotonic() - self.began)

    # -- one host of several ----------------------------------------------------------------------

    async def _try(
        self, host: Host, wish: TargetSession, seconds: float
    ) -> tuple[Address, Greeting]:
        """Log in at one host. Raises Elsewhere when the next one may be tried: then no connection is left."""
        self.host, self.role = host, None
        fault = ServerError("connect timeout")
        with trio.move_on_after(seconds):
            try:
                address, greeting = await self._reach()
                self.role = await self._role(greeting, wish)
            except (ServerError, PoolerError, Eof, OSError) as error:
                fault = server_error(error)
            else:
                suitable = self.role is None or suits(wish, self.role)
                self._tell("", serves=suitable)
                if suitable:
                    return address, greeting
                await self._part()
                assert self.role is not None
                raise Elsewhere(self.role.value, reachable=True)
        if fault.from_server and not fault.sqlstate.startswith(ELSEWHERE):
            self._tell("")
            raise fault  # it is us whom it refuses, and so would the others
        self._tell(fault.reason)
        log.warning("%s closing because: %s", self._name(0), fault.reason)
        await self._part()
        raise Elsewhere(fault.reason, reachable=False)

    async def _role(self, greeting: Greeting, wish: TargetSession) -> Role | None:
        """What the server is; None if it does not say, and nobody needs to know."""
        role = reported_role(greeting.parameters)
        if role is not None or wish is TargetSession.ANY:
            return role
        assert self.sock is not None
        try:
            return await ask_role(Stream(self.sock))
        except RoleUnknown as error:
            raise ServerError(f"it does not say whether it is a primary: {error}") from error

    async def _part(self) -> None:
        """End the connection. Until PostgreSQL has closed its end there must be no second one with this
        permit: if that takes long the attempt is over.
        """
        sock = self.sock
        if sock is None:
            return
        if self.connected:
            with trio.move_on_after(PART_SECONDS) as scope:
                try:
                    shut_down(sock)
                except OSError:
                    pass
                await Stream(sock).until_eof()
            if scope.cancelled_caught:
                raise ServerError(f"{self.host} does not close its connection")
        self._closed()

    def _closed(self) -> None:
        """There is no connection any more, and another one may be made."""
        sock, self.sock, self.connected = self.sock, None, False
        self.tls = self.encryption = None
        if sock is not None:
            sock.close()

    def _tell(self, failure: str, *, serves: bool = False) -> None:
        """Let the acceptor know what has become of trying this host."""
        role = self.role.value if self.role is not None and not failure else ""
        host = self.host
        self.worker.channel.post(
            HostSeen(self.pool.key, host.name, host.port, failure, role, serves)
        )

    async def _reach(self) -> tuple[Address, Greeting]:
        """Connect and log in, with the newest protocol that is understood there, and TLS if it is wanted
        and can be had.
        """
        old, silent = self.worker.old_servers, self.worker.silent_servers
        minor = 0 if self.host in old or self.host in silent else NEWEST_MINOR
        silent.discard(self.host)
        encryption = wanted(self.host, self.contexts, self.worker.config.settings)
        while True:
            address = await self._connect()
            try:
                await self._encrypt(encryption)
                greeting = await self._log_in(minor)
            except TooNew:
                log.debug("%s refuses protocol 3.%d", self._name(0), minor)
                minor = 0
            except TlsFailed as failure:
                if self.worker.config.settings.server_tls_sslmode.required:
                    raise ServerError(f"TLS handshake failed: {failure}") from None
                log.warning("%s TLS handshake failed: %s; trying without", self._name(0), failure)
                encryption = None
            else:
                if not minor:
                    old.add(self.host)
                return address, greeting
            self._closed()  # the server has closed its end

    # -- connecting -------------------------------------------------------------------------------

    async def _connect(self) -> Address:
        """Try the host's addresses in turn; raises ServerError with the last one's reason."""
        reason = "server DNS lookup failed"
        for family, where in await addresses(self.worker, self.host):
            sock = socket.socket(family, socket.SOCK_STREAM)
            self.sock = sock
            sock.setblocking(False)
            tune(sock, self.worker.config.settings)
            self._announce(sock, where)
            try:
                await connect(sock, where)
            except OSError as error:
                self._closed()
                reason = f"connect failed: {error.strerror or error}"
                continue
            self.connected = True
            return family, where
        if not self.permit.hosts:
            self._tell(reason)
        raise ServerError(reason)

    def _announce(self, sock: socket.socket, where: object) -> None:
        # Sent before connect(), so that the acceptor can end whatever becomes of it without us.
        host = where[0] if isinstance(where, tuple) else self.host.name
        opening = ServerOpening(self.permit.permit, host, self.host.port)
        self.worker.channel.post(opening, [os.dup(sock.fileno())])

    # -- TLS --------------------------------------------------------------------------------------

    async def _encrypt(self, encryption: Encryption | None) -> None:
        """Begin TLS, unless the server has none and may go without; TlsFailed, ServerError, Eof."""
        assert self.sock is not None
        required = self.worker.config.settings.server_tls_sslmode.required
        if encryption is None or not (
            encryption.direct or await may_begin(self.sock, required=required)
        ):
            return
        self.sock = sock = tls.wrap_server(self.sock, encryption)
        try:
            await self.worker.handshakes.shake(sock, direct=encryption.direct)
        except TlsFailed:
            await tls.end(sock, GOODBYE)
            raise
        self.tls, self.encryption = tls.server_info(sock), encryption

    # -- logging in -------------------------------------------------------------------------------

    async def _log_in(self, minor: int) -> Greeting:
        """Log in with protocol 3.``minor``."""
        assert self.sock is not None
        stream = Stream(self.sock)
        settings = self.pool.settings
        startup = {"user": settings.user, "database": settings.dbname, **dict(settings.startup)}
        if self.claim is not None:
            given = {name.lower() for name in self.claim.own.parameters}
            startup = {n: v for n, v in startup.items() if n not in given}
            startup |= self.claim.own.parameters
        await stream.send(startup_message(startup, minor))
        if minor:
            self.asks_for_newer = True
            await understood(stream)
            self.asks_for_newer = False
        try:
            ours = await credential(self.worker, settings, self.host)
        except CommandFailed as failure:
            raise ServerError(f"password_command {failure}", from_server=True) from failure
        end_point = self.tls.server_end_point if self.tls is not None else None
        nonce = base64.b64encode(os.urandom(18)).decode()
        exchange = ServerExchange(settings.user, ours.secret, None, ours.keys, nonce, end_point)
        try:
            await prove(stream, exchange, self._name(0))
        except Refused:
            forget(self.worker, settings, self.host)
            raise
        return await read_greeting(stream)

    # -- the end ----------------------------------------------------------------------------------

    def _succeed(self, address: Address, greeting: Greeting, seconds: float) -> None:
        worker = self.worker
        welcome = tuple(Parameter(n, v) for n, v in greeting.parameters.items())
        own = self.claim.own if self.claim is not None else None
        wish = own.opened if own is not None and own.parameters else None
        server = self._server(address, greeting, welcome, wish)
        if self.contexts.identity != worker.contexts.identity or self.began <= self.pool.outdated:
            server.doomed = CHANGED  # by a reload or RECONNECT meanwhile
        self.sock = None
        self.done = True
        if worker.config.settings.log_connections:
            log.info("%s new connection to server: tls=%s", server.name, self.tls or "no")
        # What a server says that was opened for one client is no welcome for another, nor is what one says
        # that may be on the host of before.
        told = welcome if wish is None and not server.doomed else ()
        up = ServerUp(self.permit.permit, greeting.key, seconds, told, may_move(server))
        worker.server_up(server, up, self.claim)
        # Only when it was used: else names that change with each look-up would let nobody through.
        when_used(server, partial(leave_if_elsewhere, worker, server))

    def _server(
        self,
        address: Address,
        greeting: Greeting,
        welcome: tuple[Parameter, ...],
        wish: Values | None,
    ) -> Server:
        """It has the socket, whose owner is the attempt still."""
        worker, pool, sock = self.worker, self.pool, self.sock
        assert sock is not None
        values = worker.context.tracker.values(greeting.parameters)
        special: dict[str, Any] = {}
        if pool.session_mode or wish is not None:
            shared = pool.welcome if pool.welcome == welcome else welcome
            special = {"welcome": shared, "wish": wish}
        kind: type[Server] = Server
        if special:
            kind = self.claim.kind if self.claim is not None else SessionServer
        if self.tls is not None:
            kind = over_tls(kind)
        server = kind(
            worker.context,
            sock,
            permit=self.permit.permit,
            keep=self.permit.keep,
            pool=pool,
            key=greeting.key,
            address=address,
            host=self.host,
            role=self.role,
            values=worker.shared_values(values),
            name=self._name(greeting.key.pid),
            connected_at=monotonic(),
            **special,
        )
        if isinstance(server, TlsConnection):
            server.tls, server.encryption = str(self.tls), self.encryption
        return server

    def failed(self, error: ServerError) -> None:
        """Report; the permit itself goes back in :meth:`give_up`."""
        log.warning("%s closing because: %s", self._name(0), error.reason)
        closes = self.pool.stats.server_closes
        closes["login_failed"] = closes.get("login_failed", 0) + 1
        reason = error.reason
        if self.claim is not None and self.claim.blames(error.sqlstate, error.from_server):
            fields = ErrorFields("FATAL", error.sqlstate, error.reason)
            self.claim.refuse(self.claim.refusal(fields))
            reason = ""
        self.worker.channel.post(
            ServerFailed(self.permit.permit, reason, error.sqlstate, error.from_server)
        )

    def give_up(self) -> None:
        """Unless the relay has the server, end what there is and let the permit go back."""
        if self.done:
            return
        if self.claim is not None:
            self.claim.refuse()
        self.pool.opening -= 1
        sock, self.sock = self.sock, None
        if sock is None:
            self.worker.channel.post(ServerClosed(self.permit.permit, clean=True))
        elif not self.connected:
            sock.close()
            self.worker.channel.post(ServerClosed(self.permit.permit, clean=True))
        else:
            self.worker.close_server_socket(sock, self.permit.permit, self.pool).shutdown()

    def _name(self, pid: int) -> Party:
        settings = self.pool.settings
        name = f"S-{self.permit.permit}"
        return Party(name, settings.database, settings.user, f"{self.host} pid={pid}")
