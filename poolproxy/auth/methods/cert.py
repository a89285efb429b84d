"""auth_type = cert: the client's certificate says who it is."""

from __future__ import annotations

from poolproxy.auth.exchange import NOT_AUTHORIZED, Accept, ClientExchange, Step, method, reject
from poolproxy.auth.ident import may_be


@method("cert")
class Cert(ClientExchange):
    """Accept a known user who may be what the verified certificate's common name says."""

    def _first(self) -> Step:
        login = self.login
        if login.secret is not None and may_be(login.names, login.user, login.map):
            return Accept()
        return reject(
            "certificate authentication failed",
            "cert wants TLS with a certificate that client_tls_ca_file verifies, whose common name is the "
            "user (or a line in auth_ident_file), and a user that auth_file lists or auth_query finds.",
            NOT_AUTHORIZED,
        )
