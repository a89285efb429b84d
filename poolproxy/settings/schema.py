"""The settings of the proxy itself: table [poolproxy].

The class is the table: reading, the sample file, the reference and every message are derived
from these fields. Names, meanings and defaults are PgBouncer's (https://www.pgbouncer.org/config.html)
unless the text says otherwise. Attributes hold times in seconds and sizes in bytes.
"""

# ruff: noqa: RUF009 - setting() makes an attrs field, which ruff cannot see

from __future__ import annotations

import attrs

from poolproxy.settings.addresses import (
    ENDPOINT,
    LISTEN_HOSTS,
    MODE,
    PORT,
    SOCKET_DIR,
    WORKERS,
    Address,
)
from poolproxy.settings.enums import (
    AbandonedWork,
    AuthType,
    LogFormat,
    Negotiation,
    PoolMode,
    Reload,
    SslMode,
    StatePolicy,
    SyslogFacility,
)
from poolproxy.settings.field import setting
from poolproxy.settings.ldap import LDAP
from poolproxy.settings.tls import CIPHERS, CURVE, PROTOCOLS, SECURE, TlsVersion
from poolproxy.settings.values import (
    BOOLEAN,
    GIVEN,
    NAME_OR_NONE,
    PARAMETERS,
    TEXT,
    USERS,
    Plain,
    choice,
    count,
    seconds,
    size,
    whole_seconds,
)

# What has room in a cancel key, see wire.peering.
MOST_PEER_ID = 0x3FFF
# What Linux accepts in TCP_KEEPIDLE, TCP_KEEPINTVL and TCP_KEEPCNT (tcp(7), linux/tcp.h).
MOST_KEEPALIVE_SECONDS = 32767
MOST_KEEPALIVE_PROBES = 127
MOST_VERBOSE = 3
MOST_FAILURE_DELAY = 10.0  # seconds
# PgBouncer's, with nothing left to the search_path of the user that runs it.
AUTH_QUERY = (
    "SELECT rolname, CASE WHEN rolvaliduntil OPERATOR(pg_catalog.<) pg_catalog.now() THEN NULL "
    "ELSE rolpassword END FROM pg_catalog.pg_authid "
    "WHERE rolname OPERATOR(pg_catalog.=) $1 AND rolcanlogin"
)


