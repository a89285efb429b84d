"""Where a client connects."""

from __future__ import annotations

import attrs


@attrs.frozen
class Endpoint:
    """A place to connect to, by trust; ``pid`` is the root of the pooler's process tree."""

    host: str
    port: int
    user: str
    dbname: str
    pid: int | None = None
