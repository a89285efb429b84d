"""What is read from certificates: channel-binding data and names."""

from __future__ import annotations

import datetime
import hashlib
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from poolproxy.auth.tls import TlsInfo, common_name, distinguished_name, server_end_point

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
RSA = rsa.generate_private_key(65537, 2048)
CURVE = ec.generate_private_key(ec.SECP256R1())


def certificate(key: Any, algorithm: Any, **more: Any) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "poolproxy")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW)
    return builder.sign(key, algorithm, **more).public_bytes(Encoding.DER)


@pytest.mark.parametrize("key", [RSA, CURVE], ids=["RSA", "ECDSA"])
@pytest.mark.parametrize("algorithm", [SHA256(), SHA384(), SHA512()], ids=lambda a: a.name)
def test_the_end_point_has_the_hash_of_the_signature(key: Any, algorithm: Any) -> None:
    """RFC 5929: the hash function of the certificate's own signature."""
    der = certificate(key, algorithm)
    assert server_end_point(der) == hashlib.new(algorithm.name, der).digest()


def test_a_signature_without_a_hash_has_no_end_point() -> None:
    """Ed25519 hashes within, and RSASSA-PSS says elsewhere how: no channel binding then."""
    assert server_end_point(certificate(ed25519.Ed25519PrivateKey.generate(), None)) is None
    pss = padding.PSS(padding.MGF1(SHA256()), 32)
    assert server_end_point(certificate(RSA, SHA256(), rsa_padding=pss)) is None


@given(st.binary(max_size=80), st.integers(0, 80))
def test_what_is_no_certificate_has_no_end_point(data: bytes, cut: int) -> None:
    """Whatever the bytes are, nothing is raised."""
    assert server_end_point(data) is None
    assert server_end_point(certificate(CURVE, SHA256())[:cut]) is None


def test_the_common_name_is_the_only_one() -> None:
    """Two of them, or one with a zero byte, are an attempt to be somebody else."""
    one = ((("organizationName", "o"),), (("commonName", "joe"),))
    assert common_name(one) == "joe"
    assert common_name((*one, (("commonName", "ann"),))) == ""
    assert common_name(((("commonName", "joe\0.evil"),),)) == ""
    assert common_name(()) == ""


def test_the_distinguished_name_is_rfc_4514() -> None:
    """The most specific part comes first, and what has a meaning there is escaped."""
    subject = (
        (("countryName", "DE"),),
        (("organizationName", 'a, "b" + c;'),),
        (("commonName", " joe "), ("emailAddress", "j@x")),
    )
    text = r"CN=\ joe\ +emailAddress=j@x,O=a\, \"b\" \+ c\;,C=DE"
    assert distinguished_name(subject) == text


def test_words_for_the_log() -> None:
    """Version and cipher, as PgBouncer writes them."""
    assert str(TlsInfo("TLSv1.3", "TLS_AES_256_GCM_SHA384")) == "TLSv1.3/TLS_AES_256_GCM_SHA384"
