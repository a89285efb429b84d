"""From an accepted socket to a logged-in client.

One trio task a socket, bounded by client_login_timeout, with one owner: this task closes the socket
unless it hands it to the relay. Nothing is revealed of users and databases before the client has
authenticated.
"""

from __future__ import annotations

import base64
import logging
import os
import socket
import sys
from time import monotonic

import attrs
import trio

from poolproxy.auth.client import Accept, Ask, Compute, Reject, start
from poolproxy.auth.scram import KeyRequest
from poolproxy.errors import PoolerError
from poolproxy.ipc.messages import Accepted, CancelKey, CancelRequest, Login
from poolproxy.relay.client import Client
from poolproxy.relay.context import Pool
from poolproxy.relay.preparing import PreparingClient
from poolproxy.settings.config import PoolSettings
from poolproxy.settings.enums import AuthType
from poolproxy.wire import build
from poolproxy.wire.codes import PASSWORD
from poolproxy.wire.parameters import Values
from poolproxy.wire.startup import (
    CancelPacket,
    GssRequest,
    SslRequest,
    Startup,
    parse_first_packet,
)
from poolproxy.worker.options import Wishes, wishes
from poolproxy.worker.streams import Eof, Stream, tune
from poolproxy.worker.worker import Worker

log = logging.getLogger(__name__)

MAX_NEGOTIATIONS = 2  # SSLRequest and GSSENCRequest, each once
GOODBYE = 1.0  # seconds that a refused client gets to read its error
REFUSED_PATIENCE = 5.0  # seconds for the start-up packet of a client over max_client_conn


class Refused(Exception):
    """The socket's purpose is fulfilled without a log-in (a cancel request, a silent close)."""


async def serve_socket(worker: Worker, sock: socket.socket, accepted: Accepted) -> None:
    """Own ``sock`` until it is closed or the relay has it."""
    worker.logging_in += 1
    worker.hurried += 1
    handed_over = False
    try:
        tune(sock, worker.config.settings)
        handed_over = await ClientLogin(worker, sock, accepted).run()
    except OSError as error:
        log.debug("client %d: %s", accepted.id, error)
    finally:
        worker.logging_in -= 1
        worker.hurried -= 1
        if not handed_over:
            sock.close()
            worker.socket_gone(accepted.id)


