"""What no value shows by itself: settings that contradict each other.

Each check is a small generator over the finished configuration; :data:`CHECKS` lists them.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator

import attrs

from poolproxy.settings.config import RESERVED, TEMPLATE, Config
from poolproxy.settings.entries import LONGEST_DATABASE, LONGEST_USER, DatabaseSettings
from poolproxy.settings.enums import AuthType, Negotiation
from poolproxy.settings.hosts import Host, pair
from poolproxy.settings.sections.listening import MOST_PEER_ID

# Table, name and key of a setting, as far as it has them: ("databases", "app", "host").
Path = tuple[str, ...]

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_EVERYWHERE = frozenset({"*", "0.0.0.0", "::"})


@attrs.frozen
class Finding:
    """A contradiction, and what it is about.

    Its place is the first path of ``about`` that the operator has written. A mistake in any of
    them, or in a table around it, makes the finding void: it was drawn from a default in place of
    the value that was meant. ``tolerable``: PgBouncer runs with it, so its files may have it.
    """

    text: str
    about: tuple[Path, ...]
    tolerable: bool = False


def _proxy(key: str) -> Path:
    return ("poolproxy", key)


def _nowhere_to_listen(config: Config) -> Iterator[Finding]:
    if not config.settings.listen_addr and not config.settings.unix_socket_dir:
        text = "nowhere to listen on: set listen_addr, unix_socket_dir or both"
        yield Finding(text, (_proxy("listen_addr"), _proxy("unix_socket_dir")))


def _no_databases(config: Config) -> Iterator[Finding]:
    if not config.databases:
        text = 'no database: there is none in [databases]; "*" stands for all of a server'
        yield Finding(text, (("databases",),), tolerable=True)


def _nobody_can_log_in(config: Config) -> Iterator[Finding]:
    ours = config.settings
    given = ours.auth_file or any(user.password for user in config.users.values())
    given = given or any(config.lookup(name) for name in config.databases)
    known = _OWN_KNOWLEDGE.isdisjoint(config.auth_types())
    if known and not given:
        text = (
            f'nobody can log in: auth_type is "{ours.auth_type.value}", but there is neither '
            "auth_file, nor a password of a user in [users], nor auth_user"
        )
        passwords = [("users", name, "password") for name in config.users]
        about = (_proxy("auth_type"), _proxy("auth_file"), *passwords)
        yield Finding(text, about, tolerable=True)


# With these it does not take a secret of ours to get in, or they need no known user.
_OWN_KNOWLEDGE = frozenset(
    {AuthType.TRUST, AuthType.ANY, AuthType.HBA, AuthType.PAM, AuthType.LDAP}
)


def _hba_without_rules(config: Config) -> Iterator[Finding]:
    if AuthType.HBA in config.auth_types() and not config.settings.auth_hba_file:
        text = 'auth_type "hba" needs auth_hba_file'
        yield Finding(text, (_proxy("auth_hba_file"), _proxy("auth_type")), tolerable=True)


def _ldap_without_options(config: Config) -> Iterator[Finding]:
    if AuthType.LDAP in config.auth_types() and not config.settings.auth_ldap_options:
        text = 'auth_type "ldap" needs auth_ldap_options'
        yield Finding(text, (_proxy("auth_ldap_options"), _proxy("auth_type")))


def _any_without_forced_user(config: Config) -> Iterator[Finding]:
    for name, user in config.users.items():
        if user.auth_type is AuthType.ANY:
            path = ("users", name, "auth_type")
            yield Finding('auth_type "any" is for databases: it asks for no user', (path,))
    for name, entry in config.databases.items():
        auth_type = entry.auth_type or config.settings.auth_type
        if auth_type is AuthType.ANY and entry.user is None:
            paths = (("databases", name, "user"), ("databases", name, "auth_type"))
            text = 'auth_type "any" needs a user here: the client\'s own name proves nothing'
            yield Finding(text, (*paths, _proxy("auth_type")), tolerable=True)


def _auth_dbname(config: Config) -> Iterator[Finding]:
    given = [(_proxy("auth_dbname"), config.settings.auth_dbname)]
    for name, entry in config.databases.items():
        given.append((("databases", name, "auth_dbname"), entry.auth_dbname or ""))
    for path, wanted in given:
        if wanted in RESERVED:
            yield Finding(f'auth_dbname can\'t be "{wanted}", the admin console', (path,))
        elif wanted and config.database(wanted) is None:
            text = f'auth_dbname: there is no database "{wanted}"'
            yield Finding(text, (path,), tolerable=True)


def _template_without_auth_dbname(config: Config) -> Iterator[Finding]:
    entry = config.databases.get(TEMPLATE)
    ours = config.settings
    if entry is None or entry.auth_dbname or ours.auth_dbname or ours.auth_query_anywhere:
        return
    if ours.auth_user if entry.auth_user is None else entry.auth_user:
        text = (
            'the database "*" needs auth_dbname: its users can\'t be looked up in a database whose '
            "name the client makes up, unless auth_query_anywhere allows it"
        )
        yield Finding(text, (("databases", TEMPLATE, "auth_dbname"), _proxy("auth_user")))


def _two_passwords(config: Config) -> Iterator[Finding]:
    for name, entry in config.databases.items():
        if entry.password and entry.password_command:
            path = ("databases", name, "password_command")
            yield Finding("password and password_command exclude each other", (path,))


def _commands(config: Config) -> Iterator[Finding]:
    for table, entries in (("databases", config.databases), ("users", config.users)):
        for name, entry in entries.items():
            try:
                shlex.split(entry.password_command or "")
            except ValueError as error:
                path = (table, name, "password_command")
                yield Finding(f"password_command: {error}", (path,))


def _names(config: Config) -> Iterator[Finding]:
    for table, names, longest in (
        ("databases", config.databases, LONGEST_DATABASE),
        ("users", config.users, LONGEST_USER),
    ):
        for name in names:
            if not 0 < len(name.encode()) <= longest:
                text = f"a name in [{table}] has 1 to {longest} bytes"
                yield Finding(text, ((table, name),))


def _reserved_names(config: Config) -> Iterator[Finding]:
    for name in sorted(RESERVED.intersection(config.databases)):
        text = f'the database name "{name}" is reserved for the admin console'
        yield Finding(text, (("databases", name),))


def _min_pool_size(config: Config) -> Iterator[Finding]:
    ours = config.settings
    if 0 < ours.default_pool_size < ours.min_pool_size:
        text = (
            f"min_pool_size ({ours.min_pool_size}) is more than "
            f"default_pool_size ({ours.default_pool_size})"
        )
        about = (_proxy("min_pool_size"), _proxy("default_pool_size"))
        yield Finding(text, about, tolerable=True)
    for name, entry in config.databases.items():
        yield from _min_pool_size_of(name, entry, config)


def _min_pool_size_of(name: str, entry: DatabaseSettings, config: Config) -> Iterator[Finding]:
    # What an entry leaves to the proxy is the proxy's own contradiction, reported once.
    if entry.min_pool_size is None and entry.pool_size is None:
        return
    ours = config.settings
    least = ours.min_pool_size if entry.min_pool_size is None else entry.min_pool_size
    most = ours.default_pool_size if entry.pool_size is None else entry.pool_size
    if 0 < most < least:
        of_entry = [("databases", name, key) for key in ("min_pool_size", "pool_size")]
        of_proxy = [_proxy(key) for key in ("min_pool_size", "default_pool_size")]
        text = f"min_pool_size ({least}) is more than the pool's size ({most})"
        yield Finding(text, (*of_entry, *of_proxy), tolerable=True)


def _hosts(config: Config) -> Iterator[Finding]:
    for name, entry in config.databases.items():
        host = ("databases", name, "host")
        if not entry.host and not config.settings.unix_socket_dir:
            yield Finding("no host, and unix_socket_dir is off: set host", (host,))
        elif len(entry.port) not in (1, len(entry.host or ("",))):
            text = f"{len(entry.port)} ports for {len(entry.host or ('',))} hosts"
            yield Finding(f"{text}: give one, or one for each", (("databases", name, "port"), host))
        elif any(_is_ourselves(where, config) for where in _hosts_of(entry, config)):
            # Each client would open another client, until max_client_conn ends it.
            text = f"poolproxy itself listens on port {config.settings.listen_port} of this host"
            yield Finding(text, (("databases", name, "port"), host), tolerable=True)


def _hosts_of(entry: DatabaseSettings, config: Config) -> tuple[Host, ...]:
    return pair(entry.host or (config.settings.unix_socket_dir,), entry.port)


def _is_ourselves(host: Host, config: Config) -> bool:
    """Whether the host is surely where we listen; other names for us are not seen through."""
    ours = config.settings
    if host.port != ours.listen_port:
        return False
    if host.name == ours.unix_socket_dir:
        return True
    here = set(ours.listen_addr)
    everywhere_or_loopback = not here.isdisjoint(_EVERYWHERE | _LOOPBACK)
    return host.name in here or (host.name in _LOOPBACK and everywhere_or_loopback)


def _peers(config: Config) -> Iterator[Finding]:
    for name, entry in config.peers.items():
        if not name.isascii() or not name.isdecimal() or not 0 < int(name[:9]) <= MOST_PEER_ID:
            text = f"a peer is a number, its peer_id, 1 to {MOST_PEER_ID}, not {name}"
            yield Finding(text, (("peers", name),))
        elif not entry.host:
            yield Finding("a peer needs host", (("peers", name, "host"),))
    if config.peers and not config.settings.peer_id:
        first = next(iter(config.peers))
        text = "[peers] is of no use without peer_id"
        yield Finding(text, (("peers", first), _proxy("peer_id")), tolerable=True)


def _client_tls(config: Config) -> Iterator[Finding]:
    ours = config.settings
    mode = ours.client_tls_sslmode
    needed = ["client_tls_key_file", "client_tls_cert_file"] if mode.enabled else []
    if mode.verifies:
        needed.append("client_tls_ca_file")
    for name in needed:
        if not getattr(ours, name):
            text = f'client_tls_sslmode is "{mode.value}", but {name} is not set'
            yield Finding(text, (_proxy("client_tls_sslmode"), _proxy(name)))
    if ours.client_tls_crl_file and not ours.client_tls_ca_file:
        text = "client_tls_crl_file is of no use without client_tls_ca_file"
        yield Finding(text, (_proxy("client_tls_crl_file"),))


def _server_tls(config: Config) -> Iterator[Finding]:
    ours = config.settings
    names = "server_tls_key_file", "server_tls_cert_file"
    for given, lacking in (names, names[::-1]):
        if getattr(ours, given) and not getattr(ours, lacking):
            yield Finding(f"{given} is of no use without {lacking}", (_proxy(given),))
    direct = ours.server_tls_sslnegotiation is Negotiation.DIRECT
    if direct and not ours.server_tls_sslmode.required:
        text = (
            'server_tls_sslnegotiation = "direct" leaves a server no way to refuse TLS: set '
            'server_tls_sslmode to "require", "verify-ca" or "verify-full"'
        )
        about = "server_tls_sslnegotiation", "server_tls_sslmode"
        yield Finding(text, tuple(map(_proxy, about)))


CHECKS: tuple[Callable[[Config], Iterator[Finding]], ...] = (
    _nowhere_to_listen,
    _no_databases,
    _nobody_can_log_in,
    _hba_without_rules,
    _ldap_without_options,
    _any_without_forced_user,
    _auth_dbname,
    _template_without_auth_dbname,
    _two_passwords,
    _commands,
    _names,
    _reserved_names,
    _min_pool_size,
    _hosts,
    _peers,
    _client_tls,
    _server_tls,
)


def check(config: Config) -> Iterator[Finding]:
    """Every contradiction in ``config``."""
    for one in CHECKS:
        yield from one(config)
