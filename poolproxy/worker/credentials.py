"""What the pooler logs in to PostgreSQL with.

In this order: the database's ``password`` or ``password_command``, the user's, a line of ``passfile``, the
user's secret in auth_file, what auth_query has found, what a client of the pool has logged in with by pam or
ldap. A SCRAM secret serves with the keys of a client that has logged in by the very same secret.
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
from collections.abc import Mapping
from subprocess import DEVNULL, PIPE
from time import monotonic

import attrs
import trio

from poolproxy.auth.passfile import password_for
from poolproxy.auth.scram import ScramKeys
from poolproxy.auth.secrets import PlainSecret, ScramSecret, Secret, parse_secret
from poolproxy.ipc.messages import PoolKey
from poolproxy.settings.config import PoolSettings
from poolproxy.settings.hosts import Host
from poolproxy.worker.worker import Worker

log = logging.getLogger(__name__)

KILLED_SECONDS = 1.0  # a killed command is gone in less, unless the kernel itself hangs
MAX_PRINTED = 65_530  # bytes that a password_command may print: PgBouncer's limit of a password


class CommandFailed(Exception):
    """password_command gave no password; the text is for the log."""


@attrs.frozen
class Credential:
    """``keys``: those of a client's log-in that fit ``secret``, a SCRAM secret."""

    secret: Secret | None
    keys: ScramKeys | None = None


async def credential(worker: Worker, settings: PoolSettings, host: Host) -> Credential:
    """For a server of a pool on this host; raises CommandFailed."""
    if settings.password_command:
        return Credential(PlainSecret(await _printed(worker, settings, host)))
    secret = known_secret(worker, settings, host)
    keys = worker.scram_keys.get(secret.stored_key) if isinstance(secret, ScramSecret) else None
    return Credential(secret, keys)


def known_secret(worker: Worker, settings: PoolSettings, host: Host) -> Secret | None:
    """What there is without running a command."""
    if settings.password:
        return parse_secret(settings.password)
    found = password_for(
        worker.files.passwords, host.name, host.port, settings.dbname, settings.user
    )
    if found is not None:
        return PlainSecret(found)
    secret = worker.secret(settings.user)
    if secret is None and (known := worker.looked_up(settings)) is not None:
        secret = known.secret
    if secret is None and not settings.forced:
        password = worker.passwords.get(PoolKey(settings.database, settings.user))
        secret = PlainSecret(password) if password is not None else None
    return secret


def forget(worker: Worker, settings: PoolSettings, host: Host) -> None:
    """PostgreSQL has refused the log-in: what a command has printed may have expired."""
    worker.printed.pop(_key(settings, host), None)


def _key(settings: PoolSettings, host: Host) -> tuple[str, ...]:
    where = host.name, str(host.port), settings.dbname, settings.user
    return (settings.password_command, *where)


async def _printed(worker: Worker, settings: PoolSettings, host: Host) -> str:
    key = _key(settings, host)
    known = worker.printed.get(key)
    if known is not None and monotonic() - known[1] < worker.config.settings.password_command_ttl:
        return known[0]
    began = monotonic()
    printed = await _run(shlex.split(settings.password_command), _environment(settings, host))
    worker.printed[key] = printed, began
    return printed


def _environment(settings: PoolSettings, host: Host) -> dict[str, str]:
    return dict(os.environ) | {
        "PGHOST": host.name,
        "PGPORT": str(host.port),
        "PGDATABASE": settings.dbname,
        "PGUSER": settings.user,
    }


async def _run(command: list[str], environment: Mapping[str, str]) -> str:
    """The first line that the command prints. Bounded by server_connect_timeout around it."""
    try:
        process = await trio.lowlevel.open_process(
            command, stdin=DEVNULL, stdout=PIPE, env=environment, start_new_session=True
        )
    except OSError as error:
        raise CommandFailed(f"can't be run: {error.strerror}") from error
    assert process.stdout is not None
    try:
        async with process.stdout:
            printed = b""
            while data := await process.stdout.receive_some():
                printed += data
                if len(printed) > MAX_PRINTED:
                    raise CommandFailed("prints too much")
        status = await process.wait()
    finally:
        await _end(process)
    if status:
        raise CommandFailed(f"ended with status {status}")
    line = printed.decode("utf-8", "surrogateescape").partition("\n")[0].rstrip("\r")
    if not line or "\0" in line:
        raise CommandFailed("printed no password")
    return line


async def _end(process: trio.Process) -> None:
    # Not by SIGTERM: workers ignore it, and so do their children unless they care.
    if process.returncode is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        # Or it stays behind as a zombie, with the descriptor that waits for it.
        with trio.move_on_after(KILLED_SECONDS, shield=True):
            await process.wait()
