"""SHOW DNS_HOSTS, and SHOW HOSTS, which PgBouncer has not."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from poolproxy.admin.column import Row, Type, column, columns_of, values_of
from poolproxy.admin.command import Show
from poolproxy.admin.view import View


@attrs.frozen
class Name:
    """One host name."""

    hostname: str = column(Type.TEXT, "The name, as the configuration has it.")
    ttl: int = column(Type.BIGINT, "Seconds until it is looked up again.")
    addrs: str = column(Type.TEXT, "Its addresses, with commas.")


@attrs.frozen
class Host:
    """One host of a database that has several, or that has target_session_attrs."""

    host: str = column(Type.TEXT, "Its name or address.")
    port: int = column(Type.INT, "Its port.")
    role: str | None = column(
        Type.TEXT, "What it was last: primary, read-only or standby; NULL if not known."
    )
    failures: int = column(Type.INT, "Attempts that have failed since it was last reached.")
    retry_ms: int = column(
        Type.BIGINT, "For how long it is tried after all others, in milliseconds."
    )
    reason: str | None = column(Type.TEXT, "Why it could not be reached; NULL if it could.")


def _names(view: View) -> Iterator[Row]:
    for name in view.names:
        addresses = ",".join(name.addresses)
        yield values_of(Name(hostname=name.name, ttl=int(name.ttl), addrs=addresses))


def _hosts(view: View) -> Iterator[Row]:
    for known in view.hosts:
        yield values_of(
            Host(
                host=known.host.name,
                port=known.host.port,
                role=known.role or None,
                failures=known.failures,
                retry_ms=round(1000 * known.retry_in),
                reason=known.reason or None,
            )
        )


DNS_HOSTS = Show(
    "DNS_HOSTS", columns_of(Name), "Host names of servers, and what they stand for.", _names
)
HOSTS = Show("HOSTS", columns_of(Host), "What is known of databases' hosts.", _hosts)
