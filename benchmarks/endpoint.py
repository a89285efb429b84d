"""Where a client connects, and how it gets in."""

from __future__ import annotations

import attrs

PASSWORD = "benchmark"


@attrs.frozen
class Access:
    """How clients get in: by trust, or with a password by SCRAM; and whether there is TLS, on both sides of
    a pooler.
    """

    scram: bool = False
    tls: bool = False

    def environment(self) -> dict[str, str]:
        """libpq's. Without TLS it must not be asked for: that is a round trip in each log-in."""
        mode = "require" if self.tls else "disable"
        return {"PGSSLMODE": mode, "PGGSSENCMODE": "disable", "PGPASSWORD": PASSWORD}


TRUST = Access()


@attrs.frozen
class Endpoint:
    """A place to connect to; ``pid`` is the root of the pooler's process tree."""

    host: str
    port: int
    user: str
    dbname: str
    pid: int | None = None
    access: Access = TRUST
