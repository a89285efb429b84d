"""SCRAM-SHA-256 in the server's place: a client proves to us that it knows its password.

    client-first  --read_first-->   (the caller finds or derives the secret)
    server-first  <--challenge---
    client-final  --read_final-->   server-final, keys

What PostgreSQL does beyond the RFC is kept: the user name in client-first is ignored (the start-up
packet has it), an authorization identity is refused. With SCRAM-SHA-256-PLUS the client's proof covers
the certificate that it has seen, so nobody can stand between (RFC 5802, section 6).
"""

from __future__ import annotations

import base64

import attrs

from poolproxy.auth.scram import (
    BINDING,
    MAX_NONCE_CHARS,
    ScramError,
    ScramKeys,
    WrongProofError,
    hmac_sha256,
    is_nonce,
    message_bytes,
    read_attributes,
    read_message,
    stored_key,
    xor,
)
from poolproxy.auth.secrets import KEY_BYTES, ScramSecret, decode_base64, same


@attrs.frozen
class Proven:
    """The client knows the password. ``final`` is server-final, our proof to the client."""

    final: bytes
    keys: ScramKeys


class ScramServer:
    """One exchange; the methods are called in the order of the picture above, each once.

    ``nonce`` is our half: random, printable, no comma. ``end_point``: the channel-binding data, if the
    mechanism with binding was offered. All methods raise :class:`ScramError`.
    """

    def __init__(self, nonce: str, end_point: bytes | None = None) -> None:
        if not is_nonce(nonce):
            raise ValueError("a SCRAM nonce must be printable ASCII without a comma")
        self._own_nonce = nonce
        self._end_point = end_point
        self._binding = b""
        self._nonce = ""
        self._gs2_header = ""
        self._first_bare = ""
        self._first = ""
        self._secret: ScramSecret | None = None

    def read_first(self, payload: bytes, *, plus: bool = False) -> None:
        """Take the body of client-first; ``plus``: the client has chosen the mechanism with binding."""
        message = read_message(payload)
        self._gs2_header = _gs2_header(message, offered=self._end_point is not None, plus=plus)
        self._binding = self._gs2_header.encode("ascii")
        if plus:
            assert self._end_point is not None, "the mechanism was not offered"
            self._binding += self._end_point
        self._first_bare = message[len(self._gs2_header) :]
        if self._first_bare.startswith("m="):
            raise ScramError("the client requires a SCRAM extension, and there are none")
        client_nonce = read_attributes(self._first_bare, "nr")[1]
        if not is_nonce(client_nonce) or len(client_nonce) > MAX_NONCE_CHARS:
            raise ScramError("the client's SCRAM nonce is empty, too long or not printable")
        self._nonce = client_nonce + self._own_nonce

    def challenge(self, secret: ScramSecret) -> bytes:
        """The body of server-first."""
        self._secret = secret
        salt = base64.b64encode(secret.salt).decode("ascii")
        self._first = f"r={self._nonce},s={salt},i={secret.iterations}"
        return message_bytes(self._first)

    def read_final(self, payload: bytes) -> Proven:
        """Take the body of client-final; raise WrongProofError if the password is wrong."""
        assert self._secret is not None, "read_final before challenge"
        message = read_message(payload)
        without_proof, separator, proof = message.rpartition(",p=")
        if not separator:
            raise ScramError('a SCRAM message lacks the attribute "p"')
        binding, nonce, *_extensions = read_attributes(without_proof, "cr")
        if not same(message_bytes(binding), base64.b64encode(self._binding)):
            raise ScramError("the SCRAM channel binding is not the one that was announced")
        if not same(message_bytes(nonce), message_bytes(self._nonce)):
            raise ScramError("the SCRAM nonce is not the one of this exchange")
        transcript = message_bytes(f"{self._first_bare},{self._first},{without_proof}")
        return _verify(self._secret, _proof(proof), transcript)


def _gs2_header(message: str, *, offered: bool, plus: bool) -> str:
    """The part of client-first before its attributes: channel-binding flag and identity."""
    flag, _, rest = message.partition(",")
    if flag.startswith("p=") is not plus:
        raise ScramError("the SCRAM channel-binding flag does not fit the mechanism")
    if plus and flag != f"p={BINDING}":
        raise ScramError(f"the only SCRAM channel binding is {BINDING}")
    if flag == "y" and offered:
        # The client believes that we have no binding: somebody has taken it out of our offer.
        raise ScramError("channel binding was offered, and the client was told otherwise")
    if not plus and flag not in ("n", "y"):
        raise ScramError("the SCRAM channel-binding flag is neither n, y nor p")
    if rest.startswith("a="):
        raise ScramError("the client uses an authorization identity, which is not supported")
    if not rest.startswith(","):
        raise ScramError("the SCRAM header has an unexpected attribute")
    return f"{flag},,"


def _proof(text: str) -> bytes:
    try:
        proof = decode_base64(text)
    except ValueError:
        raise ScramError("the SCRAM proof is not base64") from None
    if len(proof) != KEY_BYTES:
        raise ScramError(f"the SCRAM proof does not have {KEY_BYTES} bytes")
    return proof


def _verify(secret: ScramSecret, proof: bytes, transcript: bytes) -> Proven:
    client_key = xor(proof, hmac_sha256(secret.stored_key, transcript))
    if not same(stored_key(client_key), secret.stored_key):
        raise WrongProofError("wrong SCRAM proof")
    signature = base64.b64encode(hmac_sha256(secret.server_key, transcript))
    return Proven(b"v=" + signature, ScramKeys(client_key, secret.server_key))
