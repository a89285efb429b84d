"""Asking PAM or an LDAP directory whether a password is right.

Both libraries are optional and block, so each question has a thread. A client that can't wait any longer
(client_login_timeout) leaves its thread behind; the thread keeps its place among the few there may be
until it has its answer. So a service that hangs costs :data:`AT_ONCE` threads, and no more log-ins by it.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import trio

from poolproxy.auth.ldap import LdapOptions
from poolproxy.settings.access import Way

log = logging.getLogger(__name__)

AT_ONCE = 16  # questions of one worker to each service
PATIENCE = 10  # seconds that a directory may take for one answer; whole ones, for ldap3
_limits = {name: trio.CapacityLimiter(AT_ONCE) for name in ("pam", "ldap")}

# Result codes of RFC 4511 by which a directory says no, and not that it can't tell.
_NO = frozenset({19, 32, 34, 48, 49, 50, 53})


class Unanswered(Exception):
    """The service could not be asked; the text is for the log."""


async def consult(way: Way, user: str, password: str) -> bool | None:
    """What the service of ``way`` says; None, with the reason in the log, if it says nothing."""
    if way.ldap is not None:
        question = partial(ask_directory, way.ldap, way.ldap_authorities, user, password)
    else:
        question = partial(ask_pam, way.pam_service, user, password)
    try:
        return await trio.to_thread.run_sync(
            question, abandon_on_cancel=True, limiter=_limits[way.method]
        )
    except Unanswered as error:
        log.warning('%s can\'t say whether "%s" may log in: %s', way.method.upper(), user, error)
        return None


def ask_pam(service: str, user: str, password: str) -> bool:
    """Authentication and account management, as PgBouncer does. Raises Unanswered; blocks."""
    from pam import PamAuthenticator

    pam = PamAuthenticator()
    # As bytes; and read so that no text of a module can be malformed.
    words = (text.encode("utf-8", "surrogateescape") for text in (user, password, service))
    agrees = bool(pam.authenticate(*words, encoding="latin-1", resetcreds=False))
    if pam.code in _PAM_UNABLE:
        raise Unanswered(f'service "{service}": {pam.reason}')
    return agrees


# PAM_OPEN_ERR, SYMBOL, SERVICE, SYSTEM, BUF, AUTHINFO_UNAVAIL, ABORT, MODULE_UNKNOWN: nobody has judged.
_PAM_UNABLE = frozenset({1, 2, 3, 4, 5, 9, 26, 28})


def ask_directory(options: LdapOptions, authorities: str, user: str, password: str) -> bool:
    """Whether the directory lets the user's entry in with this password. Raises Unanswered; blocks.

    ``authorities``: PEM of those that vouch for the directory; "" leaves that to the system.
    """
    with _connection(options, authorities) as connection:
        dn: str | None = options.dn(user)
        if options.base is not None:
            dn = _entry(connection, options, user)
        return dn is not None and _lets_in(connection, dn, password)


@contextmanager
def _connection(options: LdapOptions, authorities: str) -> Iterator[Any]:
    """A connection of ldap3 to the first server that takes one."""
    from ldap3.core.exceptions import LDAPException

    failures = []
    for host in options.servers:
        try:
            connection = _connect(options, host, authorities)
        except (LDAPException, OSError) as error:
            failures.append(f"{host}:{options.port}: {error}")
            continue
        try:
            yield connection
            return
        except (LDAPException, OSError) as error:
            raise Unanswered(f"{host}:{options.port}: {error}") from error
        finally:
            _end(connection)
    raise Unanswered("; ".join(failures))


def _connect(options: LdapOptions, host: str, authorities: str) -> Any:
    import ldap3

    tls = ldap3.Tls(validate=ssl.CERT_REQUIRED, ca_certs_data=authorities or None, sni=host)
    encrypted = options.scheme == "ldaps"
    server = ldap3.Server(
        host,
        options.port,
        use_ssl=encrypted,
        tls=tls,
        get_info=ldap3.NONE,
        connect_timeout=PATIENCE,
    )
    connection = ldap3.Connection(
        server,
        receive_timeout=PATIENCE,
        auto_referrals=False,  # nobody may send the password elsewhere
        check_names=False,
        read_only=True,
    )
    try:
        connection.open(read_server_info=False)
        if options.starttls and not connection.start_tls(read_server_info=False):
            raise Unanswered(f"{host}:{options.port}: no StartTLS: {connection.result}")
    except BaseException:
        _end(connection)
        raise
    return connection


def _end(connection: Any) -> None:
    from ldap3.core.exceptions import LDAPException

    try:
        connection.unbind()
    except (LDAPException, OSError):
        pass
    if connection.socket is not None:  # one that failed while it was opened is left open by ldap3
        connection.socket.close()


def _entry(connection: Any, options: LdapOptions, user: str) -> str | None:
    """The DN of the user's only entry."""
    import ldap3

    if options.bind_dn and not _lets_in(connection, options.bind_dn, options.bind_password):
        raise Unanswered(f"ldapbinddn may not log in: {connection.result['description']}")
    scope = {"base": ldap3.BASE, "one": ldap3.LEVEL, "sub": ldap3.SUBTREE}[options.scope]
    connection.search(
        options.base, options.search(user), scope, attributes=[ldap3.NO_ATTRIBUTES], size_limit=2
    )
    found = [entry["dn"] for entry in connection.response if entry["type"] == "searchResEntry"]
    if len(found) > 1:
        raise Unanswered(f'more than one entry is for "{user}"')
    if not found and connection.result["result"] not in (0, 32):
        raise Unanswered(f"the search failed: {connection.result['description']}")
    return found[0] if found else None


def _lets_in(connection: Any, dn: str, password: str) -> bool:
    import ldap3

    if connection.rebind(dn, password, ldap3.SIMPLE, read_server_info=False):
        return True
    if connection.result["result"] not in _NO:
        raise Unanswered(f"the log-in failed: {connection.result['description']}")
    return False
