"""From settings and PEM texts to the contexts of :mod:`ssl`, or to the operator's mistakes.

The texts come from the acceptor, with everything else of a configuration: so all workers have the same
certificates, also one that is started after the files have changed or when we may no longer read
them. OpenSSL wants a certificate's chain and key as files; they are given to it as memfds, and never
written to a disk.
"""

from __future__ import annotations

import os
import ssl
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import attrs

from poolproxy.errors import ConfigError, Mistake
from poolproxy.settings.enums import SslMode
from poolproxy.settings.files import NOTHING, LoadedConfig, Overrides, read_config
from poolproxy.settings.schema import Settings
from poolproxy.settings.tls import CIPHER_SHORTCUTS, TlsVersion
from poolproxy.tls import suites

ALPN = "postgresql"  # https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL

_VERSIONS = {
    TlsVersion.V1_0: ssl.TLSVersion.TLSv1,
    TlsVersion.V1_1: ssl.TLSVersion.TLSv1_1,
    TlsVersion.V1_2: ssl.TLSVersion.TLSv1_2,
    TlsVersion.V1_3: ssl.TLSVersion.TLSv1_3,
}
# Below OpenSSL's first level of security nothing is signed well enough for TLS 1.0 and 1.1.
_OLD = "@SECLEVEL=0"


@attrs.frozen
class Contexts:
    """For clients and for servers; None where TLS is disabled.

    ``certificate``: ours towards clients, DER. ``identity``: what decides how servers are connected to:
    while it is equal, connections made before are as good as new ones.
    """

    client: ssl.SSLContext | None
    server: ssl.SSLContext | None
    certificate: bytes
    identity: tuple[object, ...]


def load(path: str | Path, overrides: Overrides = NOTHING) -> LoadedConfig:
    """Read a configuration with all its files, and prove that TLS can be set up with it.

    Raises ConfigError.
    """
    loaded = read_config(path, overrides)
    settings = loaded.config.settings
    for side in (ClientSide(settings, loaded.files), ServerSide(settings, loaded.files)):
        side.prove()
    contexts(settings, loaded.files)
    return loaded


def contexts(settings: Settings, files: Mapping[str, str]) -> Contexts:
    """The contexts; ``files`` are PEM texts by the setting that names the file. Raises ConfigError."""
    mistakes: list[Mistake] = []
    made: dict[str, ssl.SSLContext | None] = {}
    for side in (ClientSide(settings, files), ServerSide(settings, files)):
        try:
            made[side.name] = side.context() if side.mode.enabled else None
        except ConfigError as error:
            mistakes.extend(error.mistakes)
    if mistakes:
        raise ConfigError(mistakes)
    chain = files.get("client_tls_cert_file", "") if made["client"] is not None else ""
    names = [field.name for field in attrs.fields(Settings) if field.name.startswith("server_tls")]
    identity = (
        *(getattr(settings, name) for name in names),
        *(files.get(name) for name in names if name.endswith("_file")),
    )
    certificate = ssl.PEM_cert_to_DER_cert(_first_certificate(chain)) if chain else b""
    return Contexts(made["client"], made["server"], certificate, identity)


