"""SCRAM-SHA-256 in the client's place: we prove to PostgreSQL that we know the password.

    client-first  <--first---
    server-first  --read_first-->   KeyRequest, or nothing where the keys are known
    client-final  <--final---
    server-final  --verify-->       the server knows the password (or a verifier) too

The server is not trusted before ``verify``: whatever it sends is bounded and checked.
"""

from __future__ import annotations

import base64

from poolproxy.auth.scram import (
    BINDING,
    MAX_NONCE_CHARS,
    KeyRequest,
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
from poolproxy.auth.secrets import MAX_ITERATIONS, MAX_SALT_BYTES, decode_base64, same

# No authorization identity, and no channel binding: we can't, or the server has not offered it.
_UNABLE, _NOT_OFFERED, _BOUND = "n,,", "y,,", f"p={BINDING},,"


class ScramClient:
    """One exchange; the methods are called in the order of the picture above, each once.

    ``credential`` is the password or, for pass-through, the keys that a client's own login showed;
    these fit only if the server has the same secret (salt and iterations included). ``nonce`` is
    our half: random, printable, no comma. ``end_point``: the data of tls-server-end-point, None where
    there is none; ``plus``: the server has offered the mechanism that is bound to it. Reading methods
    raise :class:`ScramError`.
    """

    def __init__(
        self,
        credential: str | ScramKeys,
        nonce: str,
        end_point: bytes | None = None,
        *,
        plus: bool = False,
    ) -> None:
        if not is_nonce(nonce):
            raise ValueError("a SCRAM nonce must be printable ASCII without a comma")
        self._credential = credential
        self._own_nonce = nonce
        # A server that did offer it sees from "y" that somebody has taken the offer away.
        unbound = _UNABLE if end_point is None else _NOT_OFFERED
        self._header = _BOUND if plus else unbound
        self._binding = self._header.encode("ascii") + ((end_point or b"") if plus else b"")
        # PostgreSQL takes the name from the start-up packet and ignores this one. libpq leaves it
        # empty, which the RFC forbids; the JDBC driver sends an asterisk too.
        self._first_bare = f"n=*,r={nonce}"
        self._nonce = ""
        self._server_first = ""
        self._expected_signature = b""

    def first(self) -> bytes:
        """The body of client-first."""
        return message_bytes(f"{self._header}{self._first_bare}")

    def read_first(self, payload: bytes) -> KeyRequest | None:
        """Take server-first; the request's result goes to :meth:`final` as ``keys_from(it)``."""
        self._server_first = read_message(payload)
        nonce, salt_text, iterations_text, *_extensions = read_attributes(self._server_first, "rsi")
        self._nonce = self._checked_nonce(nonce)
        salt, iterations = _salt(salt_text), _iterations(iterations_text)
        if isinstance(self._credential, ScramKeys):
            return None
        return KeyRequest(self._credential, salt, iterations)

    def final(self, derived: ScramKeys | None = None) -> bytes:
        """The body of client-final; ``derived`` are the keys that :meth:`read_first` asked for."""
        keys = derived if derived is not None else self._credential
        assert isinstance(keys, ScramKeys), "final without the keys"
        binding = base64.b64encode(self._binding).decode("ascii")
        without_proof = f"c={binding},r={self._nonce}"
        transcript = message_bytes(f"{self._first_bare},{self._server_first},{without_proof}")
        proof = xor(keys.client_key, hmac_sha256(stored_key(keys.client_key), transcript))
        self._expected_signature = hmac_sha256(keys.server_key, transcript)
        return message_bytes(f"{without_proof},p=") + base64.b64encode(proof)

    def verify(self, payload: bytes) -> None:
        """Take server-final; raise WrongProofError if the server doesn't know the secret."""
        message = read_message(payload)
        if message.startswith("e="):
            raise ScramError("the server reports a SCRAM error")
        try:
            signature = decode_base64(read_attributes(message, "v")[0])
        except ValueError:
            raise ScramError("the server's SCRAM signature is not base64") from None
        if not self._expected_signature or not same(signature, self._expected_signature):
            raise WrongProofError("the server's SCRAM signature is wrong")

    def _checked_nonce(self, nonce: str) -> str:
        """The whole nonce, if the server has kept ours and added its own.

        A server that adds nothing is refused too: it could replay an exchange.
        """
        if not nonce.startswith(self._own_nonce) or nonce == self._own_nonce:
            raise ScramError("the server's SCRAM nonce does not extend ours")
        if not is_nonce(nonce) or len(nonce) > MAX_NONCE_CHARS:
            raise ScramError("the server's SCRAM nonce is too long or not printable")
        return nonce


def _salt(text: str) -> bytes:
    try:
        salt = decode_base64(text)
    except ValueError:
        raise ScramError("the server's SCRAM salt is empty or not base64") from None
    if len(salt) > MAX_SALT_BYTES:
        raise ScramError(f"the server's SCRAM salt has more than {MAX_SALT_BYTES} bytes")
    return salt


def _iterations(text: str) -> int:
    # Few rounds are accepted: PostgreSQL's scram_iterations may be set to 1, on purpose.
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_ITERATIONS))):
        raise ScramError("the server's SCRAM iteration count is not a number in bounds")
    if not 1 <= int(text) <= MAX_ITERATIONS:
        raise ScramError(f"the server's SCRAM iteration count is not 1 to {MAX_ITERATIONS}")
    return int(text)
