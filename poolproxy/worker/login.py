"""From an accepted socket to a logged-in client.

One trio task a socket, bounded by client_login_timeout, with one owner: this task closes the socket
unless it hands it to the relay. Nothing is revealed of users and databases before the client has
authenticated.
"""

from __future__ import annotations

import logging
import socket
import sys
from time import monotonic
from typing import TYPE_CHECKING

import attrs
import trio

from poolproxy.errors import PoolerError
from poolproxy.ipc.messages import Accepted, CancelKey, CancelRequest, ClientUp
from poolproxy.log.party import Party
from poolproxy.relay.client import Client
from poolproxy.relay.context import Pool
from poolproxy.relay.extended import extended_only
from poolproxy.relay.guard import client_class
from poolproxy.relay.replication import ReplicationClient, ReplicationServer
from poolproxy.relay.session import SessionClient, SessionServer
from poolproxy.relay.tls import TlsConnection, over_tls, say_goodbye, shut_down
from poolproxy.settings.config import RESERVED, PoolSettings
from poolproxy.wire import build
from poolproxy.wire.parameters import Values
from poolproxy.wire.startup import (
    SHORT_SECRET,
    CancelPacket,
)
from poolproxy.worker import gathering, tls
from poolproxy.worker.admission import admit, find_pool, find_room
from poolproxy.worker.authenticate import Arrival, authenticate
from poolproxy.worker.keys import new_key
from poolproxy.worker.opening import Opening
from poolproxy.worker.options import Wishes, wishes
from poolproxy.worker.patience import unproven
from poolproxy.worker.replication import own_server
from poolproxy.worker.session import Own, catch_up, held, take
from poolproxy.worker.streams import Eof, tune
from poolproxy.worker.tls import TlsFailed
from poolproxy.worker.worker import Worker

if TYPE_CHECKING:
    from poolproxy.worker.console import Console

log = logging.getLogger(__name__)

GOODBYE = 1.0  # seconds that a refused client gets to read its error
SURPLUS_PATIENCE = 5.0  # seconds for the start-up packet of a client over max_client_conn
MAX_APPLICATION_NAME = 63  # bytes; PostgreSQL keeps no more


class Refused(Exception):
    """The socket's purpose is fulfilled without a log-in (a cancel request, a silent close)."""


async def serve_socket(worker: Worker, sock: socket.socket, accepted: Accepted) -> None:
    """Own ``sock``, which ``logging_in`` and ``hurried`` count, until it is closed or the relay has it."""
    handed_over = False
    login = ClientLogin(worker, sock, accepted)
    try:
        tune(sock, worker.config.settings)
        handed_over = await login.run()
    except OSError as error:
        log.debug("client %d: %s", accepted.id, error)
    finally:
        worker.logging_in -= 1
        worker.hurried -= 1
        if not handed_over:
            say_goodbye(login.opening.sock)
            login.opening.sock.close()
            worker.socket_gone(accepted.id)


