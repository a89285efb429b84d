"""TLS of clients."""

# ruff: noqa: RUF009 - setting() makes an attrs field, which ruff cannot see

from __future__ import annotations

import attrs

from poolproxy.settings.enums import Reload, SslMode
from poolproxy.settings.field import setting
from poolproxy.settings.tls import CIPHERS, CURVE, PROTOCOLS, SECURE, TlsVersion
from poolproxy.settings.values import TEXT, choice


@attrs.frozen(kw_only=True, slots=False)
class ClientTls:
    """TLS of clients."""

    client_tls_sslmode: SslMode = setting(
        SslMode.DISABLE,
        section="TLS of clients",
        parse=choice(SslMode),
        reload=Reload.NEW,
        doc="How much TLS is asked of clients over TCP. disable: none is offered; allow and "
        "prefer: as the client wishes; require: who comes without is refused; verify-ca and "
        "verify-full: so is who has no certificate of client_tls_ca_file. Any but disable "
        "needs client_tls_key_file and client_tls_cert_file.",
    )
    client_tls_key_file: str = setting(
        "",
        parse=TEXT,
        reload=Reload.NEW,
        doc="Private key, PEM, without a passphrase. A relative name starts at the folder of this "
        "configuration, as those of the other files.",
    )
    client_tls_cert_file: str = setting(
        "",
        parse=TEXT,
        reload=Reload.NEW,
        doc="Our certificate, PEM, with those between it and the root behind it.",
    )
    client_tls_ca_file: str = setting(
        "",
        parse=TEXT,
        reload=Reload.NEW,
        doc="Certificates by which those of clients are judged. In the modes below verify-ca a "
        "client may still come without one; a bad one is refused.",
    )
    client_tls_crl_file: str = setting(
        "",
        parse=TEXT,
        reload=Reload.NEW,
        doc="Lists of revoked certificates, PEM: one of each authority in client_tls_ca_file. A client whose "
        "certificate is in it is refused; so is everyone when a list has expired. Not in PgBouncer.",
    )
    client_tls_protocols: tuple[TlsVersion, ...] = setting(
        SECURE,
        parse=PROTOCOLS,
        reload=Reload.NEW,
        doc='Versions of TLS, without a gap; "secure" (or "default") is 1.2 and 1.3, "all" begins '
        "at 1.0.",
    )
    client_tls_ciphers: str = setting(
        "default",
        parse=CIPHERS,
        reload=Reload.NEW,
        doc='Ciphers up to TLS 1.2, in OpenSSL\'s notation; "default" (or "secure") leaves them to '
        'Python, "fast", "normal" and "all" are PgBouncer\'s.',
    )
    client_tls13_ciphers: str = setting(
        "",
        parse=TEXT,
        reload=Reload.NEW,
        doc="Cipher suites of TLS 1.3 by their names, with colons between them, the best first; "
        '"" leaves them to OpenSSL.',
    )
    client_tls_ecdhcurve: str = setting(
        "auto",
        parse=CURVE,
        reload=Reload.NEW,
        doc='Curve for the key exchange; "auto" leaves it to OpenSSL.',
    )
