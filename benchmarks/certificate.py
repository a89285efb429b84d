"""A certificate for 127.0.0.1, which PostgreSQL and the poolers have alike."""

from __future__ import annotations

from pathlib import Path

import attrs
import trustme


@attrs.frozen
class Certificate:
    """In PEM, the certificate with its authority."""

    chain: bytes
    key: bytes

    def write(self, folder: Path) -> tuple[Path, Path]:
        """(certificate, key) as files in ``folder``, which whoever the folder belongs to can read."""
        paths = folder / "tls.pem", folder / "tls.key"
        for path, text in zip(paths, (self.chain, self.key), strict=True):
            path.write_bytes(text)
        return paths


def make(host: str) -> Certificate:
    """One that nobody has seen before."""
    made = trustme.CA().issue_cert(host)
    chain = b"".join(part.bytes() for part in made.cert_chain_pems)
    return Certificate(chain, made.private_key_pem.bytes())
