"""auth_type = peer: the operating system says who is at the other end of a Unix socket."""

from __future__ import annotations

from poolproxy.auth.exchange import NOT_AUTHORIZED, Accept, ClientExchange, Step, method, reject
from poolproxy.auth.ident import may_be


@method("peer")
class Peer(ClientExchange):
    """Accept a known user whom the client's system user may be; nobody over TCP."""

    def _first(self) -> Step:
        login = self.login
        if login.secret is not None and may_be(login.names, login.user, login.map):
            return Accept()
        return reject(
            "unix socket login rejected",
            "peer wants a Unix socket, a system user of the same name (or a line in auth_ident_file), "
            "and a user that auth_file lists or auth_query finds.",
            NOT_AUTHORIZED,
        )
