"""auth_type = trust: no password, but the user must be known."""

from __future__ import annotations

from poolproxy.auth.exchange import NOT_AUTHORIZED, Accept, ClientExchange, Step, method, reject


@method("trust")
class Trust(ClientExchange):
    """Accept every known user, whatever its secret."""

    def _first(self) -> Step:
        if self.login.secret is not None:
            return Accept()
        return reject(
            '"trust" authentication failed',
            "trust lets in the users that auth_file lists or auth_query finds: add the user there.",
            NOT_AUTHORIZED,
        )
