"""``poolproxy check``."""

from __future__ import annotations

from collections.abc import Iterator

import click

from poolproxy.auth.hba import Visit
from poolproxy.cli.explain import explain, is_address
from poolproxy.cli.loading import load_or_exit
from poolproxy.settings.addresses import Address
from poolproxy.settings.capacity import worst_case
from poolproxy.settings.files import LoadedConfig
from poolproxy.settings.schema import Settings

EPILOG = """\b
Examples:
  poolproxy check poolproxy.toml
  poolproxy check --auth ann shop --from 10.1.2.3 poolproxy.toml
"""


@click.command(epilog=EPILOG)
@click.argument("path", metavar="CONFIG")
@click.option(
    "--auth",
    nargs=2,
    metavar="USER DATABASE",
    help="Tell how this user would log in to this database: which rule decides, which secrets are used "
    "on either side, and whether that can work. The exit status is 1 if it can't.",
)
@click.option(
    "--from",
    "address",
    default="",
    metavar="ADDRESS",
    help="With --auth: the client's IP address; without it the client is at the Unix socket.",
)
@click.option("--tls", is_flag=True, help="With --auth: the client uses TLS.")
def check(path: str, auth: tuple[str, str] | None, address: str, tls: bool) -> None:
    """Find the mistakes in CONFIG, a TOML file or a pgbouncer.ini.

    Nothing is started. Every mistake, also of the auth_file, goes to stderr with its file and
    line, and the exit status is 1. Without a mistake it prints what would be run, and how many
    server connections that can open at most: to hold against PostgreSQL's max_connections.
    """
    if address and not is_address(address):
        raise click.BadParameter("is no IP address", param_hint="--from")
    if (address or tls) and auth is None:
        raise click.UsageError("--from and --tls go with --auth")
    loaded = load_or_exit(path)
    if auth is not None:
        user, database = auth
        found = explain(loaded, Visit(database, user, address, tls=tls))
        click.echo("\n".join(found.lines))
        raise click.exceptions.Exit(0 if found.works else 1)
    click.echo("\n".join(_summary(loaded)))


def _summary(loaded: LoadedConfig) -> Iterator[str]:
    settings = loaded.config.settings
    yield f"{loaded.path}: no mistakes"
    for note in loaded.notes:
        yield f"note: {note}"
    yield f"listens on {', '.join(_listeners(settings)) or 'nothing'}"
    yield f"workers: {settings.workers or 'one for each core'}"
    yield f"databases: {', '.join(sorted(loaded.config.databases)) or 'none'}"
    yield f"users: {len({*loaded.config.users, *loaded.secrets})}"
    yield f"client connections: at most {settings.max_client_conn}"
    yield str(worst_case(loaded.config, loaded.secrets))


def _listeners(settings: Settings) -> Iterator[str]:
    for host in settings.listen_addr:
        yield str(Address(host, settings.listen_port))
    if settings.unix_socket_dir:
        yield f"{settings.unix_socket_dir}/.s.PGSQL.{settings.listen_port}"
