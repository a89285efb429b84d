"""What authentication may know of a TLS session: who the peer is, and what binds a channel to it.

``tls-server-end-point`` (RFC 5929, section 4.1) is the hash of the server's certificate, by the hash
function of the certificate's own signature, but SHA-256 in the place of MD5 and SHA-1. Reading the
signature's algorithm takes a walk over three DER headers, so no library for certificates is needed.
"""

from __future__ import annotations

import hashlib

import attrs

# Signature algorithms by the DER of their object identifiers: RFC 8017, RFC 5758, RFC 3279.
# RSASSA-PSS says its hash in parameters, and Ed25519 and Ed448 have none: no channel binding with those.
_PKCS1 = bytes.fromhex("2a864886f70d0101")
_ECDSA_SHA2 = bytes.fromhex("2a8648ce3d0403")
_HASHES = {
    _PKCS1 + b"\x04": "sha256",  # MD5
    _PKCS1 + b"\x05": "sha256",  # SHA-1
    _PKCS1 + b"\x0e": "sha224",
    _PKCS1 + b"\x0b": "sha256",
    _PKCS1 + b"\x0c": "sha384",
    _PKCS1 + b"\x0d": "sha512",
    bytes.fromhex("2a8648ce3d0401"): "sha256",  # ECDSA with SHA-1
    _ECDSA_SHA2 + b"\x01": "sha224",
    _ECDSA_SHA2 + b"\x02": "sha256",
    _ECDSA_SHA2 + b"\x03": "sha384",
    _ECDSA_SHA2 + b"\x04": "sha512",
}
_SEQUENCE, _OBJECT_IDENTIFIER = 0x30, 0x06


@attrs.frozen
class TlsInfo:
    """One TLS session.

    ``version`` and ``cipher`` are OpenSSL's names ("TLSv1.3", "TLS_AES_256_GCM_SHA384").
    ``peer_certificate``: DER, None if the peer has sent none; one that is here has been verified
    against our CA if this is a client's. ``peer_common_name``: its subject's CN, "" if there is none
    or it was not verified. ``peer_subject``: the whole subject as RFC 4514 writes it.
    ``server_end_point``: the channel-binding data of ``tls-server-end-point``, None where the
    server's certificate has no hash function.
    """

    version: str
    cipher: str
    peer_certificate: bytes | None = None
    peer_common_name: str = ""
    peer_subject: str = ""
    server_end_point: bytes | None = None

    def __str__(self) -> str:
        """For the log, as PgBouncer writes it."""
        return f"{self.version}/{self.cipher}"


def server_end_point(certificate: bytes) -> bytes | None:
    """The channel-binding data for a server's certificate in DER; None where there is none."""
    try:
        algorithm = _signature_algorithm(certificate)
    except (IndexError, ValueError):
        return None
    name = _HASHES.get(algorithm)
    return hashlib.new(name, certificate).digest() if name is not None else None


def _signature_algorithm(certificate: bytes) -> bytes:
    # Certificate ::= SEQUENCE { tbsCertificate SEQUENCE, signatureAlgorithm SEQUENCE { OID, ... }, ... }
    start, _ = _element(certificate, 0, _SEQUENCE)
    _, end = _element(certificate, start, _SEQUENCE)
    start, _ = _element(certificate, end, _SEQUENCE)
    start, end = _element(certificate, start, _OBJECT_IDENTIFIER)
    return certificate[start:end]


def _element(data: bytes, position: int, tag: int) -> tuple[int, int]:
    """Where the content of the DER element at ``position`` begins and ends; IndexError, ValueError."""
    if data[position] != tag:
        raise ValueError("another tag")
    length = data[position + 1]
    start = position + 2
    if length & 0x80:
        count = length & 0x7F
        length = int.from_bytes(data[start : start + count], "big")
        start += count
    if start + length > len(data):
        raise ValueError("cut off")
    return start, start + length


Subject = tuple[tuple[tuple[str, str], ...], ...]
_SHORT = {
    "commonName": "CN",
    "countryName": "C",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "streetAddress": "STREET",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "domainComponent": "DC",
    "userId": "UID",
}


def common_name(subject: Subject) -> str:
    """The CN of a subject in the form of ``ssl``; "" if there is none, or more than one.

    Of two names it is a matter of taste which one counts, and of tastes attacks are made.
    """
    names = [value for names in subject for key, value in names if key == "commonName"]
    return names[0] if len(names) == 1 and "\0" not in names[0] else ""


def distinguished_name(subject: Subject) -> str:
    """The subject as RFC 4514 writes it, most specific name first."""
    return ",".join(
        "+".join(f"{_SHORT.get(key, key)}={_escaped(value)}" for key, value in names)
        for names in reversed(subject)
    )


def _escaped(value: str) -> str:
    text = "".join("\\" + c if c in ',+"\\<>;' else "\\00" if c == "\0" else c for c in value)
    if text.startswith((" ", "#")):
        text = "\\" + text
    return text[:-1] + "\\ " if text.endswith(" ") and len(value) > 1 else text
