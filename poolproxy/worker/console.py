"""Clients of the admin console: they stay in the worker that they came to.

What they say is read here (``admin.conversation``); their commands go up to the acceptor, which knows all
workers, and the answers come down. An ordinary trio task serves each: rows are asked for one part after the
other, so that one that does not read holds nothing but its own task.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Awaitable
from time import monotonic
from typing import TypeAlias

import attrs
import trio

import poolproxy
from poolproxy.admin.conversation import Conversation, greeting
from poolproxy.admin.view import CONSOLE
from poolproxy.auth.hba import Visit
from poolproxy.errors import PoolerError
from poolproxy.ipc.messages import (
    Accepted,
    CancelKey,
    ConsoleCommand,
    ConsoleEnd,
    ConsoleNext,
    ConsoleRows,
    ConsoleUp,
)
from poolproxy.log.party import Party
from poolproxy.settings.access import AuthFiles, way_in
from poolproxy.settings.config import Config
from poolproxy.wire import build
from poolproxy.worker.authenticate import Arrival, credentials
from poolproxy.worker.keys import new_key
from poolproxy.worker.streams import Eof, Stream
from poolproxy.worker.worker import Worker

log = logging.getLogger(__name__)

GOODBYE = 1.0  # seconds that a client gets to take its last error
OWNER = "pgbouncer"  # the name by which the system user that we run as comes in
Answer: TypeAlias = ConsoleRows | ConsoleEnd

NOT_ALLOWED = PoolerError(
    "not allowed",
    sqlstate="42501",
    hint="Name the user in admin_users or stats_users.",
    reason="not_allowed",
)


def is_owner(arrival: Arrival) -> bool:
    """Whether this is the system user that we run as, who needs no other proof."""
    if arrival.wanted.user != OWNER or not arrival.is_local:
        return False
    return credentials(arrival.sock).uid == os.geteuid()


def rights(config: Config, files: AuthFiles, visit: Visit) -> bool:
    """Whether an authenticated user may give every command; raises PoolerError if it may give none.

    As in PgBouncer, with auth_type any everybody may look.
    """
    if visit.user in config.settings.admin_users:
        return True
    if visit.user in config.settings.stats_users or way_in(config, files, visit).method == "any":
        return False
    raise NOT_ALLOWED


@attrs.define(eq=False)
class Console:
    """A logged-in console client. ``answers`` are those of the acceptor to the command that runs."""

    accepted: Accepted
    user: str
    admin: bool
    key: CancelKey
    sock: socket.socket
    tls: str
    application_name: str
    connected_at: float
    answers: trio.MemorySendChannel[Answer]
    _received: trio.MemoryReceiveChannel[Answer]
    running: bool = False
    farewell: PoolerError | None = None
    last_activity: float = attrs.Factory(monotonic)
    scope: trio.CancelScope = attrs.Factory(trio.CancelScope)

    @property
    def name(self) -> Party:
        """For the log, as PgBouncer writes it."""
        a = self.accepted
        return Party(f"C-{a.id}", CONSOLE, self.user, f"{a.peer}:{a.port}")

    def send_away(self, error: PoolerError) -> None:
        """End the connection with this error."""
        self.farewell = error
        self.scope.cancel()

    def hear(self, answer: Answer) -> None:
        """The acceptor sends no second part before the first one was taken, so there is room."""
        try:
            self.answers.send_nowait(answer)
        except trio.WouldBlock:
            log.error("console %d: an answer came before the last one was taken", self.accepted.id)

    async def next_answer(self) -> Answer:
        return await self._received.receive()


def made(worker: Worker, arrival: Arrival, *, admin: bool, secret_size: int) -> Console:
    """The console of a client that is in."""
    send, receive = trio.open_memory_channel[Answer](2)
    accepted, parameters = arrival.accepted, arrival.wanted.parameters
    return Console(
        accepted=accepted,
        user=arrival.wanted.user,
        admin=admin,
        key=new_key(worker, secret_size),
        sock=arrival.sock,
        tls=str(arrival.tls or ""),
        application_name=parameters.get("application_name", ""),
        connected_at=accepted.accepted_at,
        answers=send,
        received=receive,
    )


async def welcome(worker: Worker, stream: Stream, client: Console) -> None:
    """Tell the client that it is in, and before that, as it can use its key then, the acceptor."""
    parts = [
        build.authentication(0),
        greeting(poolproxy.PGBOUNCER_VERSION),
        build.parameter_status("application_name", client.application_name),
        build.backend_key_data(client.key.pid, client.key.secret),
        build.ready_for_query(),
    ]
    worker.channel.post(ConsoleUp(client.accepted.id, client.key, client.user))
    await stream.send(b"".join(parts))


async def serve(worker: Worker, stream: Stream, client: Console) -> None:
    """Serve the client until it leaves or is sent away."""
    id = client.accepted.id
    worker.consoles[id] = client
    reason = "client close request"
    try:
        with client.scope:
            await _converse(worker, stream, client)
        if client.farewell is not None:
            raise client.farewell
    except Eof:
        reason = "client unexpected eof"
    except PoolerError as error:
        reason = error.message
        await _tell(stream, error)
    except Exception:
        # Nothing that a console says may be the end of a worker.
        log.exception("console %d is closed because of an error in the pooler", id)
    finally:
        del worker.consoles[id]
        if client.running:
            worker.channel.post(ConsoleNext(id, stop=True))
        if worker.config.settings.log_disconnections:
            age = monotonic() - client.connected_at
            log.info("%s closing because: %s (age=%ds)", client.name, reason, age)


async def _tell(stream: Stream, error: PoolerError) -> None:
    with trio.move_on_after(GOODBYE):
        try:
            await stream.send(build.error_response(error))
        except Eof:
            pass


async def _converse(worker: Worker, stream: Stream, client: Console) -> None:
    conversation = Conversation(admin=client.admin)
    over = False
    while not over:
        code, body = await stream.message()
        client.last_activity = monotonic()
        step = conversation.take(code, body)
        await stream.send(step.reply)
        over = step.over
        if step.call is not None:
            worker.channel.post(ConsoleCommand(client.accepted.id, step.text))
            client.running = True
            over = await _while_there(stream, _answer(worker, stream, client, conversation))


async def _while_there(stream: Stream, answer: Awaitable[bool]) -> bool:
    """Await ``answer``, or the end of the client: a PAUSE may wait for ever. True: the end has come."""
    over = True
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            nonlocal over
            try:
                over = await answer
            except Eof:
                pass
            nursery.cancel_scope.cancel()

        nursery.start_soon(run)
        await stream.until_gone()
        nursery.cancel_scope.cancel()
    return over


async def _answer(
    worker: Worker, stream: Stream, client: Console, conversation: Conversation
) -> bool:
    """Bring the client the answer to its command; True if that ends the connection."""
    while True:
        answer = await client.next_answer()
        match answer:
            case ConsoleRows(_, rows):
                await stream.send(conversation.rows(rows))
                worker.channel.post(ConsoleNext(client.accepted.id))
            case ConsoleEnd(close=True):
                client.running = False
                return True
            case ConsoleEnd():
                client.running = False
                notice = build.notice_response(answer.notice) if answer.notice else b""
                await stream.send(notice + _end(conversation, answer))
                return False


def _end(conversation: Conversation, answer: ConsoleEnd) -> bytes:
    if not answer.error:
        return conversation.end(answer.tag)
    error = PoolerError(
        answer.error,
        sqlstate=answer.sqlstate,
        hint=answer.hint,
        severity="ERROR",
        reason="console",
    )
    return conversation.failed(error)
