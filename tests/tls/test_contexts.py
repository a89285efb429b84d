"""TLS contexts out of settings and PEM texts, and the mistakes that an operator can make."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from poolproxy.auth.tls import server_end_point
from poolproxy.errors import ConfigError
from poolproxy.tls.contexts import Contexts, contexts, load
from tests.fixtures.tls import Certificates
from tests.fixtures.toml import to_toml

HOST = "127.0.0.1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with ca.pem, proxy.pem and proxy.key."""
    Certificates(tmp_path).issue("proxy", HOST)
    return tmp_path


GOOD = {
    "client_tls_sslmode": "require",
    "client_tls_key_file": "proxy.key",
    "client_tls_cert_file": "proxy.pem",
    "client_tls_ca_file": "ca.pem",
}


def write(folder: Path, **settings: object) -> Path:
    path = folder / "poolproxy.toml"
    tables = {
        "poolproxy": {"auth_type": "trust", **GOOD, **settings},
        "databases": {"*": {"host": HOST}},
    }
    path.write_text(to_toml(tables))
    return path


def made(folder: Path, **settings: object) -> Contexts:
    loaded = load(write(folder, **settings))
    return contexts(loaded.config.settings, loaded.files)


def mistake(folder: Path, **settings: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load(write(folder, **settings))
    (one,) = caught.value.mistakes
    return str(one)


def test_files_stand_beside_the_configuration(folder: Path) -> None:
    """Relative names are found there, and their texts are what the contexts are made of."""
    found = made(folder)
    assert found.client is not None
    assert found.client.verify_mode is ssl.CERT_OPTIONAL
    assert server_end_point(found.certificate)


def test_without_tls_no_file_is_read(folder: Path) -> None:
    """A file that is not used may be missing."""
    found = made(
        folder,
        client_tls_sslmode="disable",
        client_tls_key_file="none",
        server_tls_sslmode="disable",
    )
    assert (found.client, found.server, found.certificate) == (None, None, b"")


@pytest.mark.parametrize(
    ("mode", "demand"),
    [
        ("allow", ssl.CERT_OPTIONAL),
        ("prefer", ssl.CERT_OPTIONAL),
        ("require", ssl.CERT_OPTIONAL),
        ("verify-ca", ssl.CERT_REQUIRED),
        ("verify-full", ssl.CERT_REQUIRED),
    ],
)
def test_what_is_asked_of_clients(folder: Path, mode: str, demand: ssl.VerifyMode) -> None:
    """From verify-ca on a certificate is demanded; below, one that is sent must still be good."""
    found = made(folder, client_tls_sslmode=mode)
    assert found.client is not None
    assert found.client.verify_mode is demand


@pytest.mark.parametrize(
    ("mode", "demand", "named"),
    [
        ("prefer", ssl.CERT_NONE, False),
        ("require", ssl.CERT_NONE, False),
        ("verify-ca", ssl.CERT_REQUIRED, False),
        ("verify-full", ssl.CERT_REQUIRED, True),
    ],
)
def test_what_is_asked_of_servers(
    folder: Path, mode: str, demand: ssl.VerifyMode, named: bool
) -> None:
    """Only the two last modes look at the certificate, and only the last one at its name."""
    found = made(folder, server_tls_sslmode=mode)
    assert found.server is not None
    assert (found.server.verify_mode, found.server.check_hostname) == (demand, named)


def test_versions(folder: Path) -> None:
    """The least and the greatest version are those of the list; the old ones must be asked for."""
    usual = made(folder).client
    assert usual is not None
    assert usual.minimum_version is ssl.TLSVersion.TLSv1_2
    one = made(folder, client_tls_protocols="tlsv1.2").client
    assert one is not None
    assert one.maximum_version is ssl.TLSVersion.TLSv1_2
    old = made(folder, client_tls_protocols="all").client
    assert old is not None
    assert old.minimum_version.name == "TLSv1"
    assert old.maximum_version is ssl.TLSVersion.TLSv1_3


def test_ciphers(folder: Path) -> None:
    """OpenSSL's notation is passed on."""
    found = made(folder, client_tls_ciphers="ECDHE-RSA-AES256-GCM-SHA384").client
    assert found is not None
    names = {cipher["name"] for cipher in found.get_ciphers() if cipher["protocol"] != "TLSv1.3"}
    assert names == {"ECDHE-RSA-AES256-GCM-SHA384"}


def test_no_tickets(folder: Path) -> None:
    """Sessions are not resumed, as with PostgreSQL."""
    found = made(folder).client
    assert found is not None
    assert found.num_tickets == 0
    assert found.options & ssl.OP_NO_TICKET


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"client_tls_key_file": "none.key"},
            "client_tls_key_file {}/none.key: can't be read: No such",
        ),
        ({"client_tls_key_file": "proxy.pem"}, "proxy.pem: has no private key in PEM format"),
        ({"client_tls_cert_file": "proxy.key"}, "proxy.key: has no certificate in PEM format"),
        ({"client_tls_ca_file": "proxy.key"}, "proxy.key: has no certificate in PEM format"),
        ({"client_tls_cert_file": "ca.pem"}, "the key does not belong to the certificate"),
        ({"client_tls_ciphers": "NONSENSE"}, '"NONSENSE" names no cipher that OpenSSL has'),
        ({"server_tls_ciphers": "NONSENSE"}, "server_tls_ciphers: "),
        ({"client_tls_ecdhcurve": "round"}, '"round" is no curve that OpenSSL has'),
        ({"client_tls_key_file": ""}, "but client_tls_key_file is not set"),
        (
            {"client_tls_sslmode": "verify-ca", "client_tls_ca_file": ""},
            "but client_tls_ca_file is not",
        ),
        ({"client_tls_crl_file": "none"}, "client_tls_crl_file {}/none: can't be read"),
        ({"client_tls_crl_file": "ca.pem"}, "ca.pem: has no revocation list in PEM format"),
        (
            {"client_tls_crl_file": "crl.pem", "client_tls_ca_file": ""},
            "client_tls_crl_file is of no use without client_tls_ca_file",
        ),
        ({"client_tls_sslmode": "on"}, "client_tls_sslmode must be disable, allow, prefer"),
        (
            {"client_tls_protocols": "tlsv1.1,tlsv1.3"},
            "a version between two others can't be left out",
        ),
        ({"client_tls_protocols": "tlsv1.4"}, 'did you mean "tlsv1.'),
        ({"client_tls_protocols": []}, "client_tls_protocols must be"),
        ({"server_tls_key_file": "proxy.key"}, "of no use without server_tls_cert_file"),
        ({"server_tls_sslnegotiation": "direct"}, "leaves a server no way to refuse TLS"),
    ],
)
def test_a_mistake_names_the_setting(folder: Path, settings: dict[str, object], words: str) -> None:
    """Each of the operator's mistakes is one line that says where and what."""
    assert words.format(folder) in mistake(folder, **settings)