class ClientLogin:
    """The steps of one log-in, in order."""

    def __init__(self, worker: Worker, sock: socket.socket, accepted: Accepted) -> None:
        self.worker = worker
        self.accepted = accepted
        self.opening = Opening(worker, sock)
        self.database = "(nodb)"
        self.user = "(nouser)"
        self.secret_size = SHORT_SECRET
        self.waits_for_server = False
        self.cancels = False
        self.console: Console | None = None
        self._timeout = worker.config.settings.client_login_timeout or float("inf")
        self._patience = trio.CancelScope()

    @property
    def name(self) -> Party:
        """For the log, as PgBouncer writes it."""
        a = self.accepted
        return Party(f"C-{a.id}", self.database, self.user, f"{a.peer}:{a.port}")

    async def run(self) -> bool:
        """True if the relay has the socket now."""
        seconds = SURPLUS_PATIENCE if self.accepted.surplus else self._timeout
        self._patience.deadline = trio.current_time() + seconds
        try:
            with self._patience:
                await self._log_in()
            if self._patience.cancelled_caught:
                if self.cancels:
                    return False  # a canceller is never told anything
                if self.opening.silent:
                    raise TlsFailed("client_login_timeout", "timeout")
                raise self._too_late()
            if self.console is None:
                return True
            await self._serve_console(self.console)
        except PoolerError as error:
            await self._refuse(error)
        except TlsFailed as error:
            await self._end_failed_tls(error)
        except (Eof, Refused):
            pass
        return False

    async def _serve_console(self, client: Console) -> None:
        from poolproxy.worker import (
            console,  # few workers ever need it, and each start is waited for
        )

        worker = self.worker
        # It is in: nobody waits for it.
        worker.logging_in -= 1
        worker.hurried -= 1
        try:
            await console.serve(worker, self.opening.stream, client)
        finally:
            worker.logging_in += 1
            worker.hurried += 1

    def _too_late(self) -> PoolerError:
        text = "client_login_timeout"
        if self.waits_for_server:
            text += " (server down)"
        return PoolerError(
            text,
            hint="The log-in took longer than client_login_timeout.",
            reason="client_login_timeout",
        )

    async def _refuse(self, error: PoolerError) -> None:
        worker = self.worker
        failures = worker.metrics.login_failures
        failures[error.reason] = failures.get(error.reason, 0) + 1
        if error.reason == "protocol":
            worker.metrics.bad_packets += 1
        if worker.config.settings.log_pooler_errors:
            log.warning("%s pooler error: %s", self.name, error.message)
        # Closing with unread bytes would send a reset, and the client might lose the error before it.
        with trio.move_on_after(GOODBYE):
            try:
                await self.opening.stream.send(build.error_response(error))
                shut_down(self.opening.sock)
                await self.opening.stream.until_eof()
            except (Eof, OSError):
                pass

    async def _end_failed_tls(self, error: TlsFailed) -> None:
        metrics = self.worker.metrics
        metrics.tls_failures[error.kind] = metrics.tls_failures.get(error.kind, 0) + 1
        if self.worker.config.settings.log_pooler_errors:
            log.warning("%s TLS handshake error: %s", self.name, error)
        await tls.end(self.opening.sock, GOODBYE)

    async def _log_in(self) -> None:
        with unproven(self.worker, self.accepted.id, self.opening.sock) as self.opening.waiting:
            wanted = await self._prove()
        if self.console is not None:
            from poolproxy.worker import console

            await console.welcome(self.worker, self.opening.stream, self.console)
            self._log_success()
            return
        settings = self._find_pool()
        await admit(self.worker, self.accepted.id, self.database, self.user)
        pool = self.worker.pool(settings)
        server = await self._server(pool, wanted)
        with held(server):
            await self._welcome(pool, wanted, server)

    async def _prove(self) -> Wishes:
        """What the client wants, once it has proven who it is."""
        startup = await self.opening.first_packet()
        if isinstance(startup, CancelPacket):
            await self._cancel(CancelKey(startup.pid, startup.secret))
            raise Refused
        if self.accepted.surplus and startup.database not in RESERVED:
            await find_room(self.worker, self.accepted.id)
            self._patience.deadline += self._timeout - SURPLUS_PATIENCE
        self.opening.demand_tls()
        wanted = wishes(startup, self.worker.config.settings, self.worker.context.tracker)
        wanted = self._with_host(wanted)
        self.database, self.user = wanted.database, wanted.user
        self.secret_size = startup.secret_size
        if startup.needs_negotiation:
            await self.opening.stream.send(
                build.negotiate_protocol_version(startup.spoken, startup.unknown_options)
            )
        arrival = Arrival(
            self.accepted,
            self.opening.sock,
            self.opening.stream,
            wanted,
            self.opening.waiting,
            self.opening.tls,
        )
        if self.database in RESERVED:
            self.console = await self._admit_to_console(arrival)
        else:
            await authenticate(self.worker, arrival)
        return wanted

    async def _admit_to_console(self, arrival: Arrival) -> Console:
        from poolproxy.worker import console

        worker, admin = self.worker, console.is_owner(arrival)
        if not admin:
            await authenticate(worker, arrival)
            admin = console.rights(worker.config, worker.files, arrival.visit())
        return console.made(self.worker, arrival, admin=admin, secret_size=self.secret_size)

    async def _cancel(self, key: CancelKey) -> None:
        """Pass a CancelRequest on; the socket stays open until it has been delivered."""
        self.cancels = True
        self.opening.waiting.excused = True
        done = trio.Event()
        request = self.accepted.id
        self.worker.cancels[request] = done
        self.worker.channel.post(CancelRequest(request, key))
        try:
            with trio.move_on_after(
                self.worker.config.settings.cancel_wait_timeout or float("inf")
            ):
                await done.wait()
        finally:
            del self.worker.cancels[request]

    def _with_host(self, wanted: Wishes) -> Wishes:
        if not self.worker.config.settings.application_name_add_host:
            return wanted
        parameters = dict(wanted.parameters)
        given = [parameters.pop(n) for n in wanted.parameters if n.lower() == "application_name"]
        host = f" - {self.accepted.peer}:{self.accepted.port}"
        name = given[-1] if given and given[-1] else "app"
        # PostgreSQL cuts the whole, and would cut the address off.
        parameters["application_name"] = name[: MAX_APPLICATION_NAME - len(host)] + host
        return attrs.evolve(wanted, parameters=parameters)

    def _find_pool(self) -> PoolSettings:
        return find_pool(self.worker, self.database, self.user)

    async def _wait_for_welcome(self, pool: Pool) -> None:
        """A welcome repeats what the pool's first server said at its log-in; wait for that one."""
        worker = self.worker
        if pool.welcome:
            return
        self.waits_for_server = True
        worker.hurried -= 1
        since = monotonic()
        try:
            while not pool.welcome:
                pool.logins_waiting[self.accepted.id] = since
                event = worker.welcome_event(pool.key)
                worker.want(pool)
                await event.wait()
                self._find_pool()
                error = worker.login_error(pool)
                if error is not None:
                    raise error
        finally:
            worker.hurried += 1
            pool.logins_waiting.pop(self.accepted.id, None)
        self.waits_for_server = False

    async def _server(self, pool: Pool, wanted: Wishes) -> SessionServer | None:
        """The server that the client has from its log-in on, if it has one."""
        if wanted.replication:
            self.waits_for_server = True
            return await own_server(
                self.worker, pool, self.accepted.id, wanted, check=self._find_pool
            )
        await self._wait_for_welcome(pool)
        server = await self._take_server(pool, wanted) if pool.session_mode else None
        if server is None:
            await self._wait_for_welcome(pool)  # it may have been forgotten meanwhile
        return server

    async def _take_server(self, pool: Pool, wanted: Wishes) -> SessionServer | None:
        """The client's server from now on, in session mode, if one can be had."""
        worker, tracker = self.worker, self.worker.context.tracker
        defaults = tracker.values({p.name: p.value for p in pool.welcome})
        named_by_us = worker.config.settings.application_name_add_host
        own = Own.of(wanted, tracker, defaults, named_by_us=named_by_us)
        self.waits_for_server = True
        server = await take(worker, pool, self.accepted.id, own)
        self.waits_for_server = False
        return server

    async def _welcome(self, pool: Pool, wanted: Wishes, server: SessionServer | None) -> None:
        worker = self.worker
        tracker = worker.context.tracker
        theirs = {p.name: p.value for p in (server.welcome if server else pool.welcome)}
        values = tracker.wished(wanted.parameters, tracker.values(theirs))
        told = theirs | {n: v for n, v in tracker.others(values).items() if n in theirs}
        if server is not None:
            values = tracker.canonical(values, server.values)
        key = self._key(server)
        parts = [build.authentication(0)]
        parts += [build.parameter_status(n, v) for n, v in told.items() if not tracker.tracks(n)]
        parts += [build.parameter_status(n, v) for n, v in tracker.items(values)]
        parts.append(build.backend_key_data(key.pid, key.secret))
        notice = worker.config.settings.login_notify_message
        if notice:
            parts.append(build.notice_response(notice))
        parts.append(build.ready_for_query())
        # Before the client can use its key.
        worker.channel.post(ClientUp(self.accepted.id, key, pool.key, sys.intern(self.user)))
        await self.opening.stream.send(b"".join(parts))
        # No checkpoint from here on: the socket has two owners for a moment.
        self._log_success()
        client = self._client(pool, key, values, server)
        worker.client_up(client, self.opening.stream.messages.rest())
        gathering.consider(worker, client)
        if isinstance(client, SessionClient) and client.unused:
            catch_up(client)

    def _log_success(self) -> None:
        if self.worker.config.settings.log_connections:
            words = self.name, self.database, self.user, self.opening.tls or "no"
            log.info("%s login attempt: db=%s user=%s tls=%s", *words)

    def _key(self, server: SessionServer | None) -> CancelKey:
        """The server's process id if it is known already (some poolers have none), with a secret of ours."""
        pid = server.key.pid if server is not None else 0
        return new_key(self.worker, self.secret_size, pid)

    def _client(
        self, pool: Pool, key: CancelKey, values: Values, server: SessionServer | None
    ) -> Client:
        worker, accepted = self.worker, self.accepted
        in_session = pool.session_mode or server is not None
        kind: type[Client] = SessionClient if in_session else client_class(pool)
        if isinstance(server, ReplicationServer):
            kind = ReplicationClient
        if worker.config.settings.disable_pqexec:
            kind = extended_only(kind)
        if self.opening.tls is not None:
            kind = over_tls(kind)
        client = kind(
            worker.context,
            self.opening.sock,
            id=accepted.id,
            pool=pool,
            user=sys.intern(self.user),
            key=key,
            values=worker.shared_values(values),
            settings=worker.config.client(self.database, self.user),
            peer=sys.intern(accepted.peer),
            port=accepted.port,
            connected_at=accepted.accepted_at,
        )
        if isinstance(client, TlsConnection):
            client.tls = str(self.opening.tls)
        if isinstance(client, SessionClient) and server is not None and not server.closed:
            client.have(server)
        return client
