"""The server that the demo's pooler stands in front of."""

from __future__ import annotations

from urllib.parse import parse_qs, unquote, urlsplit

import attrs

from poolproxy.demo import sample
from poolproxy.demo.postgres import PostgresServer


class BadURL(ValueError):
    """The URL of ``--backend`` can't be used; the text says why."""


@attrs.frozen
class Backend:
    """A server, and the one database and user of it that the demo offers."""

    host: str
    port: int
    user: str
    password: str
    database: str


def parse_backend(url: str) -> Backend:
    """Read ``postgresql://USER:PASSWORD@HOST:PORT/DATABASE``; a socket folder may stand in ``?host=``.

    Raises BadURL.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or 5432
    except ValueError as error:
        raise BadURL(f"--backend: {error}") from error
    if parts.scheme not in ("postgresql", "postgres"):
        raise BadURL("--backend must begin with postgresql://")
    if not parts.username:
        raise BadURL("--backend must name the user: postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
    user = unquote(parts.username)
    query = parse_qs(parts.query)
    return Backend(
        host=query.get("host", [unquote(parts.hostname or "127.0.0.1")])[0],
        port=port,
        user=user,
        password=unquote(parts.password or ""),
        database=unquote(parts.path.lstrip("/")) or user,
    )


def sample_backend(server: PostgresServer) -> Backend:
    """Create the sample role, database and tables in a fresh server."""
    server.psql(sample.CREATE_DATABASE)
    server.psql(sample.FILL_DATABASE, database=sample.DATABASE)
    return Backend(server.host, server.port, sample.USER, sample.PASSWORD, sample.DATABASE)