class ClientLogin:
    """The steps of one log-in, in order."""

    def __init__(self, worker: Worker, sock: socket.socket, accepted: Accepted) -> None:
        self.worker = worker
        self.sock = sock
        self.accepted = accepted
        self.stream = Stream(sock)
        self.database = "(nodb)"
        self.user = "(nouser)"
        self.waits_for_server = False

    @property
    def name(self) -> str:
        """For the log, as PgBouncer writes it."""
        a = self.accepted
        return f"C-{a.id}: {self.database}/{self.user}@{a.peer}:{a.port}"

    async def run(self) -> bool:
        """True if the relay has the socket now."""
        timeout = self.worker.config.settings.client_login_timeout
        if self.accepted.refused:
            timeout = REFUSED_PATIENCE
        try:
            with trio.move_on_after(timeout or float("inf")) as scope:
                await self._log_in()
            if scope.cancelled_caught:
                raise self._too_late()
            return True
        except PoolerError as error:
            await self._refuse(error)
        except (Eof, Refused):
            pass
        return False

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
                await self.stream.send(build.error_response(error))
                self.sock.shutdown(socket.SHUT_WR)
                await self.stream.until_eof()
            except (Eof, OSError):
                pass

    async def _log_in(self) -> None:
        startup = await self._startup()
        if self.accepted.refused:
            raise PoolerError(
                "no more connections allowed (max_client_conn)",
                sqlstate="53300",
                hint="Raise max_client_conn, or close idle client connections.",
                reason="max_client_conn",
            )
        wanted = wishes(startup, self.worker.config.settings, self.worker.context.tracker)
        wanted = self._with_host(wanted)
        self.database, self.user = wanted.database, wanted.user
        if wanted.negotiate:
            await self.stream.send(build.negotiate_protocol_version(wanted.unknown_options))
        await self._authenticate(wanted.user)
        settings = self._find_pool()
        await self._admit(settings)
        pool = self.worker.pool(settings)
        await self._wait_for_welcome(pool)
        await self._welcome(pool, wanted)

    async def _startup(self) -> Startup:
        data = bytearray()
        negotiations = 0
        while True:
            parsed = parse_first_packet(data)
            if parsed is None:
                data += await self.stream.receive()
                continue
            packet, length = parsed
            del data[:length]
            if isinstance(packet, Startup):
                self.stream.messages.feed(bytes(data))
                return packet
            if isinstance(packet, CancelPacket):
                await self._cancel(CancelKey(packet.pid, packet.secret))
                raise Refused
            negotiations += 1
            if negotiations > MAX_NEGOTIATIONS:
                raise PoolerError("bad packet header: repeated encryption request")
            await self._no_encryption(packet, bool(data))

    async def _no_encryption(self, packet: SslRequest | GssRequest, early_data: bool) -> None:
        if early_data:
            what = "SSL request" if isinstance(packet, SslRequest) else "GSSAPI encryption request"
            raise PoolerError(f"received unencrypted data after {what}")
        await self.stream.send(b"N")

    async def _cancel(self, key: CancelKey) -> None:
        """Pass a CancelRequest on; the socket stays open until it has been delivered."""
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
        host = f"{self.accepted.peer}:{self.accepted.port}"
        name = dict(self.worker.context.tracker.items(wanted.values)).get("application_name")
        name = f"{name or 'app'} - {host}"
        values = self.worker.context.tracker.updated(wanted.values, "application_name", name)
        return attrs.evolve(wanted, values=values)

    # -- who is it --------------------------------------------------------------------------------

    async def _authenticate(self, user: str) -> None:
        worker = self.worker
        settings = worker.config.settings
        exchange = start(
            settings.auth_type.value,
            user,
            worker.secret(user),
            salt=os.urandom(16 if settings.auth_type is AuthType.SCRAM_SHA_256 else 4),
            nonce=base64.b64encode(os.urandom(18)).decode(),
            mock_key=worker.mock_key,
            iterations=settings.scram_iterations,
        )
        step = exchange.first()
        while True:
            match step:
                case Ask(code, data):
                    await self.stream.send(build.authentication(code, data))
                    step = exchange.feed(await self._password())
                case Compute(request):
                    step = exchange.computed(await derive(request))
                case Accept(final, keys):
                    if keys is not None:
                        worker.scram_keys[user] = keys
                    if final is not None:
                        await self.stream.send(build.authentication(*final))
                    return
                case Reject(error):
                    raise error

    async def _password(self) -> bytes:
        code, body = await self.stream.message()
        if code != PASSWORD:
            raise PoolerError("unknown pkt", hint="A password message was expected.")
        return body

    # -- may it in --------------------------------------------------------------------------------

    def _find_pool(self) -> PoolSettings:
        if self.worker.leaving:
            raise PoolerError(
                "pooler is shutting down",
                sqlstate="57P03",
                hint="Connect again later, or to another instance.",
                reason="shutting_down",
            )
        settings = self.worker.config.pool(self.database, self.user)
        if settings is None:
            raise PoolerError(
                f"no such database: {self.database}",
                sqlstate="3D000",
                hint="Add it under [databases] in the configuration, or a * entry for any name.",
                reason="no_such_database",
            )
        return settings

    async def _admit(self, settings: PoolSettings) -> None:
        """Ask the acceptor where a client limit of the database or the user is configured."""
        worker = self.worker
        limits = worker.config.client(self.database, self.user)
        if not (limits.max_db_client_connections or limits.max_user_client_connections):
            return
        send, receive = trio.open_memory_channel[str](1)
        worker.admissions[self.accepted.id] = send.send_nowait
        worker.channel.post(Login(self.accepted.id, self.database, self.user))
        try:
            limit = await receive.receive()
        finally:
            del worker.admissions[self.accepted.id]
        if limit:
            raise PoolerError(
                f"client connections exceeded ({limit})",
                sqlstate="53300",
                hint=f"Raise {limit}, or close idle client connections.",
                reason=limit,
            )

    # -- come in ----------------------------------------------------------------------------------

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

    async def _welcome(self, pool: Pool, wanted: Wishes) -> None:
        worker = self.worker
        tracker = worker.context.tracker
        theirs = {p.name: p.value for p in pool.welcome}
        defaults = tracker.values(theirs)
        values = tracker.missing_from(wanted.values, defaults)
        key = CancelKey(int.from_bytes(os.urandom(4), "big") >> 1, os.urandom(4))
        parts = [build.authentication(0)]
        parts += [build.parameter_status(n, v) for n, v in theirs.items() if not tracker.tracks(n)]
        parts += [build.parameter_status(n, v) for n, v in tracker.items(values)]
        parts += [build.backend_key_data(key.pid, key.secret), build.ready_for_query()]
        await self.stream.send(b"".join(parts))
        # No checkpoint from here on: the socket has two owners for a moment.
        if worker.config.settings.log_connections:
            log.info("%s login attempt: db=%s user=%s tls=no", self.name, self.database, self.user)
        worker.client_up(self._client(pool, key, values), self.stream.messages.rest())

    def _client(self, pool: Pool, key: CancelKey, values: Values) -> Client:
        worker, accepted = self.worker, self.accepted
        # Also where statements are not shared now: a reload can change that.
        kind = Client if pool.session_mode else PreparingClient
        return kind(
            worker.context,
            self.sock,
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


async def derive(request: KeyRequest) -> bytes:
    """The expensive step of SCRAM, in a thread; remembered, as every log-in of a user repeats it."""
    known = _derived.get(request)
    if known is None:
        known = await trio.to_thread.run_sync(request.derive)
        if len(_derived) >= REMEMBERED_KEYS:
            _derived.clear()
        _derived[request] = known
    return known


REMEMBERED_KEYS = 1024  # a user has one for each side; more users than this derive again
_derived: dict[KeyRequest, bytes] = {}
