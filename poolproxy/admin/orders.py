"""The commands that change something; ``acceptor/orders.py`` carries them out."""

from __future__ import annotations

from poolproxy.admin.command import Argument, Order

ORDERS = (
    Order(
        "SET",
        Argument.SETTING,
        "Change a setting until the next reload, all checks included. The files are read again for it."
        " A setting that needs a restart is refused.",
    ),
    Order(
        "RELOAD", Argument.NONE, "Read the configuration and all its files again, as SIGHUP does."
    ),
    Order(
        "PAUSE",
        Argument.OPTIONAL_DATABASE,
        "Close all server connections, of one database or of all, each as soon as its client has no use for"
        " it: in session mode when the client leaves. New queries wait. The answer comes when all are closed;"
        " a cancel request meanwhile undoes it all. Without a database it is also SIGUSR1.",
    ),
    Order(
        "RESUME",
        Argument.OPTIONAL_DATABASE,
        "Go on after PAUSE, SUSPEND or KILL. Without a database it is also SIGUSR2.",
    ),
    Order(
        "DISABLE",
        Argument.DATABASE,
        "Refuse new clients of a database; those that are there go on.",
    ),
    Order("ENABLE", Argument.DATABASE, "Undo DISABLE and DRAIN."),
    Order(
        "DRAIN",
        Argument.DATABASE,
        "Refuse new clients of a database, and send those that are there away between their transactions,"
        " evenly over shutdown_timeout (60 seconds if that is not set). Not in PgBouncer.",
    ),
    Order(
        "RECONNECT",
        Argument.OPTIONAL_DATABASE,
        "Replace all server connections, of one database or of all: each is closed when it is free.",
    ),
    Order(
        "WAIT_CLOSE",
        Argument.OPTIONAL_DATABASE,
        "Answer when all server connections are closed that RECONNECT or a reload wants to be.",
    ),
    Order(
        "KILL",
        Argument.OPTIONAL_DATABASE,
        "Disconnect all clients and servers at once, of one database or of all. They stay paused.",
    ),
    Order(
        "KILL_CLIENT",
        Argument.CLIENT,
        "Disconnect one client; its number is the id in SHOW CLIENTS.",
    ),
    Order(
        "RECYCLE WORKER",
        Argument.WORKER,
        "Replace a worker process without losing a client: another one starts, and the clients move there as"
        " far as they can. Its number is in SHOW WORKERS. Not in PgBouncer.",
    ),
    Order(
        "SUSPEND",
        Argument.NONE,
        "Stop reading from all clients and servers, and answer when all that is kept for them is sent, at the"
        " latest after suspend_timeout. RESUME, or the end of this console, undoes it.",
    ),
    Order(
        "SHUTDOWN",
        Argument.SHUTDOWN,
        "Leave: at once as SIGQUIT does, or as SIGINT (WAIT_FOR_SERVERS) or SIGTERM (WAIT_FOR_CLIENTS) do.",
    ),
)
