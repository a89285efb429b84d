"""Whether a client that has proven who it is may come in: its database is served, and no limit is reached."""

from __future__ import annotations

import trio

from poolproxy.errors import PoolerError
from poolproxy.ipc.messages import FindRoom, Login
from poolproxy.settings.config import PoolSettings
from poolproxy.worker.worker import Worker

# Seconds. A client that leaves and comes back at once is often here before another worker has seen the end of
# its former connection.
LOOKS_FOR_ROOM = (0.0, 0.02, 0.05, 0.1)


def find_pool(worker: Worker, database: str, user: str) -> PoolSettings:
    """The pool of the client. Raises PoolerError where there is none, or nobody is let in now."""
    if worker.leaving not in ("", "retire"):
        raise PoolerError(
            "pooler is shutting down",
            sqlstate="57P03",
            hint="Connect again later, or to another instance.",
            reason="shutting_down",
        )
    settings = worker.config.pool(database, user)
    if database in worker.held.disabled and settings is not None:
        raise PoolerError(
            f'database "{database}" is disabled',
            sqlstate="57P03",
            hint="An administrator has disabled it; ENABLE on the admin console undoes that.",
            reason="disabled",
        )
    if settings is None:
        raise PoolerError(
            f"no such database: {database}",
            sqlstate="3D000",
            hint="Add it under [databases] in the configuration, or a * entry for any name.",
            reason="no_such_database",
        )
    if database in worker.drains:
        raise PoolerError(
            f"database does not allow connections: {database}",
            hint="It is being drained: somebody works on it. Connect again later.",
            reason="database_drained",
        )
    return settings


async def admit(worker: Worker, client: int, database: str, user: str) -> None:
    """Ask the acceptor where a client limit of the database or the user is configured. Raises PoolerError."""
    limits = worker.config.client(database, user)
    if not (limits.max_db_client_connections or limits.max_user_client_connections):
        return
    limit = await _ask(worker, client, Login(client, database, user))
    if limit:
        raise PoolerError(
            f"client connections exceeded ({limit})",
            sqlstate="53300",
            hint=f"Raise {limit}, or close idle client connections.",
            reason=limit,
        )


async def find_room(worker: Worker, client: int) -> None:
    """For a client that has come when max_client_conn was reached. Raises PoolerError if it still is."""
    for pause in LOOKS_FOR_ROOM:
        await _pause(worker, pause)
        last = pause == LOOKS_FOR_ROOM[-1]
        if not await _ask(worker, client, FindRoom(client, last)):
            return
    raise PoolerError(
        "no more connections allowed (max_client_conn)",
        sqlstate="53300",
        hint="Raise max_client_conn, or close idle client connections.",
        reason="max_client_conn",
    )


async def _pause(worker: Worker, seconds: float) -> None:
    worker.hurried -= 1
    try:
        await trio.sleep(seconds)
    finally:
        worker.hurried += 1


async def _ask(worker: Worker, client: int, question: Login | FindRoom) -> str:
    """The limit that is exceeded, "" if none is."""
    send, receive = trio.open_memory_channel[str](1)
    worker.admissions[client] = send.send_nowait
    worker.channel.post(question)
    try:
        return await receive.receive()
    finally:
        del worker.admissions[client]
