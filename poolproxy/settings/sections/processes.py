"""The processes, and how they leave."""

from __future__ import annotations

import attrs

from poolproxy.settings.addresses import WORKERS
from poolproxy.settings.enums import Reload
from poolproxy.settings.field import setting
from poolproxy.settings.values import BOOLEAN, TEXT, seconds


@attrs.frozen(kw_only=True, slots=False)
class Processes:
    """The processes, and how they leave."""

    workers: int = setting(
        0,
        section="Processes",
        parse=WORKERS,
        doc='Worker processes; "auto" is one for each core. Limits hold over all of them together. '
        "Not in PgBouncer.",
    )
    user: str = setting(
        "",
        parse=TEXT,
        reload=Reload.RESTART,
        doc='User to become when started as root; "" stays who one is.',
    )
    pidfile: str = setting(
        "",
        parse=TEXT,
        reload=Reload.RESTART,
        doc="File to write the process id to, when all is listened on; it is removed at the end. A relative "
        "name starts at the folder of this configuration.",
    )
    worker_timeout: float = setting(
        30.0,
        parse=seconds(least=0.1),
        doc="A worker silent for this long is killed and replaced. Not in PgBouncer.",
    )
    spare_worker: bool = setting(
        True,
        parse=BOOLEAN,
        doc="Keep one more process ready, which serves nobody until a worker dies, is replaced or is added: "
        "it is that worker then, in milliseconds instead of a second or more. Not in PgBouncer.",
    )
    orphan_timeout: float = setting(
        30.0,
        parse=seconds(),
        doc="How long a worker whose acceptor is gone lets running transactions finish before "
        "it exits. Not in PgBouncer.",
    )
    client_moves: bool = setting(
        True,
        parse=BOOLEAN,
        doc="Move clients that are between two transactions from busy to idle workers, when some workers "
        "use more processor time than others; and gather the busy clients of a pool on one of them if it has "
        "fewer server connections than there are workers, or if its limit keeps clients waiting and one "
        "worker is enough for them. Clients notice nothing. The connection of an encrypted one stays where "
        "it is; to the worker at which a pool of the first kind is gathered it is relayed. With false no "
        "connection moves, and those of such a pool are relayed. Then, or if server connections are "
        "encrypted, clients stay where workers have whole server connections for them; of a pool of the "
        "second kind those are relayed whose worker has less than one and a half. Not in PgBouncer.",
    )
    worker_max_lifetime: float = setting(
        0.0,
        parse=seconds(),
        doc="Replace each worker process after about this time: a new one starts, and the old one leaves "
        "when its clients have moved there or have gone; 0 never does. Workers don't all go at once. Not "
        "in PgBouncer.",
    )
    worker_retire_timeout: float = setting(
        0.0,
        parse=seconds(),
        doc="How long a worker that is replaced waits for clients that can't move (encrypted ones, "
        "those in a transaction) before they are disconnected; 0 waits without limit. Not in "
        "PgBouncer.",
    )
    shutdown_timeout: float = setting(
        25.0,
        ini_default=0.0,
        parse=seconds(),
        doc="Time to leave. After SIGTERM clients are sent away between their transactions, spread over this "
        "time; after SIGINT those in a transaction may end it; who is still there then is disconnected. 0 "
        "waits without limit until clients have left by themselves, as PgBouncer does, which has no such "
        "setting.",
    )
    shutdown_delay: float = setting(
        0.0,
        parse=seconds(),
        doc="After SIGTERM, how long to go on as before, but not ready at /readyz: until whoever spreads the "
        "clients has noticed. Part of shutdown_timeout. Not in PgBouncer.",
    )
