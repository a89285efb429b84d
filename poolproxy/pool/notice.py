"""What a client is told that waits long for a server: its place in the queue and the reason."""

from __future__ import annotations

from poolproxy.ipc.messages import WaitReason

# PgBouncer's words: clients and scripts know them.
QUEUED = "No server connection available in postgres backend, client being queued"


def details(place: int, queue: int, waited: float, why: WaitReason) -> tuple[str, str]:
    """(DETAIL, HINT) for the client at ``place``, from 1 on, of ``queue`` in this worker process.

    ``waited``: seconds. Other processes' clients have their own queues, so a place among all is not known.
    """
    if why.waiting > queue:
        where = f"number {place} of {queue} in the queue of its worker process, {why.waiting} wait in all"
    else:
        where = f"number {place} of {queue} in the queue"
    reason, hint = _reason(why)
    return f"Waiting for {waited:.0f} s, {where}. {reason}", hint


def _reason(why: WaitReason) -> tuple[str, str]:
    if why.failing:
        return (
            f"The log-in to the database server has been failing: {why.failing}.",
            "The next attempt is made after server_login_retry; the wait ends after query_wait_timeout.",
        )
    if why.limit:
        return (
            f"The limit {why.limit} ({why.size}) on server connections is reached.",
            f"Raise {why.limit}, or look for long transactions that hold server connections;"
            " the wait ends after query_wait_timeout.",
        )
    return "A server connection is being opened.", "The wait ends after query_wait_timeout."
