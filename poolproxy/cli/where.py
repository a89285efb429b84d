"""Where the console is that a command is to talk to: its options, those of psql by other means."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import attrs
import click

from poolproxy.cli.console_tls import Tls
from poolproxy.cli.loading import load_or_exit
from poolproxy.settings.enums import SslMode

F = TypeVar("F", bound=Callable[..., Any])
SCHEMES = ("postgresql", "postgres")
CONSOLES = ("", "pgbouncer", "poolproxy")
MODES = [mode.value for mode in SslMode]
TLS_WORDS = ("sslmode", "sslrootcert", "sslcert", "sslkey")
IN_URL = ("host", "port", "user", "password", *TLS_WORDS)


@attrs.frozen
class Target:
    """Where the console is. ``host``: a name, an address, or the folder of the Unix socket. ``password``: one
    that was given with it.
    """

    host: str
    port: int
    user: str
    tls: Tls = attrs.field(factory=Tls)
    password: str | None = attrs.field(default=None, repr=False)


# From the last to the first of those that --help shows.
_OPTIONS = (
    click.option("--sslkey", metavar="FILE", help="Its key.  [default: PGSSLKEY]"),
    click.option(
        "--sslcert", metavar="FILE", help="A certificate to log in with.  [default: PGSSLCERT]"
    ),
    click.option(
        "--sslrootcert",
        metavar="FILE",
        help="Certificates by which the pooler's is judged; `system` are those of the system."
        "  [default: PGSSLROOTCERT, or ~/.postgresql/root.crt]",
    ),
    click.option(
        "--sslmode",
        type=click.Choice(MODES),
        help="How much TLS there must be, as with psql.  [default: PGSSLMODE, or prefer]",
    ),
    click.option("--user", help="Who to log in as.  [default: pgbouncer]"),
    click.option("--port", type=int, help="Its port.  [default: as in the configuration, or 6432]"),
    click.option(
        "--host",
        help="A host name, an address, or the folder of the Unix socket.  [default: as in the"
        " configuration, or /tmp]",
    ),
    click.option(
        "--url",
        help="All this in one, as postgresql://USER@HOST:PORT/?sslmode=verify-full; options go"
        " before it.",
    ),
    click.option(
        "--config", metavar="CONFIG", help="Look into this configuration for where it listens."
    ),
)


def where_options(command: F) -> F:
    """The options that tell where the console is; ``command`` gets them as its argument ``where``."""

    @wraps(command)
    def with_target(**given: Any) -> Any:
        names = ("config", "url", "host", "port", "user", *TLS_WORDS)
        options = {name: given.pop(name) for name in names}
        return command(where=target(**options), **given)

    result: Any = with_target
    for option in _OPTIONS:
        result = option(result)
    return result  # type: ignore[no-any-return]


def target(
    config: str | None = None,
    url: str | None = None,
    host: str | None = None,
    port: int | None = None,
    user: str | None = None,
    **tls: str | None,
) -> Target:
    """Where the options say: what is not given is as in the URL, else the configuration, else the default."""
    found = _of_config(config) if config is not None else Target("/tmp", 6432, "pgbouncer")
    parts = _of_url(url) if url is not None else {}
    words = {
        name: tls.get(name) or parts.get(name) or os.environ.get(f"PG{name.upper()}") or ""
        for name in TLS_WORDS
    }
    return Target(
        host or parts.get("host") or found.host,
        port or int(parts.get("port") or found.port),
        user or parts.get("user") or found.user,
        Tls(_mode(words["sslmode"]), words["sslrootcert"], words["sslcert"], words["sslkey"]),
        parts.get("password"),
    )


def _of_config(path: str) -> Target:
    settings = load_or_exit(path).config.settings
    listens = next(iter(settings.listen_addr), "127.0.0.1")
    listens = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(listens, listens)
    return Target(settings.unix_socket_dir or listens, settings.listen_port, "pgbouncer")


def _of_url(url: str) -> Mapping[str, str]:
    """The words of a connection URL, by libpq's names for them."""
    try:
        parts = urlsplit(url)
        found = {
            "host": unquote(parts.hostname or ""),
            "port": str(parts.port or ""),
            "user": unquote(parts.username or ""),
        } | dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        if parts.password is not None:
            found["password"] = unquote(parts.password)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--url") from None
    if parts.scheme not in SCHEMES:
        raise click.BadParameter("it must begin with postgresql://", param_hint="--url")
    if parts.path.strip("/") not in CONSOLES:
        raise click.BadParameter("the console's database is pgbouncer", param_hint="--url")
    unknown = sorted(found.keys() - IN_URL)
    if unknown:
        raise click.BadParameter(f"{unknown[0]} is not known", param_hint="--url")
    if not (found["port"] or "0").isdigit():
        raise click.BadParameter("port is no number", param_hint="--url")
    return found


def _mode(word: str) -> SslMode:
    try:
        return SslMode(word or "prefer")
    except ValueError:
        text = f"sslmode is one of {', '.join(MODES)}, not {word}"
        raise click.UsageError(text) from None