def test_a_passphrase(folder: Path) -> None:
    """Nobody is asked for one: the key is refused, with the cure."""
    key = load_pem_private_key((folder / "proxy.key").read_bytes(), None)
    secret = BestAvailableEncryption(b"sesame")
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret)
    (folder / "proxy.key").write_bytes(text)
    assert "the key has a passphrase, which nobody could enter" in mistake(folder)


def test_broken_pem(folder: Path) -> None:
    """What looks like a certificate and is none is told by OpenSSL's word for it."""
    text = (folder / "proxy.pem").read_text()
    (folder / "proxy.pem").write_text(text.replace("M", "Q", 20))
    assert "client_tls_cert_file" in mistake(folder)


def test_mistakes_of_both_sides_are_told_at_once(folder: Path) -> None:
    """One does not hide the other."""
    path = write(folder, client_tls_ciphers="X", server_tls_ciphers="Y")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert [one.where for one in caught.value.mistakes] == [
        "client_tls_ciphers",
        "server_tls_ciphers",
    ]


def test_identity(folder: Path) -> None:
    """It is equal while nothing differs that concerns servers."""
    plain = made(folder)
    assert made(folder, client_tls_sslmode="prefer").identity == plain.identity
    assert made(folder, server_tls_sslmode="require").identity != plain.identity
    assert made(folder, server_tls_ca_file="ca.pem").identity != plain.identity
