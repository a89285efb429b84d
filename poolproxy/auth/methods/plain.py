"""auth_type = plain: the client sends its password as it is."""

from __future__ import annotations

from poolproxy.auth.exchange import (
    Accept,
    Ask,
    AuthCode,
    ClientExchange,
    Compute,
    Reject,
    Step,
    method,
    read_password,
    wrong_password,
)
from poolproxy.auth.scram import KeyRequest, keys_from, secret_from
from poolproxy.auth.secrets import (
    Md5Secret,
    PlainSecret,
    ScramSecret,
    md5_secret,
    same,
    text_bytes,
)


@method("plain")
class Plain(ClientExchange):
    """Compare with any kind of secret.

    A SCRAM secret takes a key derivation that unknown users don't get: its time tells that the
    user exists. To spend it on them too would let anybody burn our cores with invented names.
    """

    def _first(self) -> Step:
        return Ask(AuthCode.CLEARTEXT_PASSWORD, b"")

    def _feed(self, payload: bytes) -> Step:
        sent = read_password(payload)
        if isinstance(sent, Reject):
            return sent
        password = sent.decode("utf-8", "surrogateescape")
        secret = self.login.usable_secret()
        if isinstance(secret, ScramSecret):
            return Compute(KeyRequest(password, secret.salt, secret.iterations))
        return Accept() if _matches(password, secret, self.login.user) else wrong_password()

    def _computed(self, salted: bytes) -> Step:
        secret = self.login.secret
        assert isinstance(secret, ScramSecret), "computed without a SCRAM secret"
        found = secret_from(salted, secret.salt, secret.iterations)
        stored_agrees = same(found.stored_key, secret.stored_key)
        server_agrees = same(found.server_key, secret.server_key)
        if stored_agrees and server_agrees:
            return Accept(keys=keys_from(salted))
        return wrong_password()


def _matches(password: str, secret: PlainSecret | Md5Secret | None, user: str) -> bool:
    match secret:
        case PlainSecret(stored):
            return same(text_bytes(password), text_bytes(stored))
        case Md5Secret(stored):
            return same(text_bytes(md5_secret(password, user).hash), text_bytes(stored))
        case None:
            return False
