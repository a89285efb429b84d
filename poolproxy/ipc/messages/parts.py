"""What several subjects are told in terms of."""

from __future__ import annotations

import attrs


@attrs.frozen
class PoolKey:
    """A pool: a database entry of the configuration and the user its servers log in as."""

    database: str
    user: str


@attrs.frozen
class CancelKey:
    """What a CancelRequest carries: the process id and the secret of BackendKeyData."""

    pid: int
    secret: bytes


@attrs.frozen
class Parameter:
    """One ParameterStatus of the server."""

    name: str
    value: str
