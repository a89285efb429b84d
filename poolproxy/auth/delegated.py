"""What pam and ldap have in common: the client sends its password, and others say whether it is right."""

from __future__ import annotations

from poolproxy.auth.exchange import (
    Accept,
    Ask,
    AuthCode,
    ClientExchange,
    Consult,
    Reject,
    Step,
    read_password,
    reject,
)


class Delegated(ClientExchange):
    """``failed``: PgBouncer's words. The user need not be known here; the service decides that too.

    An empty password is refused before anybody is asked: to an LDAP directory it is an anonymous
    log-in, which succeeds (RFC 4513, 5.1.2).
    """

    failed = ""
    hint = ""

    def _first(self) -> Step:
        return Ask(AuthCode.CLEARTEXT_PASSWORD, b"")

    def _feed(self, payload: bytes) -> Step:
        sent = read_password(payload)
        if isinstance(sent, Reject):
            return sent
        self._password = sent.decode("utf-8", "surrogateescape")
        return Consult(self._password)

    def _consulted(self, agrees: bool | None) -> Step:
        if agrees is None:
            hint = "Nobody could be asked whether the password is right; the pooler's log says why."
            return reject(self.failed, hint, reason="auth_service")
        return Accept(password=self._password) if agrees else reject(self.failed, self.hint)
