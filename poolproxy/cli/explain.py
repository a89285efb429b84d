"""``poolproxy check --auth``: how a client would log in, and the pooler behind it."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import attrs

from poolproxy.auth.hba import Visit
from poolproxy.auth.passfile import password_for
from poolproxy.auth.secrets import Md5Secret, PlainSecret, ScramSecret, parse_secret
from poolproxy.errors import PoolerError
from poolproxy.settings.access import Way, way_in
from poolproxy.settings.config import Config, PoolSettings
from poolproxy.settings.files import LoadedConfig

PLAIN, MD5, SCRAM, LOOKED_UP, COMMAND, NONE = (
    "a plain password",
    "an md5 secret",
    "a SCRAM secret",
    "whatever PostgreSQL has",
    "what the command prints",
    "no secret",
)
_KINDS = {PlainSecret: PLAIN, Md5Secret: MD5, ScramSecret: SCRAM}
PASSED = "the password of the client's log-in"
# Methods by which others judge the password.
_SERVICES = {
    "pam": "if the PAM service lets the user in",
    "ldap": "if the LDAP directory lets the user in",
}
# Methods that need no password, but a user that is known.
_KNOWN = frozenset({"trust", "peer", "cert"})
_IN_USE = {
    PLAIN: "it serves for every method of PostgreSQL: scram-sha-256, md5 and password",
    COMMAND: "it serves for every method of PostgreSQL: scram-sha-256, md5 and password",
    MD5: "it serves if pg_hba.conf has the method md5 for this user",
    PASSED: "if PostgreSQL takes it, too",
    NONE: "it takes a line in pg_hba.conf that asks for no password (trust)",
}


@attrs.frozen
class Source:
    """A secret's kind and where it stands."""

    kind: str
    where: str

    def __str__(self) -> str:
        return f"{self.kind} ({self.where})" if self.where else self.kind


@attrs.frozen
class Explanation:
    """``lines`` to print, and whether the log-in can work."""

    lines: tuple[str, ...]
    works: bool


def explain(loaded: LoadedConfig, visit: Visit) -> Explanation:
    """What happens to this client."""
    config = loaded.config
    where = visit.address or "the Unix socket"
    lines = [f'client: "{visit.user}" to database "{visit.database}" from {where}']
    try:
        way = way_in(config, loaded.auth, visit)
    except PoolerError as error:
        lines.append(f"  refused: {error.message}. {error.hint}")
        return Explanation(tuple(lines), False)
    secret = _own(loaded, visit.database, visit.user)
    if way.method in _SERVICES:
        secret = Source(PASSED, "")
    works, why = _client_side(way, secret, visit)
    lines.append(f"  rule: {_rule(config, way, visit)}")
    lines.append(f"  secret: {secret}")
    lines.append(f"  {_verdict(works)}: {why}")
    pool = config.pool(visit.database, visit.user)
    if pool is None:
        lines.append(f"server: there is no such database, {visit.database}")
        return Explanation(tuple(lines), False)
    lines += _server_side(loaded, pool, way, secret)
    return Explanation(tuple(lines), works and not lines[-1].startswith("  no"))


def _verdict(works: bool) -> str:
    return "works" if works else "no"


def _rule(config: Config, way: Way, visit: Visit) -> str:
    if way.rule is not None:
        return f"{way.rule.where}: {way.method}" + (f" map={way.rule.map}" if way.rule.map else "")
    user, database = config.users.get(visit.user), config.database(visit.database)
    if user is not None and user.auth_type is not None:
        return f'auth_type of the user: "{way.method}"'
    if database is not None and database.auth_type is not None:
        return f'auth_type of the database: "{way.method}"'
    return f'auth_type: "{way.method}"'


def _own(loaded: LoadedConfig, database: str, user: str) -> Source:
    """What the user's password is checked against."""
    config = loaded.config
    entry = config.users.get(user)
    if entry is not None and entry.password is not None:
        return Source(_kind(entry.password), f"password of [users.{user}]")
    if user in loaded.secrets:
        return Source(_kind(loaded.secrets[user]), "auth_file")
    lookup = config.lookup(database)
    if lookup is not None:
        where = f'auth_query, run as "{lookup.user}" in database "{lookup.database}"'
        return Source(LOOKED_UP, where)
    return Source(NONE, "")


def _kind(text: str) -> str:
    return _KINDS[type(parse_secret(text))]


def _client_side(way: Way, secret: Source, visit: Visit) -> tuple[bool, str]:
    if way.method == "any":
        return True, "everybody gets in"
    if way.method in _SERVICES:
        return True, _SERVICES[way.method]
    if secret.kind == NONE:
        return False, "the user is unknown: add it to auth_file or [users], or set auth_user"
    if way.method == "peer" and visit.address:
        return False, "peer is for the Unix socket"
    if way.method == "cert" and not visit.tls:
        return False, "cert needs TLS (--tls)"
    if way.method in _KNOWN:
        return True, f"{way.method} lets known users in"
    if way.method == "scram-sha-256" and secret.kind == MD5:
        return False, "an md5 secret can't be used for SCRAM: store a SCRAM secret, or use md5"
    if secret.kind == LOOKED_UP:
        return True, "if auth_query finds the user; a md5 secret is no use for scram-sha-256"
    return True, "with the right password"


def _server_side(
    loaded: LoadedConfig, pool: PoolSettings, way: Way, client: Source
) -> Iterator[str]:
    secret = _towards_server(loaded, pool)
    if secret.kind == NONE and client.kind == PASSED and not pool.forced:
        secret = client
    hosts = ", ".join(map(str, pool.hosts))
    yield f'server: {hosts}, database "{pool.dbname}", as "{pool.user}"'
    yield f"  secret: {secret}"
    if secret.kind in _IN_USE:
        yield f"  works: {_IN_USE[secret.kind]}"
        return
    shows_keys = way.method in ("scram-sha-256", "md5", "plain")
    if pool.forced:
        yield (
            "  no: only a client that logs in as this very user gives the key that a SCRAM secret lacks; "
            "set password of the database"
        )
    elif secret.kind == SCRAM and not shows_keys:
        yield f"  no: {way.method} gives no key for a SCRAM secret; store a plain password"
    elif secret.kind == SCRAM:
        yield "  works: if PostgreSQL has the same secret, by the key of the client's own log-in"
    elif shows_keys:
        yield "  works: a SCRAM secret by the key of the client's own log-in, an md5 secret as it is"
    else:
        yield "  works: with an md5 secret; a SCRAM secret needs a client that logs in by password"


def _towards_server(loaded: LoadedConfig, pool: PoolSettings) -> Source:
    entry = loaded.config.database(pool.database)
    if pool.password_command:
        return Source(COMMAND, "password_command")
    if entry is not None and entry.password:
        return Source(_kind(entry.password), f"password of [databases.{pool.database}]")
    if pool.password:
        return Source(_kind(pool.password), f"password of [users.{pool.user}]")
    lines = loaded.auth.passwords
    where = [(host.name, host.port, pool.dbname, pool.user) for host in pool.hosts]
    if any(password_for(lines, *one) is not None for one in where):
        return Source(PLAIN, "passfile")
    found = _own(loaded, pool.database, pool.user)
    return Source(NONE, "") if pool.forced and found.kind == LOOKED_UP else found


def is_address(text: str) -> bool:
    """Whether ``text`` is an IP address."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, text)
        except OSError:
            continue
        return True
    return False
