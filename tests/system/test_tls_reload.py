"""Certificates and lists of revoked ones that change while clients are served over TLS."""

from __future__ import annotations

import os
import ssl
import subprocess
from signal import SIGHUP

import psycopg
import pytest

from poolproxy.demo.postgres import PostgresServer
from tests.fixtures.proxy import HOST, ProxyProcess, StartProxy
from tests.fixtures.tls import Certificates, Pem
from tests.system.protocol_client import (
    RawClient,
)
from tests.system.support import eventually
from tests.system.tls_support import client, connect, libpq, settings

pytestmark = pytest.mark.needs_system_postgres


def test_a_revoked_client(
    start_proxy: StartProxy, tls_postgres: PostgresServer, certificates: Certificates
) -> None:
    """client_tls_crl_file is obeyed from the reload on; a broken list changes nothing."""
    pem = certificates.issue("proxy", HOST)
    joe, eve = (certificates.issue(f"crl-{name}", common_name=name) for name in ("joe", "eve"))
    revoked = certificates.folder / "clients.crl"
    revoked.write_bytes(certificates.revocation_list())
    tables_ = settings(tls_postgres, pem, certificates, client_tls_crl_file=str(revoked))
    proxy = start_proxy(tables_)

    def gets_in(who: Pem) -> str:
        known = {"sslcert": str(who.cert), "sslkey": str(who.key)}
        try:
            libpq(proxy, certificates, sslmode="require", **known).close()
        except psycopg.OperationalError as error:
            return str(error)
        return "yes"

    assert (gets_in(joe), gets_in(eve)) == ("yes", "yes")
    revoked.write_bytes(certificates.revocation_list(eve))
    proxy.signal(SIGHUP)
    eventually(lambda: "certificate revoked" in gets_in(eve), "the revoked one is refused")
    assert gets_in(joe) == "yes"
    revoked.write_text("nothing")
    proxy.signal(SIGHUP)
    eventually(lambda: "has no revocation list in PEM format" in proxy.log, "the mistake is told")
    assert "certificate revoked" in gets_in(eve)
    revoked.write_bytes(certificates.revocation_list(expired=True))
    proxy.signal(SIGHUP)
    eventually(lambda: gets_in(joe) != "yes", "a list that has expired vouches for nobody")
    eventually(lambda: "CRL has expired" in proxy.log, "the reason is logged")


def test_a_reload_brings_a_new_certificate(
    start_proxy: StartProxy, tls_postgres: PostgresServer, certificates: Certificates
) -> None:
    """New connections get it, those that are open go on, and a bad one changes nothing."""
    old = certificates.issue("reloaded", HOST)
    context = certificates.context()
    proxy = start_proxy(settings(tls_postgres, old, certificates))
    with client(proxy, context, "transaction") as first:
        certificates.issue("reloaded", HOST)
        proxy.signal(SIGHUP)
        eventually(lambda: _serial(proxy, context) != _serial_of(first), "the new one is used")
        backend = first.backend()
        good = old.key.read_bytes()
        old.key.write_bytes(certificates.issue("unrelated", HOST).key.read_bytes())
        proxy.signal(SIGHUP)
        mismatch = "the key does not belong to the certificate in client_tls_cert_file"
        eventually(lambda: mismatch in proxy.log, "the mistake is told")
        new = _serial(proxy, context)
        old.key.write_bytes(good)
        assert new != _serial_of(first)
        assert first.backend() == backend  # unchanged server settings leave the servers alone


def test_reloads_under_load(
    start_proxy: StartProxy, tls_postgres: PostgresServer, certificates: Certificates
) -> None:
    """New certificates while clients log in and work, and none of them notices."""
    pem = certificates.issue("changing", HOST)
    proxy = start_proxy(settings(tls_postgres, pem, certificates, server_tls_sslmode="require"))
    first = _serial(proxy, certificates.context())
    bench = [str(tls_postgres.binaries.tool("pgbench")), "-n", "-c4", "-j4"]
    script = certificates.folder / "one.sql"
    script.write_text("select 1;\n")
    bench += ["-f", str(script), "-h", HOST, "-p", str(proxy.port), "-U", "postgres", "transaction"]
    environment = {**os.environ, "PGSSLMODE": "verify-full", "PGSSLROOTCERT": str(certificates.ca)}
    running = [
        subprocess.Popen(
            [*bench, *more], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for more in (["-t300"], ["-t30", "-C"])
    ]
    reloads = 0
    while any(one.poll() is None for one in running):
        certificates.issue("changing", HOST)
        proxy.signal(SIGHUP)
        reloads += 1
        eventually(lambda: proxy.log.count("reloaded") >= reloads, "a reload")  # noqa: B023
    for one, number in zip(running, (1200, 120), strict=True):
        assert one.stdout is not None
        output = one.stdout.read().decode()
        one.stdout.close()
        assert f"number of transactions actually processed: {number}/{number}" in output, output
    assert reloads >= 2
    assert _serial(proxy, certificates.context()) != first


def _serial(proxy: ProxyProcess, context: ssl.SSLContext) -> str:
    with connect(proxy, context) as one:
        return _serial_of(one)


def _serial_of(one: RawClient) -> str:
    assert isinstance(one.sock, ssl.SSLSocket)
    certificate = one.sock.getpeercert()
    assert certificate
    return str(certificate["serialNumber"])
