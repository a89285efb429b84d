"""What no value shows by itself: settings that contradict each other.

Each check is a small generator over the finished configuration; :data:`CHECKS` lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs

from poolproxy.settings.config import RESERVED, Config
from poolproxy.settings.entries import LONGEST_DATABASE, LONGEST_USER, DatabaseSettings
from poolproxy.settings.enums import AuthType

# Table, name and key of a setting, as far as it has them: ("databases", "app", "host").
Path = tuple[str, ...]

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_EVERYWHERE = frozenset({"*", "0.0.0.0", "::"})


@attrs.frozen
class Finding:
    """A contradiction, and what it is about.

    Its place is the first path of ``about`` that the operator has written. A mistake in any of
    them, or in a table around it, makes the finding void: it was drawn from a default in place of
    the value that was meant.
    """

    text: str
    about: tuple[Path, ...]


def _proxy(key: str) -> Path:
    return ("poolproxy", key)


def _nowhere_to_listen(config: Config) -> Iterator[Finding]:
    if not config.settings.listen_addr and not config.settings.unix_socket_dir:
        text = "nowhere to listen on: set listen_addr, unix_socket_dir or both"
        yield Finding(text, (_proxy("listen_addr"), _proxy("unix_socket_dir")))


def _no_databases(config: Config) -> Iterator[Finding]:
    if not config.databases:
        text = 'no database: add a table [databases.NAME], or [databases."*"] for all of a server'
        yield Finding(text, (("databases",),))


def _nobody_can_log_in(config: Config) -> Iterator[Finding]:
    ours = config.settings
    given = ours.auth_file or any(user.password for user in config.users.values())
    if ours.auth_type is not AuthType.TRUST and not given:
        text = (
            f'nobody can log in: auth_type is "{ours.auth_type.value}", but there is neither '
            "auth_file nor a password in any [users.NAME]"
        )
        passwords = [("users", name, "password") for name in config.users]
        yield Finding(text, (_proxy("auth_type"), _proxy("auth_file"), *passwords))


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
        yield Finding(text, (_proxy("min_pool_size"), _proxy("default_pool_size")))
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
        yield Finding(text, (*of_entry, *of_proxy))


def _hosts(config: Config) -> Iterator[Finding]:
    for name, entry in config.databases.items():
        host = ("databases", name, "host")
        if not entry.host and not config.settings.unix_socket_dir:
            yield Finding("no host, and unix_socket_dir is off: set host", (host,))
        elif _is_ourselves(entry, config):
            # Each client would open another client, until max_client_conn ends it.
            text = f"poolproxy itself listens on port {entry.port} of this host"
            yield Finding(text, (("databases", name, "port"), host))


def _is_ourselves(entry: DatabaseSettings, config: Config) -> bool:
    """Whether the database is surely where we listen; other names for us are not seen through."""
    ours = config.settings
    if entry.port != ours.listen_port:
        return False
    if not entry.host or entry.host == ours.unix_socket_dir:
        return True
    here = set(ours.listen_addr)
    everywhere_or_loopback = not here.isdisjoint(_EVERYWHERE | _LOOPBACK)
    return entry.host in here or (entry.host in _LOOPBACK and everywhere_or_loopback)


CHECKS: tuple[Callable[[Config], Iterator[Finding]], ...] = (
    _nowhere_to_listen,
    _no_databases,
    _nobody_can_log_in,
    _names,
    _reserved_names,
    _min_pool_size,
    _hosts,
)


def check(config: Config) -> Iterator[Finding]:
    """Every contradiction in ``config``."""
    for one in CHECKS:
        yield from one(config)
