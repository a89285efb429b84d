"""auth_type = md5: MD5 with a salt, or SCRAM where the stored secret allows only that."""

from __future__ import annotations

from poolproxy.auth.exchange import (
    MD5_SALT_BYTES,
    Accept,
    Ask,
    AuthCode,
    ClientExchange,
    Login,
    Reject,
    Step,
    method,
    read_password,
    wrong_password,
)
from poolproxy.auth.methods.scram import Scram
from poolproxy.auth.secrets import Md5Secret, PlainSecret, ScramSecret, md5_answer, md5_secret, same


@method("md5")
def begin(login: Login) -> ClientExchange:
    """As in PostgreSQL and PgBouncer a user with a SCRAM secret gets SCRAM, all others MD5."""
    return Scram(login) if isinstance(login.secret, ScramSecret) else Md5(login)


class Md5(ClientExchange):
    """AuthenticationMD5Password against a plain or MD5 secret."""

    def _first(self) -> Step:
        self._salt = self.login.salt[:MD5_SALT_BYTES]
        return Ask(AuthCode.MD5_PASSWORD, self._salt)

    def _feed(self, payload: bytes) -> Step:
        sent = read_password(payload)
        if isinstance(sent, Reject):
            return sent
        secret = self._md5_secret()
        if secret is not None and same(sent, md5_answer(secret, self._salt)):
            return Accept()
        return wrong_password()

    def _md5_secret(self) -> Md5Secret | None:
        secret = self.login.usable_secret()
        if isinstance(secret, PlainSecret):
            return md5_secret(secret.password, self.login.user)
        return secret if isinstance(secret, Md5Secret) else None