class Side:
    """What the two sides have in common. ``name`` begins the names of the settings."""

    name = ""
    protocol: ssl._SSLMethod

    def __init__(self, settings: Settings, files: Mapping[str, str]) -> None:
        self._settings = settings
        self._files = files
        self.mode: SslMode = self._value("tls_sslmode")

    def context(self) -> ssl.SSLContext:
        """Raises ConfigError."""
        context = ssl.SSLContext(self.protocol)
        context.set_alpn_protocols([ALPN])
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        self._versions(context)
        self._ciphers(context)
        self._certificate(context)
        self._judging(context)
        return context

    def prove(self) -> None:
        """See, in another process, whether what takes proof can be done. Raises ConfigError."""
        if self.mode.enabled and self._value("tls13_ciphers"):
            try:
                suites.prove()
            except suites.NoChoice as error:
                raise self._no_choice(error) from None

    def _no_choice(self, error: suites.NoChoice) -> ConfigError:
        text = f"can't be used: this Python can't choose the suites of TLS 1.3 ({error})"
        return self._mistake("tls13_ciphers", f"{text}; leave it out, or use 3.15 or later")

    def _judging(self, context: ssl.SSLContext) -> None:
        raise NotImplementedError

    def _value(self, name: str) -> Any:
        return getattr(self._settings, f"{self.name}_{name}")

    def _mistake(self, name: str, text: str) -> ConfigError:
        setting = f"{self.name}_{name}"
        file = getattr(self._settings, setting) if name.endswith("_file") else ""
        return ConfigError([Mistake(f"{setting} {file}".rstrip(), text)])

    def _versions(self, context: ssl.SSLContext) -> None:
        versions = self._value("tls_protocols")
        with warnings.catch_warnings():
            # The operator has asked for the old ones by name.
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = _VERSIONS[versions[0]]
            context.maximum_version = _VERSIONS[versions[-1]]

    def _ciphers(self, context: ssl.SSLContext) -> None:
        given = self._value("tls_ciphers")
        ciphers = CIPHER_SHORTCUTS.get(given.lower(), given)
        old = self._value("tls_protocols")[0] in (TlsVersion.V1_0, TlsVersion.V1_1)
        if old and "@SECLEVEL" not in ciphers:
            ciphers = f"{ciphers or 'DEFAULT'}:{_OLD}"
        try:
            if ciphers:
                context.set_ciphers(ciphers)
        except ssl.SSLError:
            text = f'"{given}" names no cipher that OpenSSL has'
            raise self._mistake("tls_ciphers", text) from None
        if given := self._value("tls13_ciphers"):
            self._suites(context, given)

    def _suites(self, context: ssl.SSLContext, given: str) -> None:
        try:
            suites.choose(context, given)
        except suites.NoChoice as error:
            raise self._no_choice(error) from None
        except suites.UnknownSuite as error:
            raise self._mistake(
                "tls13_ciphers", f'"{error}" names no suite of TLS 1.3 that OpenSSL has'
            ) from None

    def _certificate(self, context: ssl.SSLContext) -> None:
        chain, key = (
            self._files.get(f"{self.name}_tls_cert_file"),
            self._files.get(f"{self.name}_tls_key_file"),
        )
        if chain is None or key is None:
            return
        if not _first_certificate(chain):
            raise self._mistake("tls_cert_file", "has no certificate in PEM format")
        if "PRIVATE KEY-----" not in key:
            raise self._mistake("tls_key_file", "has no private key in PEM format")
        if "ENCRYPTED" in key:
            text = "the key has a passphrase, which nobody could enter: remove it (openssl pkey)"
            raise self._mistake("tls_key_file", text)
        try:
            with ExitStack() as stack:
                chain_file, key_file = [stack.enter_context(_as_file(t)) for t in (chain, key)]
                # A passphrase must never be asked for at a terminal.
                context.load_cert_chain(chain_file, key_file, password=b"")
        except ssl.SSLError as error:
            raise self._unusable(error) from None

    def _unusable(self, error: ssl.SSLError) -> ConfigError:
        if error.reason == "KEY_VALUES_MISMATCH":
            text = f"the key does not belong to the certificate in {self.name}_tls_cert_file"
            return self._mistake("tls_key_file", text)
        detail = error.reason or "not understood"
        text = f"OpenSSL does not accept the certificate with its key: {detail.replace('_', ' ').lower()}"
        return self._mistake("tls_cert_file", text)

    def _authorities(self, context: ssl.SSLContext) -> bool:
        """Load the file of those whose certificates we believe in; False if there is none."""
        text = self._files.get(f"{self.name}_tls_ca_file")
        if text is None:
            return False
        try:
            context.load_verify_locations(cadata=text)
        except (ssl.SSLError, ValueError):
            raise self._mistake("tls_ca_file", "has no certificate in PEM format") from None
        self._revoked(context)
        return True

    def _revoked(self, context: ssl.SSLContext) -> None:
        """Load the lists of what these authorities have taken back, if they are given."""
        text = self._files.get(f"{self.name}_tls_crl_file")
        if text is None:
            return
        try:
            if _BEGIN_LIST not in text:
                raise ValueError
            with _as_file(text) as file:  # of texts, ssl takes certificates only
                context.load_verify_locations(file)
        except (ssl.SSLError, ValueError):
            text = "has no revocation list in PEM format"
            raise self._mistake("tls_crl_file", text) from None
        # As libpq and PostgreSQL do: every authority of a chain must have its list.
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN


class ClientSide(Side):
    """Clients connect to us."""

    name = "client"
    protocol = ssl.PROTOCOL_TLS_SERVER

    def _judging(self, context: ssl.SSLContext) -> None:
        # As in PostgreSQL: sessions are not resumed, so there is no use for tickets.
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET | ssl.OP_CIPHER_SERVER_PREFERENCE
        curve = self._value("tls_ecdhcurve")
        if curve != "auto":
            try:
                context.set_ecdh_curve(curve)
            except (ssl.SSLError, ValueError):
                text = f'"{curve}" is no curve that OpenSSL has'
                raise self._mistake("tls_ecdhcurve", text) from None
        if self._authorities(context):
            required = self.mode.verifies
            context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL


class ServerSide(Side):
    """We connect to PostgreSQL."""

    name = "server"
    protocol = ssl.PROTOCOL_TLS_CLIENT

    def _judging(self, context: ssl.SSLContext) -> None:
        given = self._authorities(context)
        context.check_hostname = self.mode is SslMode.VERIFY_FULL
        if not self.mode.verifies:
            context.verify_mode = ssl.CERT_NONE
        elif not given:
            context.load_default_certs()
            self._revoked(context)


_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
_BEGIN_LIST = "-----BEGIN X509 CRL-----"


def _first_certificate(text: str) -> str:
    """Our own certificate, which stands before those of its authorities; "" if there is none."""
    start = text.find(_BEGIN)
    end = text.find(_END, start)
    return text[start : end + len(_END)] if start >= 0 and end >= 0 else ""


@contextmanager
def _as_file(text: str) -> Iterator[str]:
    """The path of a file with this text that is on no disk."""
    fd = os.memfd_create("poolproxy-pem", os.MFD_CLOEXEC)
    try:
        with open(fd, "w", encoding="utf-8", closefd=False) as file:
            file.write(text)
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)
