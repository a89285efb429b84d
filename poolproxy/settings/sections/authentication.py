"""How clients prove who they are, and we to PostgreSQL."""

# ruff: noqa: RUF009 - setting() makes an attrs field, which ruff cannot see

from __future__ import annotations

import attrs

from poolproxy.settings.enums import AuthType, Reload
from poolproxy.settings.field import setting
from poolproxy.settings.ldap import LDAP
from poolproxy.settings.values import BOOLEAN, GIVEN, NAME_OR_NONE, TEXT, choice, count, seconds

MOST_FAILURE_DELAY = 10.0  # seconds
# PgBouncer's, with nothing left to the search_path of the user that runs it.
AUTH_QUERY = (
    "SELECT rolname, CASE WHEN rolvaliduntil OPERATOR(pg_catalog.<) pg_catalog.now() THEN NULL "
    "ELSE rolpassword END FROM pg_catalog.pg_authid "
    "WHERE rolname OPERATOR(pg_catalog.=) $1 AND rolcanlogin"
)


@attrs.frozen(kw_only=True, slots=False)
class Authentication:
    """How clients prove who they are, and we to PostgreSQL."""

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
