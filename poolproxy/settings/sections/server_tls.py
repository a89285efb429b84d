"""TLS of servers."""

# ruff: noqa: RUF009 - setting() makes an attrs field, which ruff cannot see

from __future__ import annotations

import attrs

from poolproxy.settings.enums import Negotiation, Reload, SslMode
from poolproxy.settings.field import setting
from poolproxy.settings.tls import CIPHERS, PROTOCOLS, SECURE, TlsVersion
from poolproxy.settings.values import TEXT, choice


@attrs.frozen(kw_only=True, slots=False)
class ServerTls:
    """TLS of servers."""

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
