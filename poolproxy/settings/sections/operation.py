"""The admin console, the log and metrics."""

# ruff: noqa: RUF009 - setting() makes an attrs field, which ruff cannot see

from __future__ import annotations

import attrs

from poolproxy.settings.addresses import ENDPOINT, Address
from poolproxy.settings.enums import LogFormat, Reload, SyslogFacility
from poolproxy.settings.field import setting
from poolproxy.settings.values import BOOLEAN, GIVEN, TEXT, USERS, choice, count, seconds

MOST_VERBOSE = 3


@attrs.frozen(kw_only=True, slots=False)
class Operation:
    """The admin console, the log and metrics."""

    admin_users: tuple[str, ...] = setting(
        (),
        section="Admin console",
        parse=USERS,
        reload=Reload.NEW,
        doc="Users who may give every command on the admin console, the databases `pgbouncer` and "
        "`poolproxy`. Besides them may the system user that poolproxy runs as, at the Unix socket and by "
        "the name pgbouncer.",
    )
    stats_users: tuple[str, ...] = setting(
        (),
        parse=USERS,
        reload=Reload.NEW,
        doc="Users who may look at everything on the admin console (all SHOW commands but SHOW FDS) and "
        "change nothing.",
    )
    stats_period: float = setting(
        60.0,
        parse=seconds(least=0.1),
        doc="The averages of SHOW STATS are over this time.",
    )
    suspend_timeout: float = setting(
        10.0,
        parse=seconds(),
        doc="How long SUSPEND waits for clients and servers to take what is kept for them; those that have "
        "not are disconnected.",
    )
    log_connections: bool = setting(
        True,
        section="Logging and metrics",
        parse=BOOLEAN,
        doc="Log each log-in and each new server connection.",
    )
    log_disconnections: bool = setting(
        True,
        parse=BOOLEAN,
        doc="Log each closed connection with its reason.",
    )
    log_pooler_errors: bool = setting(
        True,
        parse=BOOLEAN,
        doc="Log each error that the proxy itself sends to a client.",
    )
    log_stats: bool = setting(
        True,
        parse=BOOLEAN,
        doc="Log a line of totals over all pools every stats_period.",
    )
    verbose: int = setting(
        0,
        parse=count(0, MOST_VERBOSE),
        doc="More log lines, the higher the more.",
    )
    log_format: LogFormat = setting(
        LogFormat.TEXT,
        parse=choice(LogFormat),
        doc="text is PgBouncer's; json has an object on each line, with the connection, database, user and "
        "worker as fields. Not in PgBouncer.",
    )
    log_repeat_limit: int = setting(
        10,
        parse=count(),
        doc="How often each process may log the same warning or error within a second; how often it came "
        "beyond that is told in one line. 0 is no limit. Not in PgBouncer.",
    )
    logfile: str = setting(
        "",
        parse=TEXT,
        doc="File to append the log to, besides stderr; a reload opens it again. A relative name starts at "
        "the folder of this configuration.",
    )
    syslog: bool = setting(
        False,
        parse=BOOLEAN,
        doc="Log to syslog, too.",
    )
    syslog_ident: str = setting(
        "poolproxy",
        ini_default="pgbouncer",
        parse=GIVEN,
        doc="Name of the program in syslog; pgbouncer is the default in a pgbouncer.ini.",
    )
    syslog_facility: SyslogFacility = setting(
        SyslogFacility.DAEMON,
        parse=choice(SyslogFacility),
        doc="Facility of syslog.",
    )
    metrics_listen: Address | None = setting(
        Address("127.0.0.1", 9127),
        ini_default=None,
        parse=ENDPOINT,
        doc='Address of /metrics, /healthz and /readyz; "" for none, which is the default in a '
        "pgbouncer.ini. Not in PgBouncer.",
    )
