"""What the acceptor says, and what the worker does about it."""

from __future__ import annotations

import logging
import socket

from poolproxy.errors import PoolerError
from poolproxy.ipc.channel import ChannelClosed, close_fds
from poolproxy.ipc.codec import IpcError
from poolproxy.ipc.messages import (
    Admit,
    Blocked,
    Cancel,
    CancelDone,
    ClientArrival,
    ClientMoved,
    Collect,
    Command,
    Configure,
    ConsoleEnd,
    ConsoleRows,
    Drain,
    Gather,
    Handoff,
    Hold,
    Inspect,
    Leave,
    Message,
    NoServer,
    PassOn,
    Permit,
    PoolFailing,
    Reclaim,
    RelayEnds,
    Resolved,
    Retire,
    ServerClosed,
    ServersCome,
    Shed,
    Unrelay,
    WaitReason,
    Welcome,
    Yield,
    YieldIdle,
)
from poolproxy.relay.session import let_go
from poolproxy.worker import (
    client_cancels,
    client_moves,
    draining,
    gathering,
    holding,
    leaving,
    orders,
    queue_notice,
    retiring,
    server_moves,
)
from poolproxy.worker.hosts import resolved
from poolproxy.worker.login import serve_socket
from poolproxy.worker.passing_on import pass_on
from poolproxy.worker.reload import reload
from poolproxy.worker.replication import next_claim, refuse_all
from poolproxy.worker.report import report
from poolproxy.worker.session import unblock
from poolproxy.worker.upstream import ServerLogin, open_server
from poolproxy.worker.worker import Worker

log = logging.getLogger(__name__)


async def listen(worker: Worker) -> None:
    """Obey until the acceptor is gone; then finish transactions and leave."""
    while True:
        try:
            message, fds = await worker.channel.receive()
        except IpcError as error:
            log.error("a message of the acceptor is lost: %s", error)
            continue
        except ChannelClosed:
            worker.engine.forget(worker.channel.fileno())  # it would be "readable" for ever
            break
        obey(worker, message, fds)
        if not isinstance(message, (Handoff, ClientArrival, ServersCome)):
            close_fds(fds)
    log.error("the acceptor is gone: finishing transactions and leaving")
    await leaving.as_orphan(worker)


def obey(worker: Worker, message: Message, fds: list[int]) -> None:
    # Long, as there are many kinds: to see at one glance who obeys which is worth more here than parts that
    # would each have to say that a kind is not theirs.
    match message:
        case Handoff():
            _take_clients(worker, message, fds)
        case Permit():
            _use_permit(worker, message)
        case Reclaim():
            _give_back(worker, message)
        case Yield():
            server_moves.called(worker, message)
        case YieldIdle():
            server_moves.look_for_idle(worker, message)
        case ServersCome():
            server_moves.arrive(worker, message, fds)
        case NoServer():
            claim = worker.claims.get(message.client)
            if claim is not None:
                claim.refuse()
        case Blocked():
            _blocked(worker, message)
        case Welcome():
            _welcome(worker, message)
        case PoolFailing():
            _failing(worker, message)
        case Admit():
            answer = worker.admissions.get(message.client)
            if answer is not None:
                answer(message.limit)
        case ClientArrival():
            client_moves.arrive(worker, message, fds)
        case ClientMoved():
            client_moves.moved(worker, message)
        case Gather():
            gathering.begin(worker, message)
        case RelayEnds():
            retiring.relay_ends(worker, message)
        case Unrelay():
            gathering.unrelay(worker, message)
        case Shed():
            client_moves.shed(worker, message)
        case Retire():
            retiring.retire(worker, message)
        case Cancel():
            client_cancels.obey(worker, message)
        case Resolved():
            resolved(worker, message)
        case PassOn():
            assert worker.nursery is not None
            worker.nursery.start_soon(pass_on, worker, message)
        case WaitReason():
            queue_notice.tell(worker, message)
        case CancelDone():
            done = worker.cancels.get(message.request)
            if done is not None:
                done.set()
        case Collect():
            report(worker, message.request)
        case Configure():
            reload(worker, message)
        case ConsoleRows(client) | ConsoleEnd(client):
            console = worker.consoles.get(client)
            if console is not None:
                console.hear(message)
        case Hold():
            holding.obey(worker, message)
        case Command():
            orders.obey(worker, message)
        case Inspect():
            # Imported when it is asked for: the console's classes are a third of what a start would take.
            from poolproxy.worker.inspecting import inspect

            inspect(worker, message)
        case Drain():
            draining.begin(worker, message)
        case Leave():
            leaving.begin(worker, message.mode)
        case _:
            raise IpcError(f"{type(message).__name__} is not for a worker")


def _take_clients(worker: Worker, message: Handoff, fds: list[int]) -> None:
    assert worker.nursery is not None
    for accepted, fd in zip(message.clients, fds, strict=False):
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        # From now on: a Leave may be right behind, and who has nobody goes at once.
        worker.logging_in += 1
        worker.hurried += 1
        worker.nursery.start_soon(serve_socket, worker, sock, accepted)
    # Descriptors that found no room here are lost to the kernel, and their clients see a close.
    for accepted in message.clients[len(fds) :]:
        log.error("client %d is lost: out of file descriptors (RLIMIT_NOFILE)", accepted.id)
        worker.socket_gone(accepted.id)


def _use_permit(worker: Worker, message: Permit) -> None:
    assert worker.nursery is not None
    key = message.pool
    settings = worker.config.pool_of((key.database, key.user))
    claim = worker.claims.get(message.client)
    gone = claim is None and message.client
    stopped = worker.held.paused or key.database in worker.held.databases
    if settings is None or gone or stopped or worker.leaving in ("servers", "orphan"):
        worker.channel.post(ServerClosed(message.permit, clean=True))
        if claim is not None:
            claim.refuse()
        return
    pool = worker.pool(settings)
    pool.opening += 1
    if not message.client:
        claim = next_claim(worker, pool)
    worker.nursery.start_soon(open_server, ServerLogin(worker, pool, message, claim))


def _give_back(worker: Worker, message: Reclaim) -> None:
    pool = worker.pools.get(message.pool)
    if pool is not None:
        resting = pool.resting()[: message.count]
        pool.reclaims(message.count - len(resting))
        for server in resting:
            server.end("given to another worker or pool")
        pool.reclaims(pool.reclaim - let_go(pool, pool.reclaim))


def _blocked(worker: Worker, message: Blocked) -> None:
    pool = worker.pools.get(message.pool)
    if pool is not None:
        pool.blocked = message.blocked
        unblock(worker, pool)


def _welcome(worker: Worker, message: Welcome) -> None:
    pool = worker.pools.get(message.pool)
    if pool is not None:
        pool.welcomed(message.parameters)
        if pool.welcome:
            worker.wake_logins(pool.key)
            want = pool.refreshed_want()
            if want is not None:
                worker.channel.post(want)


def _failing(worker: Worker, message: PoolFailing) -> None:
    pool = worker.pools.get(message.pool)
    if pool is None:
        return
    pool.failing = message.reason
    worker.refusals.pop(pool.key, None)
    if not message.kill_waiting:
        return
    error = PoolerError(
        message.reason,
        sqlstate=message.sqlstate,
        hint="This is how poolproxy's own log-in to the database server has ended for this database"
        " and user; its log may say more.",
        reason="server_login_refused",
    )
    worker.refusals[pool.key] = error
    worker.wake_logins(pool.key)
    refuse_all(worker, pool, error)
    for client in list(pool.waiting):
        client.fail(error)