@attrs.frozen(kw_only=True)
class Settings:
    """Table [poolproxy]."""

    listen_addr: tuple[str, ...] = setting(
        ("127.0.0.1",),
        section="Listening",
        ini_default=(),
        parse=LISTEN_HOSTS,
        doc='TCP addresses to listen on; "*" is every address, an empty list is no TCP. In a '
        "pgbouncer.ini the default is none.",
    )
    listen_port: int = setting(
        6432,
        parse=PORT,
        doc="TCP port, and the number in the name of the Unix socket.",
    )
    listen_backlog: int = setting(
        128,
        parse=count(1, 65535),
        doc="Connections that the kernel keeps ready for the accept loop.",
    )
    so_reuseport: bool = setting(
        False,
        parse=BOOLEAN,
        reload=Reload.RESTART,
        doc="Let other instances listen on the same TCP addresses and port (SO_REUSEPORT); the kernel "
        "shares the clients out. Each instance has limits of its own, and peer_id lets cancel requests "
        "find the right one. It takes no more than one instance to use all cores.",
    )
    peer_id: int = setting(
        0,
        parse=count(0, MOST_PEER_ID),
        reload=Reload.NEW,
        doc="Number of this instance in a group of which [peers] has the others: cancel requests that "
        "reach the wrong one are passed on. 0 is no group.",
    )
    tcp_defer_accept: bool = setting(
        False,
        ini_default=True,
        parse=BOOLEAN,
        reload=Reload.RESTART,
        doc="Let the kernel keep TCP connections back until their first bytes have come, so that silent ones "
        "cost nothing. In a pgbouncer.ini it is the default.",
    )
    unix_socket_dir: str = setting(
        "/tmp",
        parse=SOCKET_DIR,
        doc='Folder of the Unix socket to listen on, "" for none. Databases without a host are '
        "looked for here, too.",
    )
    unix_socket_mode: int = setting(
        0o777,
        parse=MODE,
        doc="Access mode of the Unix socket.",
    )
    unix_socket_group: str = setting(
        "",
        parse=TEXT,
        doc='Group that owns the Unix socket; "" leaves it to the system.',
    )
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
        "use more processor time than others. Clients notice nothing. Encrypted ones stay where they are. "
        "Not in PgBouncer.",
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
        doc="How long a worker that is replaced waits for clients that can't move (encrypted ones, and those "
        "in a transaction) before they are disconnected; 0 waits without limit. Not in PgBouncer.",
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
    pool_mode: PoolMode = setting(
        PoolMode.SESSION,
        section="Pools and limits",
        parse=choice(PoolMode),
        doc="When a server connection goes back to its pool: when the client leaves (session), "
        "at the end of its transaction, or after each statement (no multi-statement transactions).",
    )
    max_client_conn: int = setting(
        100,
        parse=count(1),
        doc="Client connections over all workers, those still logging in included.",
    )
    default_pool_size: int = setting(
        20,
        parse=count(),
        doc="Server connections for each pair of database and user; 0 is no limit.",
    )
    min_pool_size: int = setting(
        0,
        parse=count(),
        doc="Server connections kept open for each pool that has a client or whose database has "
        "a forced user.",
    )
    reserve_pool_size: int = setting(
        0,
        parse=count(),
        doc="Further server connections for a pool in which a client has waited for "
        "reserve_pool_timeout.",
    )
    reserve_pool_timeout: float = setting(
        5.0,
        parse=seconds(),
        doc="How long a client waits before the reserve is used; 0 turns the reserve off.",
    )
    max_db_connections: int = setting(
        0,
        parse=count(),
        doc="Server connections for each database over all its users; 0 is no limit.",
    )
    max_user_connections: int = setting(
        0,
        parse=count(),
        doc="Server connections for each user over all databases; 0 is no limit.",
    )
    max_db_client_connections: int = setting(
        0,
        parse=count(),
        doc="Client connections for each database; 0 is no limit.",
    )
    max_user_client_connections: int = setting(
        0,
        parse=count(),
        doc="Client connections for each user that clients log in as; 0 is no limit.",
    )
    autodb_idle_timeout: float = setting(
        3600.0,
        parse=seconds(),
        doc="How long a pool without clients and servers is kept, and shown on the console, whose database "
        'only the entry "*" stands for; 0 is for ever. What was counted stays in the metrics.',
    )
    pool_idle_timeout: float = setting(
        0.0,
        parse=seconds(),
        doc="The same for pools of databases that are listed; 0 is for ever.",
    )
    server_round_robin: bool = setting(
        False,
        parse=BOOLEAN,
        doc="Take the server connection that has been idle longest instead of the one used last.",
    )
    max_prepared_statements: int = setting(
        200,
        parse=count(),
        reload=Reload.NEW,
        doc="Named prepared statements that a server connection keeps in transaction and statement "
        "mode, where they follow the client from server to server; 0 leaves names to the client.",
    )
    session_state: StatePolicy = setting(
        StatePolicy.RESET,
        parse=choice(StatePolicy),
        reload=Reload.NEW,
        doc="What to do in transaction and statement mode when a client leaves something in a server "
        "connection that outlives its transaction, such as SET or LISTEN: allow counts it, reset "
        "cleans the server connection before the next client gets it, pin lets the client keep it "
        "until it has cleaned up or leaves, error refuses the statement. Not in PgBouncer, which "
        "allows.",
    )
    server_reset_query: str = setting(
        "DISCARD ALL",
        section="Server connections",
        parse=TEXT,
        doc="Sent when a client in session mode gives its server connection back, so that the "
        'next finds a clean one; "" sends nothing.',
    )
    server_reset_query_always: bool = setting(
        False,
        parse=BOOLEAN,
        doc="Send server_reset_query in transaction and statement mode, too.",
    )
    server_check_query: str = setting(
        "<empty>",
        parse=TEXT,
        doc='Sent before a server connection idle for server_check_delay is used; "<empty>" is an '
        'empty query, "" is no check.',
    )
    server_check_delay: float = setting(
        30.0,
        parse=seconds(),
        doc="Idle time after which a server connection is checked; 0 checks before every use.",
    )
    server_lifetime: float = setting(
        3600.0,
        parse=seconds(),
        doc="Age at which an unused server connection is closed; 0 closes after one use.",
    )
    server_idle_timeout: float = setting(
        600.0,
        parse=seconds(),
        doc="Idle time after which a server connection beyond min_pool_size is closed; 0 never.",
    )
    server_connect_timeout: float = setting(
        15.0,
        parse=seconds(),
        doc="Time for connecting to PostgreSQL and logging in; 0 is no limit.",
    )
    server_login_retry: float = setting(
        15.0,
        parse=seconds(),
        doc="Pause after a failed connection or log-in to PostgreSQL.",
    )
    server_fast_close: bool = setting(
        False,
        parse=BOOLEAN,
        doc="Where a client keeps its server connection (session mode): when RECONNECT, a reload, changed "
        "addresses of the host or a changed role of the server ask for another one, close it when its "
        "transaction is over, and disconnect the client. Otherwise it stays until the client leaves.",
    )
    dns_max_ttl: float = setting(
        15.0,
        parse=seconds(),
        doc="How long the addresses of a server's host name are used before it is looked up again, whatever "
        "its TTL; if they change, server connections to those that are gone are closed when free. 0 "
        "looks up for each new connection.",
    )
    dns_nxdomain_ttl: float = setting(
        15.0,
        parse=seconds(),
        doc="How long a host name that could not be looked up is not tried again.",
    )
    abandoned_work: AbandonedWork = setting(
        AbandonedWork.ROLLBACK,
        parse=choice(AbandonedWork),
        doc="What becomes of a server connection whose client has gone amid a query or transaction: the "
        "query is cancelled, the transaction rolled back and the connection used again (rollback), or "
        "it is closed (close), as in PgBouncer, which has no such setting.",
    )
    abandoned_work_timeout: float = setting(
        5.0,
        parse=seconds(),
        doc="Time for that cancelling and rolling back, after which the connection is closed all the "
        "same; 0 is no limit. A query whose client has said good-bye behind it has so long to end before it "
        "is cancelled. Not in PgBouncer.",
    )
    server_close_timeout: float = setting(
        10.0,
        parse=seconds(),
        doc="A closed server connection counts until PostgreSQL has closed its end, for this "
        "long at most. Not in PgBouncer.",
    )
    query_wait_timeout: float = setting(
        120.0,
        section="Timeouts of clients and queries",
        parse=seconds(),
        doc="How long a client waits for a server connection before it is disconnected; 0 is no "
        "limit.",
    )
    login_notify_message: str = setting(
        "",
        parse=TEXT,
        reload=Reload.NEW,
        doc='Notice that each client gets at its log-in; "" is none.',
    )
    query_wait_notify: float = setting(
        5.0,
        parse=seconds(),
        doc="After waiting this long for a server connection a client gets a notice with its place in "
        "the queue and the reason; 0 sends none.",
    )
    query_timeout: float = setting(
        0.0,
        parse=seconds(),
        doc="Time for one query, after which it is cancelled and its client disconnected; 0 is no "
        "limit.",
    )
    transaction_timeout: float = setting(
        0.0,
        parse=seconds(),
        doc="Time for one transaction; 0 is no limit.",
    )
    idle_transaction_timeout: float = setting(
        0.0,
        parse=seconds(),
        doc="How long a client may be idle inside a transaction; 0 is no limit.",
    )
    client_idle_timeout: float = setting(
        0.0,
        parse=seconds(),
        doc="How long a client may be idle outside of a transaction; 0 is no limit.",
    )
    client_login_timeout: float = setting(
        60.0,
        parse=seconds(),
        reload=Reload.NEW,
        doc="Time for a client to log in; 0 is no limit.",
    )
    cancel_wait_timeout: float = setting(
        10.0,
        parse=seconds(),
        doc="How long a cancel request waits for its connection to PostgreSQL; 0 is no limit.",
    )
    auth_type: AuthType = setting(
        AuthType.MD5,
        section="Authentication",
        parse=choice(AuthType),
        reload=Reload.NEW,
        doc="How clients prove who they are. md5 asks for SCRAM where a user's secret is one; "
        "scram-sha-256 refuses md5 secrets; trust believes every known user; any lets everybody in as "
        "the database's user; peer asks the system who is at the Unix socket; cert reads the client's "
        "certificate; pam and ldap ask the system's PAM or an LDAP directory; hba obeys auth_hba_file.",
    )
    auth_file: str = setting(
        "",
        parse=TEXT,
        reload=Reload.NEW,
        doc='File of lines "user" "secret", PgBouncer\'s userlist.txt; a secret is plain, md5 or '
        "SCRAM. A relative name starts at the folder of this configuration.",
    )
    auth_hba_file: str = setting(
        "",
        parse=TEXT,
        reload=Reload.NEW,
        doc="Rules for auth_type hba, in the form of pg_hba.conf. A relative name starts at the folder of "
        "this configuration.",
    )
    auth_ident_file: str = setting(
        "",
        parse=TEXT,
        reload=Reload.NEW,
        doc="Lines MAP SYSTEM-USER USER for peer and cert rules with map=MAP. A relative name starts at "
        "the folder of this configuration.",
    )
    auth_pam_service: str = setting(
        "pgbouncer",
        parse=GIVEN,
        reload=Reload.NEW,
        doc="Name of the PAM service for auth_type pam, which is a file in /etc/pam.d. In PgBouncer the name "
        "can't be chosen.",
    )
    auth_ldap_options: str = setting(
        "",
        parse=LDAP,
        reload=Reload.NEW,
        secret=True,
        doc="Where the directory of auth_type ldap is, and how it knows users: the options of pg_hba.conf, "
        "from ldapserver to ldapurl.",
    )
    auth_ldap_ca_file: str = setting(
        "",
        parse=TEXT,
        reload=Reload.NEW,
        doc="Certificates by which that of an LDAP server is judged (ldaps and ldaptls), PEM; left out, "
        "those of the system. Not in PgBouncer.",
    )
    auth_user: str = setting(
        "",
        parse=NAME_OR_NONE,
        reload=Reload.NEW,
        doc='User that runs auth_query for users without a secret in auth_file or [users]; "" looks '
        "nobody up.",
    )
    auth_query: str = setting(
        AUTH_QUERY,
        parse=GIVEN,
        reload=Reload.NEW,
        doc="Finds a user: two columns, name and secret, for the user name $1. The default one needs the "
        "right to read pg_authid; it refuses expired roles and those without LOGIN.",
    )
    auth_dbname: str = setting(
        "",
        parse=TEXT,
        reload=Reload.NEW,
        doc='Database of this configuration in which auth_query runs; "" is the one that the client '
        "asks for.",
    )
    auth_query_anywhere: bool = setting(
        False,
        ini_default=True,
        parse=BOOLEAN,
        reload=Reload.NEW,
        doc='Without auth_dbname: run auth_query also in databases that only the entry "*" stands for, whose '
        "names clients make up, as PgBouncer does; the default in a pgbouncer.ini. Who knows no password can "
        "so make us connect to PostgreSQL in vain. Not in PgBouncer.",
    )
    auth_query_ttl: float = setting(
        0.0,
        parse=seconds(),
        reload=Reload.NEW,
        doc="How long an answer of auth_query is used again; a changed password or a dropped role is "
        "noticed after this time. 0 asks at every log-in, as PgBouncer does, which has no such setting.",
    )
    auth_failure_delay: float = setting(
        0.1,
        parse=seconds(most=MOST_FAILURE_DELAY),
        reload=Reload.NEW,
        doc="A refused log-in is told so long after the client's last message: it slows guessing down, and "
        "hides how long the check took. Not in PgBouncer.",
    )
    max_logins: int = setting(
        0,
        parse=count(),
        reload=Reload.NEW,
        doc="Clients that may be logging in at one time in each worker; beyond it the one that has kept "
        "us waiting longest is closed, so that silent connections keep nobody out. 0 is half of "
        "max_client_conn divided by the workers, but at least 16. Not in PgBouncer.",
    )
    passfile: str = setting(
        "",
        parse=TEXT,
        reload=Reload.NEW,
        doc="Passwords for PostgreSQL: lines host:port:database:user:password as in ~/.pgpass, readable by "
        "the owner only. A relative name starts at the folder of this configuration. Not in PgBouncer.",
    )
    password_command_ttl: float = setting(
        60.0,
        parse=seconds(),
        reload=Reload.NEW,
        doc="How long what a password_command has printed is used again; a refused log-in forgets it at "
        "once. Not in PgBouncer.",
    )
    scram_iterations: int = setting(
        4096,
        parse=count(1, 1_000_000),
        reload=Reload.NEW,
        doc="Iterations for SCRAM secrets made from plain passwords.",
    )
    client_tls_sslmode: SslMode = setting(
        SslMode.DISABLE,
        section="TLS of clients",
        parse=choice(SslMode),
        reload=Reload.NEW,
        doc="How much TLS is asked of clients over TCP. disable: none is offered; allow and "
        "prefer: as the client wishes; require: who comes without is refused; verify-ca and "
        "verify-full: so is who has no certificate of client_tls_ca_file. Any but disable "
        "needs client_tls_key_file and client_tls_cert_file.",
    )
    client_tls_key_file: str = setting(
        "",
        parse=TEXT,
        reload=Reload.NEW,
        doc="Private key, PEM, without a passphrase. A relative name starts at the folder of this "
        "configuration, as those of the other files.",
    )
    client_tls_cert_file: str = setting(
        "",
        parse=TEXT,
        reload=Reload.NEW,
        doc="Our certificate, PEM, with those between it and the root behind it.",
    )
    client_tls_ca_file: str = setting(
        "",
        parse=TEXT,
        reload=Reload.NEW,
        doc="Certificates by which those of clients are judged. In the modes below verify-ca a "
        "client may still come without one; a bad one is refused.",
    )
    client_tls_crl_file: str = setting(
        "",
        parse=TEXT,
        reload=Reload.NEW,
        doc="Lists of revoked certificates, PEM: one of each authority in client_tls_ca_file. A client whose "
        "certificate is in it is refused; so is everyone when a list has expired. Not in PgBouncer.",
    )
    client_tls_protocols: tuple[TlsVersion, ...] = setting(
        SECURE,
        parse=PROTOCOLS,
        reload=Reload.NEW,
        doc='Versions of TLS, without a gap; "secure" (or "default") is 1.2 and 1.3, "all" begins '
        "at 1.0.",
    )
    client_tls_ciphers: str = setting(
        "default",
        parse=CIPHERS,
        reload=Reload.NEW,
        doc='Ciphers up to TLS 1.2, in OpenSSL\'s notation; "default" (or "secure") leaves them to '
        'Python, "fast", "normal" and "all" are PgBouncer\'s.',
    )
    client_tls13_ciphers: str = setting(
        "",
        parse=TEXT,
        reload=Reload.NEW,
        doc="Cipher suites of TLS 1.3 by their names, with colons between them, the best first; "
        '"" leaves them to OpenSSL.',
    )
    client_tls_ecdhcurve: str = setting(
        "auto",
        parse=CURVE,
        reload=Reload.NEW,
        doc='Curve for the key exchange; "auto" leaves it to OpenSSL.',
    )
    server_tls_sslmode: SslMode = setting(
        SslMode.PREFER,
        section="TLS of servers",
        parse=choice(SslMode),
        reload=Reload.NEW,
        doc="How much TLS is asked of PostgreSQL over TCP. disable: none; allow and prefer: if it "
        "has it; require: a server without is not used; verify-ca: nor one whose certificate "
        "is not of server_tls_ca_file; verify-full: nor one whose certificate is not for the "
        "host of the database.",
    )
    server_tls_sslnegotiation: Negotiation = setting(
        Negotiation.POSTGRES,
        parse=choice(Negotiation),
        reload=Reload.NEW,
        doc="postgres asks with an SSLRequest; direct begins with TLS at once, which takes "
        "PostgreSQL 17 or later, saves a round trip, and needs server_tls_sslmode = require or more. "
        "Clients may do either. Not in PgBouncer.",
    )
    server_tls_key_file: str = setting(
        "",
        parse=TEXT,
        reload=Reload.NEW,
        doc="Private key of the certificate with which we log in, PEM, without a passphrase.",
    )
    server_tls_cert_file: str = setting(
        "",
        parse=TEXT,
        reload=Reload.NEW,
        doc="That certificate, PEM.",
    )
    server_tls_ca_file: str = setting(
        "",
        parse=TEXT,
        reload=Reload.NEW,
        doc="Certificates by which that of the server is judged with verify-ca and verify-full; "
        "left out, those of the system.",
    )
    server_tls_crl_file: str = setting(
        "",
        parse=TEXT,
        reload=Reload.NEW,
        doc="Lists of revoked certificates, PEM, for verify-ca and verify-full: one of each authority of the "
        "server's certificate. Not in PgBouncer.",
    )
    server_tls_protocols: tuple[TlsVersion, ...] = setting(
        SECURE,
        parse=PROTOCOLS,
        reload=Reload.NEW,
        doc='Versions of TLS, without a gap; "secure" (or "default") is 1.2 and 1.3, "all" begins '
        "at 1.0.",
    )
    server_tls_ciphers: str = setting(
        "default",
        parse=CIPHERS,
        reload=Reload.NEW,
        doc='Ciphers up to TLS 1.2, in OpenSSL\'s notation; "default" (or "secure") leaves them to '
        'Python, "fast", "normal" and "all" are PgBouncer\'s.',
    )
    server_tls13_ciphers: str = setting(
        "",
        parse=TEXT,
        reload=Reload.NEW,
        doc="Cipher suites of TLS 1.3 by their names, with colons between them, the best first; "
        '"" leaves them to OpenSSL.',
    )
    tcp_keepalive: bool = setting(
        True,
        section="TCP",
        parse=BOOLEAN,
        reload=Reload.NEW,
        doc="Let the kernel probe idle connections of clients and servers.",
    )
    tcp_keepidle: int = setting(
        0,
        parse=whole_seconds(MOST_KEEPALIVE_SECONDS),
        reload=Reload.NEW,
        doc="Idle time before the first probe; 0 is the system's default.",
    )
    tcp_keepintvl: int = setting(
        0,
        parse=whole_seconds(MOST_KEEPALIVE_SECONDS),
        reload=Reload.NEW,
        doc="Time between probes; 0 is the system's default.",
    )
    tcp_keepcnt: int = setting(
        0,
        parse=count(0, MOST_KEEPALIVE_PROBES),
        reload=Reload.NEW,
        doc="Probes without answer until a connection is given up; 0 is the system's default.",
    )
    tcp_user_timeout: float = setting(
        0.0,
        parse=seconds(plain=Plain.MILLISECONDS),
        reload=Reload.NEW,
        doc="How long sent data may stay unacknowledged; 0 is the system's default. A bare "
        'number counts seconds as everywhere, but milliseconds in a pgbouncer.ini: 5000 is "5s".',
    )
    tcp_socket_buffer: int = setting(
        0,
        parse=size(most=2**30),
        reload=Reload.NEW,
        doc="Size of the kernel's send and receive buffers; 0 is the system's default.",
    )
    max_packet_size: int = setting(
        2**31 - 1,
        section="Protocol",
        parse=size(least=1024),
        reload=Reload.NEW,
        doc="Longest message that is let through; a longer one ends the connection.",
    )
    disable_pqexec: bool = setting(
        False,
        parse=BOOLEAN,
        reload=Reload.NEW,
        doc="Disconnect clients that send a simple query, which may have several statements in it: that "
        "makes some ways of SQL injection impossible. Only clients that use nothing but the extended "
        "protocol work then; psql and replication are not among them.",
    )
    track_extra_parameters: tuple[str, ...] = setting(
        ("IntervalStyle",),
        parse=PARAMETERS,
        reload=Reload.RESTART,
        doc="Session parameters that follow a client from server to server, beyond DateStyle, "
        "client_encoding, TimeZone, standard_conforming_strings and application_name. Only "
        "parameters that PostgreSQL reports can be followed after the start-up.",
    )
    ignore_startup_parameters: tuple[str, ...] = setting(
        (),
        parse=PARAMETERS,
        reload=Reload.NEW,
        doc="Start-up parameters to drop instead of applying them, such as extra_float_digits. "
        "options in this list drops all inside options that is not tracked.",
    )
    application_name_add_host: bool = setting(
        False,
        parse=BOOLEAN,
        reload=Reload.NEW,
        doc="Add the client's address to its application_name.",
    )
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
