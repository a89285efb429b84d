"""poolproxy: a connection-pooling proxy for PostgreSQL."""

__version__ = "0.1.0"
# The version of PgBouncer whose behaviour, settings and console are followed.
PGBOUNCER_VERSION = "1.25.2"
