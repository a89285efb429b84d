"""The closed sets of words in the configuration; each member's value is the word itself."""

from __future__ import annotations

from enum import Enum


class PoolMode(Enum):
    """For how long a client keeps a server connection."""

    SESSION = "session"
    TRANSACTION = "transaction"
    STATEMENT = "statement"


class StatePolicy(Enum):
    """What becomes of session state that a client has made outside of session mode."""

    ALLOW = "allow"
    RESET = "reset"
    PIN = "pin"
    ERROR = "error"


class AuthType(Enum):
    """How clients prove who they are."""

    ANY = "any"
    TRUST = "trust"
    PLAIN = "plain"
    MD5 = "md5"
    SCRAM_SHA_256 = "scram-sha-256"
    PEER = "peer"
    CERT = "cert"
    PAM = "pam"
    LDAP = "ldap"
    HBA = "hba"


class AbandonedWork(Enum):
    """What becomes of a server connection whose client has gone amid a query or transaction."""

    ROLLBACK = "rollback"
    CLOSE = "close"


class SslMode(Enum):
    """How much TLS is asked of a connection: libpq's words; ``allow`` means ``prefer``, as in PgBouncer."""

    DISABLE = "disable"
    ALLOW = "allow"
    PREFER = "prefer"
    REQUIRE = "require"
    VERIFY_CA = "verify-ca"
    VERIFY_FULL = "verify-full"

    @property
    def enabled(self) -> bool:
        return self is not SslMode.DISABLE

    @property
    def required(self) -> bool:
        """Whether a connection in the clear is refused."""
        return self not in (SslMode.DISABLE, SslMode.ALLOW, SslMode.PREFER)

    @property
    def verifies(self) -> bool:
        """Whether the peer's certificate must be good."""
        return self in (SslMode.VERIFY_CA, SslMode.VERIFY_FULL)


class Negotiation(Enum):
    """How TLS begins: after PostgreSQL's SSLRequest, or at once (PostgreSQL 17 and later)."""

    POSTGRES = "postgres"
    DIRECT = "direct"


class LogFormat(Enum):
    """What a line of the log is."""

    TEXT = "text"
    JSON = "json"


class SyslogFacility(Enum):
    """syslog(3)'s words for who is speaking."""

    DAEMON = "daemon"
    USER = "user"
    AUTH = "auth"
    AUTHPRIV = "authpriv"
    LOCAL0 = "local0"
    LOCAL1 = "local1"
    LOCAL2 = "local2"
    LOCAL3 = "local3"
    LOCAL4 = "local4"
    LOCAL5 = "local5"
    LOCAL6 = "local6"
    LOCAL7 = "local7"


class LoadBalance(Enum):
    """Which of several hosts of a database comes next: PgBouncer's words."""

    ROUND_ROBIN = "round-robin"
    DISABLE = "disable"


class TargetSession(Enum):
    """What a host must be to be used: libpq's words."""

    ANY = "any"
    READ_WRITE = "read-write"
    READ_ONLY = "read-only"
    PRIMARY = "primary"
    STANDBY = "standby"
    PREFER_STANDBY = "prefer-standby"


class Reload(Enum):
    """What a changed setting needs to take effect."""

    LIVE = "reload"
    NEW = "reload, new connections"
    RESTART = "restart"
