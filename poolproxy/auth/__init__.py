"""Who is this? Authentication for both sides, without I/O.

``client`` decides about a client that logs in to the pooler, ``server`` logs the pooler in to
PostgreSQL. Both are fed message bodies and answer with steps; time, random bytes and threads are
the caller's. ``userlist`` reads PgBouncer's auth_file.
"""
