"""The closed sets of words in the configuration; each member's value is the word itself."""

from __future__ import annotations

from enum import Enum


class PoolMode(Enum):
    """For how long a client keeps a server connection."""

    SESSION = "session"
    TRANSACTION = "transaction"
    STATEMENT = "statement"


class AuthType(Enum):
    """How clients prove who they are."""

    TRUST = "trust"
    PLAIN = "plain"
    MD5 = "md5"
    SCRAM_SHA_256 = "scram-sha-256"


class Reload(Enum):
    """What a changed setting needs to take effect."""

    LIVE = "reload"
    NEW = "reload, new connections"
    RESTART = "restart"
